"""Cells of tissue through models whose tokens are cells: each is read together with its nearest neighbours."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ...logging import progress_bar
from ...opening.inference import independent_cells
from ..running.batches import refuse_not_finite
from ..running.samples import sample_inputs
from .neighbours import Tissue

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from ..files.pieces import Pieces
    from ..running.prepared_cells import PreparedCells

    Forward = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]


def run_neighbourhoods(
    loaded: "LoadedModel",
    cells: "PreparedCells",
    tissue: Tissue,
    forward: "Forward",
    *,
    seed: int,
    description: str,
    pieces: "Pieces | None" = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run each cell with its nearest neighbours as one sample, and keep what the model gives for the cell itself.

    Cells are encoded slice by slice, so that values that depend on the other cells, such as z-scores, are those of
    the slice and not of a few neighbours.

    Args:
        loaded: a model whose tokens are cells, and its processor.
        cells: the cells.
        tissue: their neighbours.
        forward: model and inputs of a sample -> (cells, …) tensor.
        seed: seed of what is random about a cell.
        description: what the progress bar says.
        pieces: keeps the results of slices; those that it has are not computed again.

    Returns:
        An iterator over (cells of a slice, their (cells, …) float32 results).

    Raises:
        SclmError: the model gives values that are not finite, or a piece cannot be kept.
    """
    with (
        independent_cells(loaded.model),
        progress_bar(total=len(tissue.numbers), desc=description, unit="cell") as bar,
    ):
        for number in range(len(tissue.slices)):
            rows = np.flatnonzero(tissue.numbers == number)
            values = None if pieces is None else pieces.load(number, len(rows))
            if values is None:
                values = _run_slice(loaded, cells, rows, tissue.neighbours[rows], forward, seed, bar)
                refuse_not_finite(loaded, np.isfinite(values).all(axis=1), np.asarray(cells.names)[rows])
                if pieces is not None:
                    pieces.save(number, values)
            else:
                bar.update(len(rows))
            yield rows, values


def _run_slice(
    loaded: "LoadedModel",
    cells: "PreparedCells",
    rows: np.ndarray,
    neighbours: np.ndarray,
    forward: "Forward",
    seed: int,
    bar: Any,
) -> np.ndarray:
    """(cells, …) results of a slice; the numbers of neighbours are those of all cells."""
    import torch

    from ...modeling.common.cpu import fast_on_cpu

    inputs = sample_inputs(loaded, cells, rows, seed)
    expression = _matrix(inputs.pop("expression_values"))
    places, found, device = np.searchsorted(rows, neighbours), [], loaded.model.device
    with torch.inference_mode(), fast_on_cpu(loaded.model):
        genes = inputs["input_ids"].to(device)
        for place, others in enumerate(places):
            read = expression[np.concatenate([[place], others])].toarray()
            sample = {
                "input_ids": genes,
                "expression_values": torch.from_numpy(read).to(device),
                "attention_mask": torch.ones(len(read), dtype=torch.int64, device=device),
            }
            found.append(forward(loaded.model, sample)[0].float().cpu().numpy())
            bar.update(1)
    return np.stack(found)


def _matrix(values: "torch.Tensor") -> scipy.sparse.csr_matrix:
    """(cells, genes) values, without their zeros."""
    if not values.is_sparse:
        return scipy.sparse.csr_matrix(values.numpy(force=True))
    rows, columns = values.indices().numpy()
    return scipy.sparse.csr_matrix((values.values().numpy(), (rows, columns)), values.shape)
