"""What a classifier says of cells given as tokens, for example without some of their genes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..perturbation.tokens import TokenCell, ragged
from ..running.batches import MAX_TOKENS, halved, is_out_of_memory, refuse_not_finite

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel

    Forward = Callable[[Any, dict[str, Tensor], np.ndarray], Tensor]


class ClassCell(NamedTuple):
    """A cell whose class is explained.

    Attributes:
        number: its number among all cells.
        label: number of the class.
        tokens: its tokens.
        genes: (genes,) where those to score stand among them, ascending.
        n_genes: how many genes it has, scored or not.
    """

    number: int
    label: int
    tokens: TokenCell
    genes: np.ndarray
    n_genes: int

    def without(self, places: np.ndarray) -> "ClassCell":
        """The cell without the tokens at `places`; what is to be scored is not told any more."""
        kept = np.delete(np.arange(self.tokens.ids.size), places)
        return self._replace(tokens=self.tokens.take(kept), genes=kept[:0], n_genes=self.n_genes - len(places))


@dataclass
class ClassReader:
    """Runs cells given as tokens through a classifier, in batches of like length.

    Args:
        loaded: the model and its processor.
        names: (n_cells,) names of all cells.
        batch_labels: (n_cells,) int64, for models that were trained with batch labels.
        batch_size: cells per batch to begin with; halved when memory runs out.
    """

    loaded: "LoadedModel"
    names: Sequence[str]
    batch_labels: np.ndarray | None = None
    batch_size: int = 64

    def log_odds(self, cells: Sequence[ClassCell]) -> np.ndarray:
        """(cells,) float32 log-odds of the class of each against all others."""

        def forward(model: Any, batch: dict[str, Tensor], places: np.ndarray) -> Tensor:
            from ...modeling.common.cpu import fast_on_cpu

            with torch.inference_mode(), fast_on_cpu(model):
                return log_odds(model(**batch).logits, labels_of(cells, places))[:, None]

        return np.array([found[0] for found in self.run(cells, forward)], np.float32)

    def run(self, cells: Sequence[ClassCell], forward: "Forward", *, most: int | None = None) -> list[np.ndarray]:
        """What `forward` gives for each cell.

        Args:
            cells: the cells.
            forward: model, inputs of a batch and the places of its cells -> (batch, …) tensor.
            most: cells per batch at most.

        Returns:
            One array per cell; where it has a value for each token, those of the padding follow.

        Raises:
            SclmError: a single cell does not fit in memory, or a value is not finite.
        """
        lengths = np.array([cell.tokens.ids.size for cell in cells])
        # the longest first, so that a batch that does not fit in memory fails at once
        order, done = np.argsort(-lengths, kind="stable"), 0
        results: list[np.ndarray] = [None] * len(cells)
        while done < len(cells):
            longest = int(lengths[order[done]])
            size = min(self.batch_size, most or self.batch_size, max(1, MAX_TOKENS // longest))
            places = order[done : done + size]
            if (values := self._try(cells, places, forward)) is None:
                self.batch_size = halved(len(places), longest)
                continue
            for place, one in zip(places, values, strict=True):
                results[place] = one
            done += len(places)
        finite = np.array([np.isfinite(one).all() for one in results])
        refuse_not_finite(self.loaded, finite, [self.names[cell.number] for cell in cells])
        return results

    def _try(self, cells: Sequence[ClassCell], places: np.ndarray, forward: "Forward") -> np.ndarray | None:
        """What `forward` gives for a batch; None when memory ran out."""
        model = self.loaded.model
        arrays = self.loaded.processor.padded(ragged([cells[place].tokens for place in places]))
        if self.batch_labels is not None:
            arrays["batch_labels"] = self.batch_labels[[cells[place].number for place in places]]
        try:
            batch = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
            return forward(model, batch, places).float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None


def labels_of(cells: Sequence[ClassCell], places: np.ndarray) -> list[int]:
    """(batch,) numbers of the classes of cells."""
    return [cells[place].label for place in places]


def log_odds(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """(batch,) float32 log-odds of a class against all others.

    Args:
        logits: (batch, classes).
        labels: (batch,) numbers of the classes.
    """
    logits, label = logits.float(), torch.tensor(labels, device=logits.device)[:, None]
    return logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).logsumexp(1)


def gene_mask(cells: Sequence[ClassCell], places: np.ndarray, like: Tensor, special: np.ndarray) -> Tensor:
    """(batch, tokens) bool, where tokens are genes.

    Args:
        cells: the cells.
        places: (batch,) which of them.
        like: (batch, tokens) ids of the batch, padding included.
        special: ids that are no genes.
    """
    mask = np.zeros(like.shape, bool)
    for row, place in enumerate(places):
        ids = cells[place].tokens.ids
        mask[row, : ids.size] = ~np.isin(ids, special)
    return torch.from_numpy(mask).to(like.device)
