"""Cells through the partners of a classifier."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...opening.partners import MODEL, Partner, combined, logarithms
from .batches import run_cells, run_rows
from .prepared_cells import PreparedCells, prepare_cells

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from .settings import RunSettings


class PartnerRuns:
    """The partners of a classifier, each with the cells mapped to its own genes.

    Args:
        loaded: the classifier.
        cells: its cells.
        settings: species, batch size and seed.

    Raises:
        SclmError: as for [`prepare_cells`].
    """

    def __init__(self, loaded: "LoadedModel", cells: PreparedCells, settings: "RunSettings") -> None:
        self._partners, self._settings = loaded.partners, settings
        partners = self._partners.partners if self._partners else ()
        self._runs = [(one, prepare_cells(cells.source, one.loaded, species=settings.species)) for one in partners]
        self._whole: dict[str, np.ndarray] = {}

    def combine(self, cells: slice | np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """(cells, n_labels) float32 probabilities of the classifier and its partners together.

        Args:
            cells: which cells.
            probabilities: (cells, n_labels) of the classifier alone.
        """
        if not self._runs:
            return probabilities
        parts = {MODEL: logarithms(probabilities)}
        for partner, prepared in self._runs:
            parts[partner.name] = logarithms(self._run(partner, prepared, cells))
        return combined(parts, self._partners.weights).astype(np.float32)

    def _run(self, partner: Partner, prepared: PreparedCells, cells: slice | np.ndarray) -> np.ndarray:
        settings = self._settings
        if prepared.samples is None:
            rows = np.arange(len(prepared.lengths))[cells]
            return run_rows(
                partner.loaded, prepared, rows, probabilities_of, batch_size=settings.batch_size, seed=settings.seed
            )
        # a sample may have cells in any block
        if partner.name not in self._whole:
            self._whole[partner.name] = run_cells(
                partner.loaded, prepared, probabilities_of, seed=settings.seed, description=partner.name
            )
        return self._whole[partner.name][cells]


def probabilities_of(model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
    """(batch, n_labels) probabilities of the labels."""
    return model(**batch).logits.float().softmax(dim=-1)
