"""Attention rollout: the attention of all layers multiplied, from the tokens that a class is read from to the genes.

Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020, arXiv:2005.00928: the mean over heads, half
of it replaced by the identity for the residual connection. How much the class is read from each token is the norm of
the gradient of its log-odds with respect to what the last layer says of the token; where it is read from another
layer, all genes count alike.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.attention import MOST_WEIGHTS, find_attention, watched
from .gradients import frozen, layers_of
from .reading import ClassCell, ClassReader, gene_mask, labels_of, log_odds

REMEDY = "leave `attention` out of `methods` (`--methods`)"


def attention_rollout(reader: ClassReader, cells: Sequence[ClassCell]) -> list[np.ndarray]:
    """(genes,) float32 shares of the genes of each cell, which add up to 1 over all of its genes.

    Args:
        reader: runs the cells.
        cells: the cells.

    Raises:
        ConfigurationError: the model has no attention between each pair of genes.
    """
    loaded = reader.loaded
    modules, last = find_attention(loaded, REMEDY), layers_of(loaded.model)[-1]
    special = np.array(list(loaded.processor.tokenizer.gene_vocabulary.special_tokens.values()))
    longest = max(cell.tokens.ids.size for cell in cells)
    most = max(1, MOST_WEIGHTS // (loaded.model.config.num_attention_heads * longest**2))

    def forward(model: Any, batch: dict[str, Tensor], places: np.ndarray) -> Tensor:
        genes = gene_mask(cells, places, batch["input_ids"], special)
        flow, read = _Flow(), _Read()
        with ExitStack() as stack:
            stack.enter_context(frozen(model))
            stack.enter_context(watched(model, modules, flow.look))
            stack.callback(last.register_forward_hook(read.look).remove)
            stack.enter_context(torch.enable_grad())
            odds = log_odds(model(**batch).logits, labels_of(cells, places)).sum()
        gradient = torch.autograd.grad(odds, read.last, allow_unused=True)[0] if odds.requires_grad else None
        rows = genes.float() if gradient is None else gradient.float().norm(dim=-1)
        shares = (rows[:, None] @ flow.rolled)[:, 0] * genes
        return shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    return [values[cell.genes] for cell, values in zip(cells, reader.run(cells, forward, most=most), strict=True)]


class _Flow:
    """Attention multiplied through the layers, (batch, tokens, tokens), one layer in memory at a time."""

    rolled: Tensor | None = None

    def look(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1].detach().float().mean(1)
        layer = (weights + torch.eye(weights.shape[-1], device=weights.device)) / 2
        self.rolled = layer if self.rolled is None else layer @ self.rolled


class _Read:
    """What the last layer says of each token, (batch, tokens, hidden)."""

    last: Tensor

    def look(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        self.last = states.detach().requires_grad_()
        return (self.last, *output[1:]) if isinstance(output, tuple) else self.last
