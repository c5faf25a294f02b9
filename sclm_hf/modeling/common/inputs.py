"""What every model asks of a batch before it computes anything.

Shapes cost nothing to look at. What only the numbers tell (ids that are no rows of the gene table, cells without a
real position) is looked at on the CPU alone: a GPU would have to finish all work before it could answer, and its own
lookup stops at such ids.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sclm_hf.errors import ConfigurationError

EVERYBODYS_KEYWORDS = frozenset({"num_items_in_batch", "output_attentions", "output_hidden_states", "return_dict"})

ATTENTION_KEYWORDS = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "is_causal"})
"""What transformers' attention reads, where a family hands its keywords on to it."""


def refuse_keywords(model: PreTrainedModel, keywords: Mapping[str, Any], *, also: Collection[str] = ()) -> None:
    """Refuse what `forward` of `model` takes by `**kwargs` and nobody would read. None and False ask for nothing.

    Args:
        model: the one that is called; its heads pass on to it what they do not read themselves.
        keywords: its `**kwargs`.
        also: names that this family reads beside transformers' switches of outputs.

    Raises:
        ConfigurationError: there is such a keyword, or attention weights are asked for where none would come.
    """
    read = EVERYBODYS_KEYWORDS.union(also)
    unread = [
        name for name, value in keywords.items() if value is not None and value is not False and name not in read
    ]
    if unread:
        names = ", ".join(f"`{name}`" for name in unread)
        raise ConfigurationError(
            f"`{type(model).__name__}` does not read {names}, and its result would be that without: leave it out. It "
            f"reads {', '.join(f'`{name}`' for name in _arguments(model))}."
        )
    if keywords.get("output_attentions", model.config.output_attentions):
        _refuse_missing_attentions(model)


def _arguments(model: PreTrainedModel) -> list[str]:
    named = inspect.signature(type(model).forward).parameters.values()
    return [argument.name for argument in named if argument.name != "self" and argument.kind != argument.VAR_KEYWORD]


def _refuse_missing_attentions(model: PreTrainedModel) -> None:
    if "attentions" not in (model._can_record_outputs or {}):
        raise ConfigurationError(
            f"`{type(model).__name__}` has no attention weights to give: leave `output_attentions` out."
        )
    implementation = model.config._attn_implementation
    if implementation not in (None, "eager"):
        raise ConfigurationError(
            f"`output_attentions` needs attention that keeps its weights, which '{implementation}' does not: call "
            "`model.set_attn_implementation('eager')` first."
        )


def check_cells(
    model: PreTrainedModel,
    *,
    inputs_embeds: Tensor | None = None,
    longest: int | None = None,
    **tensors: Tensor | None,
) -> None:
    """Refuse a batch that is none.

    Args:
        model: whose configuration tells the size of the gene table.
        inputs_embeds: `(batch, genes, size of an embedding)`.
        longest: how many positions the model has, where it has positions.
        tensors: those that are `(batch, genes)`, by the names that users know; None where one is not given.

    Raises:
        ConfigurationError: shapes differ from one another or there is nothing in them, cells are too long, ids are no
            rows of the gene table, or a cell has no real position.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    if inputs_embeds is not None:
        shapes["inputs_embeds"] = tuple(inputs_embeds.shape[:-1])
    name, shape = next(iter(shapes.items()))
    if len(shape) != 2 or 0 in shape:
        raise ConfigurationError(f"`{name}` must be (batch, genes), with at least one of each; got {shape}.")
    for other, its_shape in shapes.items():
        if its_shape != shape:
            raise ConfigurationError(
                f"`{other}` must be (batch, genes) as `{name}` is, {shape}; got {its_shape}: take those that one call "
                "of the processor makes."
            )
    if longest is not None and shape[1] > longest:
        raise ConfigurationError(
            f"Cells of {shape[1]:,} tokens do not fit the model, which reads {longest:,}: set `max_length` of the "
            "processor to that."
        )
    if given.get("input_ids") is not None:
        check_ids(model, given["input_ids"])
    if given.get("attention_mask") is not None:
        _check_mask(given["attention_mask"])


def check_ids(model: PreTrainedModel, ids: Tensor, name: str = "input_ids") -> None:
    """Refuse ids that are no rows of the gene table.

    Raises:
        ConfigurationError: there are some.
    """
    if ids.dtype not in (torch.int32, torch.int64):
        raise ConfigurationError(f"`{name}` must be ids of genes, int64; got {ids.dtype}.")
    if can_look(ids) and ids.numel():
        smallest, largest = (int(number) for number in ids.aminmax())
        if smallest < 0 or largest >= model.config.vocab_size:
            raise ConfigurationError(
                f"`{name}` must be rows of the gene table, 0 to {model.config.vocab_size - 1}; they reach from "
                f"{smallest} to {largest}: encode cells with the tokenizer or processor of this model, and resize the "
                "model to genes that were added."
            )


def check_ranked_cells(
    model: PreTrainedModel,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> None:
    """[`check_cells`] and [`check_positions`] for the inputs of transformers' BERT; a mask of each position passes.

    Raises:
        ConfigurationError: the batch is none.
    """
    longest = model.config.max_position_embeddings
    mask = None if attention_mask is not None and attention_mask.ndim == 4 else attention_mask
    given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}
    check_cells(model, inputs_embeds=inputs_embeds, longest=None if position_ids is not None else longest, **given)
    if position_ids is not None:
        check_positions(position_ids, (inputs_embeds if input_ids is None else input_ids).shape[1], longest)


def check_positions(position_ids: Tensor, length: int, longest: int) -> None:
    """Refuse positions of `length` tokens that are none of the `longest` that the model has.

    Raises:
        ConfigurationError: so it is.
    """
    if position_ids.ndim != 2 or position_ids.shape[1] != length:
        raise ConfigurationError(
            f"`position_ids` must be (batch, genes), with {length} genes as the cells have; got "
            f"{tuple(position_ids.shape)}."
        )
    if can_look(position_ids):
        smallest, largest = (int(number) for number in position_ids.aminmax())
        if smallest < 0 or largest >= longest:
            raise ConfigurationError(
                f"`position_ids` must be 0 to {longest - 1}, the positions that the model has; they reach from "
                f"{smallest} to {largest}: leave them out, or count the positions of each cell from 0."
            )


def _check_mask(attention_mask: Tensor) -> None:
    if can_look(attention_mask):
        empty = (~attention_mask.bool().any(dim=1)).nonzero()[:5, 0].tolist()
        if empty:
            raise ConfigurationError(
                f"Cells have no real position, `attention_mask` being 0 all over: numbers {empty} of the batch. Leave "
                "them out."
            )


def can_look(tensor: Tensor) -> bool:
    """Whether its numbers are at hand, and code may depend on them."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def exactly_one(**tensors: Tensor | None) -> None:
    """Refuse a call that gives none of some tensors, or more than one.

    Raises:
        ConfigurationError: so it is.
    """
    if sum(tensor is not None for tensor in tensors.values()) != 1:
        raise ConfigurationError(f"Pass exactly one of {' and '.join(f'`{name}`' for name in tensors)}.")


def check_expression(expression_values: Tensor, num_genes: int | None, *, least: int = 1) -> None:
    """Refuse the expression of cells that is not (cells, genes) with the genes of a model.

    Args:
        expression_values: what the model was given.
        num_genes: how many genes it reads; None = at least `least`.
        least: see above.

    Raises:
        ConfigurationError: it has another shape.
    """
    shape = tuple(expression_values.shape)
    fits = len(shape) == 2 and (shape[1] >= least if num_genes is None else shape[1] == num_genes)
    if not fits:
        genes = f"at least {least}" if num_genes is None else num_genes
        raise ConfigurationError(
            f"`expression_values` must be (cells, {genes} genes), as the processor makes them; got {shape}."
        )
