"""Models that predict expression after perturbations: opened, started from a pre-trained model, or new."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError, unknown_name
from ..registry import FAMILIES, Family, get_family
from .families import encoder_family, read_config
from .new_models import new_config, new_tokenizer, processor_class
from .processors import load_processor
from .weights import open_model, require_finite

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from ..modeling.cell_set.modeling_cell_set import CellSetForPerturbation
    from ..tokenization.processing_cell import CellProcessor

CELL_SET = "cell_set"
"""`model_type` of the set model."""

NEW_MODULES = ("perturbations", "coefficient_decoder", "bias_decoder", "cell_expression_decoder")
"""What a pre-trained model lacks to predict perturbations; training starts these at random."""


def predicts_perturbations(name: str, revision: Any = None) -> bool:
    """Whether the model of a folder or repository was trained to predict perturbations.

    Raises:
        CheckpointError: there is no such model.
    """
    architectures = read_config(name, revision).get("architectures") or ()
    return any(str(one).endswith("ForPerturbation") for one in architectures)


def reads_sets(model: Any) -> bool:
    """Whether a loaded model is the set model."""
    return model.config.model_type == CELL_SET


def open_perturbation_model(name: str, revision: Any = None) -> "tuple[PreTrainedModel, CellProcessor | None]":
    """Open a trained model, and the processor of one that reads tokens.

    Raises:
        CheckpointError: it cannot be read, is incomplete, or no such model.
    """
    if read_config(name, revision).get("model_type") == CELL_SET:
        return _open_set_model(name, revision), None
    family = _able(name, revision)
    return open_model(name, family.perturbation_model, revision=revision), load_processor(name, revision)


def start_perturbation_model(name: str, revision: Any = None) -> "tuple[PreTrainedModel, CellProcessor]":
    """A pre-trained model with new decoders, and its processor for normalised values of all genes.

    Raises:
        CheckpointError: it cannot be read, or its family has no such model.
    """
    family = _able(name, revision)
    model = open_model(name, family.perturbation_model, revision=revision, may_lack=NEW_MODULES)
    processor = load_processor(name, revision)
    encoding = processor.feature_extractor.changed(**family.perturbation_encoding)
    return model, type(processor)(encoding, processor.tokenizer)


def new_perturbation_model(
    family: str, genes: Iterable[str], settings: Mapping[str, Any]
) -> "tuple[PreTrainedModel, CellProcessor]":
    """A model of `family` with random weights, and its processor.

    Args:
        family: name of the family.
        genes: names of its genes.
        settings: what the configuration says.

    Raises:
        ConfigurationError: the family has no such model, or no such setting.
    """
    known = get_family(family)
    if not known.perturbation_model:
        raise ConfigurationError(f"{known.title} has no model that predicts perturbations; {_those_able()} has.")
    extractor = importlib.import_module("sclm_hf.tokenization.feature_extraction_expression")
    encoding = extractor.ExpressionFeatureExtractor.for_family(family, **known.perturbation_encoding)
    processor = processor_class(family)(encoding, new_tokenizer(family, genes))
    model_class = getattr(importlib.import_module(known.modeling_module), known.perturbation_model)
    return model_class(new_config(family, processor, settings)), processor


def new_set_model(
    genes: Sequence[str], perturbed_genes: Sequence[str], features: "np.ndarray", settings: Mapping[str, Any]
) -> "CellSetForPerturbation":
    """A set model with random weights.

    Args:
        genes: names of the genes that it reads and predicts.
        perturbed_genes: names of the genes whose perturbation it can predict.
        features: (perturbed genes, size) their features.
        settings: what the configuration says.

    Raises:
        ConfigurationError: the configuration has no such setting.
    """
    import dataclasses

    import torch

    from ..modeling.cell_set.configuration_cell_set import CellSetConfig
    from ..modeling.cell_set.modeling_cell_set import CellSetForPerturbation

    valid = [field.name for field in dataclasses.fields(CellSetConfig)]
    for name in settings:
        if name not in valid:
            raise unknown_name(name, valid, " in `model_config`")
    size = features.shape[1]
    config = CellSetConfig(
        genes=list(genes), perturbed_genes=list(perturbed_genes), **{"feature_size": size, **settings}
    )
    model = CellSetForPerturbation(config)
    with torch.no_grad():
        model.gene_features.copy_(torch.from_numpy(features))
    return model


def _open_set_model(name: str, revision: Any) -> "CellSetForPerturbation":
    from ..logging import quiet_transformers
    from ..modeling.cell_set.modeling_cell_set import CellSetForPerturbation
    from .files import damage_is_told, require_readable

    require_readable(name, revision)
    with damage_is_told(name), quiet_transformers():
        model, info = CellSetForPerturbation.from_pretrained(
            name, revision=revision, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if info["missing_keys"]:
        raise CheckpointError(f"`{name}` lacks weights, for example `{sorted(info['missing_keys'])[0]}`.")
    require_finite(name, model)
    return model.eval()


def _able(name: str, revision: Any) -> Family:
    family = encoder_family(name, revision)
    if not family.perturbation_model:
        raise CheckpointError(
            f"`{name}` is a model of {family.title}, which predicts no perturbations; {_those_able()} does."
        )
    return family


def _those_able() -> str:
    return ", ".join(family.title for family in FAMILIES.values() if family.perturbation_model)
