"""Which family a checkpoint is of, and which class opens it."""

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError
from ..registry import COMPOSITES, FAMILIES, Composite, Family
from ..registry.specialists import SPECIALISTS, Specialist
from .files import ADAPTED_CONFIG, ADAPTER_CONFIG, find_file, read_settings
from .kinds import foreign_family
from .processors import load_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
    from ..tokenization.processing_cell import CellProcessor


def read_config(name: str, revision: Any = None) -> dict[str, Any]:
    """The configuration of a model; of an adapter that of the adapted model.

    Raises:
        CheckpointError: there is none.
    """
    file = "config.json" if find_file(name, ADAPTER_CONFIG, revision) is None else ADAPTED_CONFIG
    settings = read_settings(name, file, revision)
    if settings is None:
        raise CheckpointError(
            f"`{name}` is not a checkpoint folder or repository that can be read: it holds no `{file}`."
        )
    return settings


def family_of(name: str, revision: Any = None) -> tuple[Family | Composite, "CellProcessor | None"]:
    """The family of a checkpoint, or what its models of cells and text are called.

    Of a stock model it is that of its processor, which is returned too.

    Raises:
        CheckpointError: it is of no family.
    """
    model_type = read_config(name, revision).get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type], None
    if isinstance(model_type, str) and model_type in COMPOSITES:
        return COMPOSITES[model_type], None
    try:
        processor = load_processor(name, revision)
        family = FAMILIES[processor.feature_extractor.family]
        is_ours = family.built_on is not None and family.built_on == model_type
    except (CheckpointError, KeyError):
        is_ours = False
    if not is_ours:
        raise foreign_family(f"`{name}`", model_type)
    return family, processor


def encoder_family(name: str, revision: Any = None) -> Family:
    """The family of a checkpoint; of a model of cells and text, that of its cell encoder.

    Raises:
        CheckpointError: it is of no family, or a model of cells and text lacks its processor.
    """
    family, _ = family_of(name, revision)
    if isinstance(family, Family):
        return family
    return FAMILIES[load_processor(name, revision).feature_extractor.family]


def choose_class(
    name: str, kind: "str | type[PreTrainedModel]", revision: Any = None
) -> tuple["type[PreTrainedModel]", dict[str, Any]]:
    """The class that opens a checkpoint, and the settings that the configuration of a stock model cannot hold.

    Args:
        name: folder or repository.
        kind: see [`class_of`].
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: it is of no family.
        ConfigurationError: the family has no such head.
    """
    model_type = read_config(name, revision).get("model_type")
    if isinstance(model_type, str) and (joined := (COMPOSITES | SPECIALISTS).get(model_type)) is not None:
        return class_of(joined, kind), {}
    family, processor = family_of(name, revision)
    model_class = class_of(family, kind)
    if processor is None:
        return model_class, {}
    return model_class, told_by(processor.feature_extractor, family)


def told_by(encoding: "ExpressionFeatureExtractor", family: Family) -> dict[str, Any]:
    """The settings of a family's configuration that its encoding tells."""
    return {setting: getattr(encoding, parameter) for setting, parameter in family.told_by_encoding.items()}


def class_of(family: Family | Composite | Specialist, kind: "str | type[PreTrainedModel]") -> "type[PreTrainedModel]":
    """A class of models of a family.

    Args:
        family: the family.
        kind: the class itself; its name; or the name of the Auto class that says which head is wanted.

    Raises:
        ConfigurationError: the family has no such class.
    """
    if isinstance(kind, type):
        return kind
    if kind not in family.auto_classes and kind not in family.models:
        instead = getattr(family, "instead_of_heads", "")
        raise ConfigurationError(
            f"{family.title} has no model for `{kind}`; it has those for {', '.join(family.auto_classes)}."
            f"{' ' if instead else ''}{instead}"
        )
    return getattr(importlib.import_module(family.modeling_module), family.auto_classes.get(kind, kind))
