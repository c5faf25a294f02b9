"""What a classifier that reads a number for each gene says of cells, and scores of their genes.

The methods are those of `gradients`, `knock_outs` and `rollout`, which read tokens.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.attention import MOST_WEIGHTS
from .gradients import frozen
from .reading import log_odds


class ValueReader:
    """Runs cells given as numbers.

    Args:
        model: the classifier, whose input is `expression_values`.
        batch_size: cells per batch.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size

    @property
    def has_attention(self) -> bool:
        """Whether the model tells the attention between its genes."""
        return "output_attentions" in inspect.signature(type(self._model).forward).parameters

    def logits(self, values: np.ndarray) -> np.ndarray:
        """(cells, classes)."""
        return self._run(lambda part, labels: self._model(expression_values=part).logits.float(), values)

    def probabilities(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(cells,) of the class of each."""
        return self._run(lambda part, labels: self._odds(part, labels).sigmoid(), values, labels)

    def knock_outs(self, values: np.ndarray, labels: np.ndarray, scored: np.ndarray) -> np.ndarray:
        """(cells, genes) log-odds lost when a gene is set to 0; 0 for genes that are not to be scored."""
        whole = self._run(self._odds, values, labels)
        scores = np.zeros(values.shape, np.float32)
        for row, (cell, genes) in enumerate(zip(values, scored, strict=True)):
            places = np.flatnonzero(genes)
            if not len(places):
                continue
            edited = np.tile(cell, (len(places), 1))
            edited[np.arange(len(places)), places] = 0
            scores[row, places] = whole[row] - self._run(self._odds, edited, np.full(len(places), labels[row]))
        return scores

    def integrated_gradients(
        self, values: np.ndarray, labels: np.ndarray, start: np.ndarray, n_steps: int
    ) -> tuple[np.ndarray, float]:
        """Scores of genes on the way from one cell to all others.

        Args:
            values: (cells, genes).
            labels: (cells,) numbers of the classes.
            start: (genes,) where the way begins.
            n_steps: midpoints at which gradients are taken.

        Returns:
            (cells, genes) scores; and the part of the change of the log-odds that they miss.
        """
        origin = torch.from_numpy(start).to(self._model.device)

        def forward(part: Tensor, labels: Tensor) -> Tensor:
            total = torch.zeros_like(part)
            with frozen(self._model), torch.enable_grad():
                for step in range(n_steps):
                    point = torch.lerp(origin, part, (step + 0.5) / n_steps).requires_grad_()
                    total += torch.autograd.grad(self._odds(point, labels).sum(), point)[0]
            scores = (part - origin) * total / n_steps
            change = self._odds(part, labels) - self._odds(origin.expand_as(part), labels)
            return torch.cat([scores, change[:, None]], dim=1)

        found = self._run(forward, values, labels)
        scores, changes = found[:, :-1], found[:, -1]
        missed = np.abs(scores.sum(axis=1, dtype=np.float64) - changes).sum()
        return scores, float(missed / max(np.abs(changes).sum(), np.finfo(np.float32).tiny))

    def rollout(self, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[list[float]]]:
        """Attention multiplied through the layers, from what the class is read from.

        Returns:
            (cells, genes) shares, which add up to 1; and the entropy of attention by layer and head, a mean over genes
            and cells, as part of that of even attention.
        """
        n_genes, config = values.shape[1], self._model.config
        most = max(1, MOST_WEIGHTS // (config.num_attention_heads * n_genes**2))
        entropies = np.zeros((config.num_hidden_layers, config.num_attention_heads))

        def forward(part: Tensor, labels: Tensor) -> Tensor:
            with frozen(self._model), torch.enable_grad():
                output = self._model(expression_values=part.requires_grad_(), output_attentions=True)
                odds = log_odds(output.logits, labels.tolist()).sum()
                read = torch.autograd.grad(odds, output.cell_embedding)[0].abs()
            shares = read / read.sum(1, keepdim=True).clamp_min(torch.finfo(read.dtype).tiny)
            for number in reversed(range(config.num_hidden_layers)):
                weights = output.attentions[number].detach().float()
                entropies[number] += (
                    (torch.special.entr(weights).sum(-1).mean(-1) / np.log(n_genes)).sum(0).cpu().numpy()
                )
                # where a gene does not look at itself its weights do not add up to 1
                mean = weights.mean(1)
                mean = mean / mean.sum(-1, keepdim=True)
                shares = (shares + (shares[:, None] @ mean)[:, 0]) / 2
            return shares

        scores = self._run(forward, values, labels, most=most)
        return scores, (entropies / len(values)).tolist()

    def _odds(self, part: Tensor, labels: Tensor) -> Tensor:
        return log_odds(self._model(expression_values=part).logits, labels.tolist())

    @torch.no_grad()
    def _run(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        values: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        most: int | None = None,
    ) -> np.ndarray:
        """What `forward` gives for each cell, a few at a time."""
        size, device = min(self._batch_size, most or self._batch_size), self._model.device
        numbers = np.zeros(len(values), np.int64) if labels is None else labels
        found = []
        for first in range(0, len(values), size):
            part = torch.tensor(values[first : first + size], dtype=torch.float32, device=device)
            found.append(forward(part, torch.from_numpy(numbers[first : first + size])).float().cpu().numpy())
        return np.concatenate(found)
