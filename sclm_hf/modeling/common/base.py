"""Base class of every model of the package."""

import inspect

from torch import Tensor
from transformers import PreTrainedModel


class InputName(str):
    """Name of an input that has "label" in it and is no target, such as `batch_labels`.

    transformers' `Trainer` takes every argument of `forward` for a target whose name says that it contains "label".
    Without all of them it reports no loss, and it hands all of them to `compute_metrics`.
    """

    __slots__ = ()

    def __contains__(self, part: str) -> bool:
        return part != "label" and super().__contains__(part)


class SclmModelMixin:
    """What every family adds to transformers' base class; placed before it in the list of bases."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.forward.__signature__ = _with_one_target(inspect.signature(cls.forward))

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """Save weights and configuration under the names that the model uses.

        `save_original_format` defaults to False here: transformers' default of True runs registered weight
        conversions backwards and writes half-converted names.
        """
        return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def frozen_tables(self) -> dict[str, Tensor]:
        """Tensors that outputs depend on and that are not among the weights, by name."""
        return {}


def _with_one_target(signature: inspect.Signature) -> inspect.Signature:
    """The same signature, of which `labels` alone is what transformers takes for a target."""
    inputs = [
        parameter.replace(name=InputName(name)) if "label" in name and name != "labels" else parameter
        for name, parameter in signature.parameters.items()
    ]
    return signature.replace(parameters=inputs)


class SclmPreTrainedModel(SclmModelMixin, PreTrainedModel):
    """Base class of the families that are not built on a model of transformers.

    A family's `_init_weights` is called only for modules that own parameters or buffers themselves: transformers skips
    the containers of models that live outside of it.
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"
    _input_embed_layer = "genes"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
