"""Models from checkpoints: of the right class, whole, finite, and running nothing that a checkpoint brings."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import CheckpointError
from ..logging import counted, get_logger, quiet_transformers
from ..modeling.common.soundness import is_finite, number_kind, require_plausible, without_memory
from ..registry import FAMILIES
from ..registry.specialists import SPECIALISTS
from .families import choose_class, read_config
from .files import Stored, damage_is_told, read_headers, require_readable, weight_files
from .names import resolve_name

logger = get_logger(__name__)

_MOST_NEW = 2**26
"""Numbers that a checkpoint may lack, as those of a new head."""


def open_model(
    name: str,
    kind: str | type[PreTrainedModel],
    *,
    revision: Any = None,
    dtype: torch.dtype | None = None,
    config: PreTrainedConfig | None = None,
    new_head: bool = False,
    may_lack: tuple[str, ...] = (),
    **settings: Any,
) -> PreTrainedModel:
    """Open the model of a folder or repository; nothing of it is run, and nothing is left at random unasked.

    Args:
        name: folder or repository.
        kind: the class, its name, or the name of the Auto class that says which head is wanted.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights; as stored unless given.
        config: the configuration, instead of that of the checkpoint.
        new_head: what is not part of the encoder may be missing or of another shape, and then starts at random.
        may_lack: names of modules that may do so as well.
        **settings: changes to the configuration.

    Raises:
        CheckpointError: it cannot be read; is of another family; its weights are missing, of another shape or kind, or
            not finite.
        HubError: the Hub cannot be reached.
        ConfigurationError: the family has no such head.
    """
    revision = resolve_name(name, revision)
    require_readable(name, revision)
    stored = read_headers(weight_files(name, revision))
    with damage_is_told(name):
        model_class, fitting = choose_class(name, kind, revision)
        shapes = {key: one.shape for key, one in stored.items()}
        require_plausible(name, read_config(name, revision), shapes)
        if config is None:
            config = model_class.config_class.from_pretrained(name, revision=revision, **(fitting | settings))
            # those of all families are fields of none
            config.update({key: value for key, value in settings.items() if not hasattr(config, key)})
        require_plausible(name, config.to_dict(), shapes)
        _require_fit(name, model_class, config, stored)
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                revision=revision,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    heads = (FAMILIES | SPECIALISTS)[model.config.model_type].classification_head if new_head else ()
    allowed = (*may_lack, *heads)
    _require_whole(name, model, info, allowed, new_head=new_head)
    if new_head:
        _say_what_is_random(name, info, allowed)
    require_finite(name, model)
    return model


def _require_fit(name: str, model_class: type[PreTrainedModel], config: Any, stored: dict[str, Stored]) -> None:
    """Refuse weights of another kind of number, and a model far larger than its weights, before memory is taken."""
    model = without_memory(model_class, config)
    prefix, new = f"{model.base_model_prefix}.", 0
    for key, tensor in model.state_dict().items():
        there = stored.get(key) or stored.get(f"{prefix}{key}") or stored.get(key.removeprefix(prefix))
        if there is not None and there.kind != number_kind(tensor):
            raise CheckpointError(
                f"`{key}` of `{name}` holds {there.kind} numbers; expected {number_kind(tensor)} ones: the file is "
                "damaged, or of another model."
            )
        new += 0 if there is not None and there.shape == tuple(tensor.shape) else tensor.numel()
    held = sum(math.prod(one.shape) for one in stored.values())
    if new > max(_MOST_NEW, held):
        raise CheckpointError(
            f"The configuration of `{name}` asks for {new:,} numbers that its weights, {held:,} numbers, do not hold: "
            "it does not belong to them."
        )


def _require_whole(
    name: str, model: PreTrainedModel, info: dict[str, Any], allowed: tuple[str, ...], *, new_head: bool
) -> None:
    """Refuse a model that has weights of its own making, other than those asked for."""

    def may_be_new(key: str) -> bool:
        in_base = model.base_model is model or key.startswith(f"{model.base_model_prefix}.")
        return (new_head and not in_base) or any(f".{module}." in f".{key}" for module in allowed)

    if mismatched := sorted(entry for entry in info["mismatched_keys"] if not may_be_new(entry[0])):
        key, found, expected = mismatched[0]
        raise CheckpointError(
            f"`{name}` holds {counted(len(mismatched), 'weight')} of another shape than its configuration says, for "
            f"example `{key}` {tuple(found)} instead of {tuple(expected)}."
        )
    if missing := sorted(key for key in info["missing_keys"] if not may_be_new(key)):
        advice = "" if any(key.startswith(f"{model.base_model_prefix}.") for key in missing) else _ADVICE
        raise CheckpointError(
            f"`{name}` lacks {counted(len(missing), 'weight')} that {type(model).__name__} needs, for example "
            f"`{missing[0]}`; what is missing would be random.{advice}"
        )


def _say_what_is_random(name: str, info: dict[str, Any], heads: tuple[str, ...]) -> None:
    """Say in which modules training starts at random; louder where it throws away what the checkpoint holds."""
    replaced = {key for key, *_ in info["mismatched_keys"]}
    keys = replaced | set(info["missing_keys"])
    # a pooler is part of the encoder
    found = {next((head for head in heads if f".{head}." in f".{key}"), key.partition(".")[0]) for key in keys}
    modules = [f"`{module}`" for module in sorted(found)]
    says = "Training starts at random in %s, which `%s` %s."
    if replaced:
        logger.warning(says, ", ".join(modules), name, "holds in another shape")
    elif modules:
        logger.info(says, ", ".join(modules), name, "does not hold")


_ADVICE = " Fine-tune it first, for example with `sclm-hf finetune`."


def require_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        CheckpointError: names the first such tensor.
    """
    tensors = dict(model.state_dict())
    if hasattr(model, "frozen_tables"):
        tensors |= model.frozen_tables()
    for key, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(
                f"`{key}` of `{name}` holds numbers that are NaN or infinite: the file is damaged, or its training "
                "went wrong."
            )
