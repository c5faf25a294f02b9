"""Integrated gradients of the log-odds of a class with respect to what the first layer reads of each gene.

Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017, arXiv:1703.01365. What the first
layer reads is the sum of a gene's embedding and those of its value or its position, so that one score stands for both.
The way begins where every gene is the mean of the cell's genes: from the origin, layers that normalise make nearly all
of the change in the first step, which the gradients miss.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .reading import ClassCell, ClassReader, gene_mask, labels_of, log_odds


def integrated_gradients(
    reader: ClassReader, cells: Sequence[ClassCell], n_steps: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Scores of the genes of cells.

    Args:
        reader: runs them.
        cells: the cells.
        n_steps: midpoints of the way to the cell at which gradients are taken.

    Returns:
        (genes,) float32 of each cell; (cells,) sums over all of its genes; and (cells,) the differences of log-odds
        to which these converge with more steps.
    """
    layer = layers_of(reader.loaded.model)[0]
    special = np.array(list(reader.loaded.processor.tokenizer.gene_vocabulary.special_tokens.values()))

    def forward(model: Any, batch: dict[str, Tensor], places: np.ndarray) -> Tensor:
        labels, genes = labels_of(cells, places), gene_mask(cells, places, batch["input_ids"], special)[..., None]

        def odds(scale: float) -> tuple[Tensor, _Scaled]:
            with _scaled(layer, genes, scale) as seen:
                return log_odds(model(**batch).logits, labels), seen

        total: Tensor | float = 0.0
        with frozen(model), torch.enable_grad():
            for step in range(n_steps):
                found, seen = odds((step + 0.5) / n_steps)
                total = total + torch.autograd.grad(found.sum(), seen.scaled)[0].float()
        with torch.no_grad():
            (nothing, _), (whole, seen) = odds(0.0), odds(1.0)
        scores = ((seen.whole - seen.mean).float() * total * genes).sum(-1) / n_steps
        return torch.cat([scores, scores.sum(1, keepdim=True), (whole - nothing)[:, None]], dim=1)

    found = reader.run(cells, forward)
    scores = [values[cell.genes] for cell, values in zip(cells, found, strict=True)]
    return scores, np.array([values[-2] for values in found]), np.array([values[-1] for values in found])


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of an encoder; what the first reads is what is known of each token alone."""
    kind = model._can_record_outputs["hidden_states"]
    kinds = tuple(getattr(one, "target_class", one) for one in (kind if isinstance(kind, list) else [kind]))
    return [module for module in model.modules() if isinstance(module, kinds)]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take no gradients with respect to weights, which would keep what all layers say in memory."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


class _Scaled:
    """What the first layer reads, (batch, tokens, hidden).

    Attributes:
        whole: of the cell.
        mean: (batch, 1, hidden) mean of its genes.
        scaled: with the difference of each gene from the mean scaled.
    """

    whole: Tensor
    mean: Tensor
    scaled: Tensor


@contextmanager
def _scaled(layer: nn.Module, genes: Tensor, scale: float) -> Iterator[_Scaled]:
    """Let a layer read genes nearer to their mean, and everything else as it is."""
    seen = _Scaled()

    def look(module: nn.Module, inputs: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        seen.whole = (inputs[0] if inputs else keywords["hidden_states"]).detach()
        seen.mean = (seen.whole * genes).sum(1, keepdim=True) / genes.sum(1, keepdim=True)
        scaled = torch.where(genes, torch.lerp(seen.mean, seen.whole, scale), seen.whole)
        seen.scaled = scaled.requires_grad_(torch.is_grad_enabled())
        if inputs:
            return (seen.scaled, *inputs[1:]), keywords
        return inputs, {**keywords, "hidden_states": seen.scaled}

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
