"""Base class of every model of the package."""

import inspect
import re

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .gene_bag import GeneBag, has_gene_bag
from .probe import Probe, has_common_heads, probe_leaves

_COMMON_HEADS = r"^(probe|gene_bag)\."


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

    random_modules: tuple[str, ...] = ()
    """Modules that started random when the model was opened, because its checkpoint lacks them."""

    embeds_cells_alone = False
    """Whether `forward` takes `cell_embedding_only`, which leaves out what the cell embedding does not need."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.forward.__signature__ = _with_one_target(inspect.signature(cls.forward))

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        # what is changed at loading, or by hand, was not looked at
        config.validate()
        if self._auto_class is None:
            # the folder that it came from brought code; what is saved will not
            vars(config).pop("auto_map", None)
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As transformers', and the model knows afterwards what its checkpoint lacked (`random_modules`)."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        model.random_modules = _random_modules(model, absent)
        return (model, info) if output_loading_info else model

    def post_init(self):
        self._add_common_heads()
        super().post_init()
        # quantisers leave these in float: layers that read numbers as they are, and heads, which may start random
        heads = [name for name, _ in self.named_children() if name != self.base_model_prefix]
        self._keep_in_fp32_modules |= {r"(.*\.)?embeddings", *(heads if self.base_model is not self else ())}
        # an encoder is opened from the folder of a classifier too; a classifier would hide that it lost its own
        ignored = set(self._keys_to_ignore_on_load_unexpected or ()) - {_COMMON_HEADS}
        self._keys_to_ignore_on_load_unexpected = ignored | ({_COMMON_HEADS} if self.base_model is self else set())

    def _add_common_heads(self):
        leaves = probe_leaves(self.config)
        self.probe = self.gene_bag = None
        if not has_common_heads(type(self)):
            return
        if has_gene_bag(self.config):
            self.gene_bag = GeneBag(self.config.vocab_size, self.config.num_labels)
        if leaves is None:
            return
        self.probe = Probe(self.classified_size + len(leaves), self.config.num_labels, len(leaves))
        if not leaves:
            self.classifier = None

    @property
    def classified_size(self) -> int:
        """Size of the `cell_embedding` that a classifier of cells returns."""
        return self.config.cell_embedding_size

    @property
    def returned_size(self) -> int:
        """Size of the `cell_embedding` that a classifier of cells without a probe returns."""
        return self.config.cell_embedding_size

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Probe):
            init.zeros_(module.mean)
            init.ones_(module.deviation)
        elif isinstance(module, GeneBag):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    def _get_dtype_plan(self, dtype):
        # what quantisers leave alone is in half precision with the rest, where that is asked for
        return {}

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The name by which peft asks for `is_activation_checkpointing`, and of which transformers would warn."""
        return self.is_activation_checkpointing

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """Save weights and configuration under the names that the model uses.

        `save_original_format` defaults to False here: transformers' default of True runs registered weight
        conversions backwards and writes half-converted names.
        """
        return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def embed_genes(self, input_ids: Tensor) -> Tensor:
        """The embeddings of genes that do not depend on a cell, `(genes, hidden)`, as the model adds values to them.

        Args:
            input_ids: `(genes,)` ids of genes.
        """
        return self.get_input_embeddings()(input_ids)

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
    _untrained: tuple[str, ...] = ()

    @property
    def untrained(self) -> tuple[str, ...]:
        """Regular expressions of names of parameters that stay as they are: no loss of this class reaches them."""
        return self._untrained

    def freeze_untrained(self) -> None:
        for name, parameter in self.named_parameters():
            if any(re.match(pattern, name) for pattern in self.untrained):
                parameter.requires_grad_(False)

    def post_init(self):
        super().post_init()
        self.freeze_untrained()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # loading makes every parameter trainable
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_untrained()
        return loaded


class PlainPreTrainedModel(SclmPreTrainedModel):
    """Base class of models without attention that transformers could replace, and without layers to recompute."""

    supports_gradient_checkpointing = False
    _supports_sdpa = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False


def _random_modules(model: nn.Module, absent: set[str]) -> tuple[str, ...]:
    """The largest modules that hold nothing but `absent` tensors, where these were drawn at random."""
    tensors = model.state_dict(keep_vars=True)
    modules = dict(model.named_modules())
    found = set()
    for name in absent & tensors.keys():
        # zeros and ones are the same at every opening
        if not tensors[name].is_meta and (tensors[name] == tensors[name].flatten()[:1]).all():
            continue
        largest = outer = name.rpartition(".")[0]
        while outer := outer.rpartition(".")[0]:
            if not all(f"{outer}.{inner}" in absent for inner in modules[outer].state_dict()):
                break
            # a list of modules has no forward of its own
            if not isinstance(modules[outer], (nn.ModuleList, nn.ModuleDict)):
                largest = outer
        found.add(largest)
    return tuple(sorted(found))
