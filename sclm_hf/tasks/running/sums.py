"""Sums over cells, kept on disk block by block, so that a stopped run resumes where it was."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .batches import run_blocks
from .prepared_cells import PreparedCells

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from ..files.pieces import Pieces


class Sums(Protocol):
    """What is summed up over cells."""

    def add(self, model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Add the cells of a batch; returns a 0 for each."""

    def state(self) -> dict[str, np.ndarray]:
        """The sums by name."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""


def run_sums(
    loaded: "LoadedModel",
    cells: PreparedCells,
    sums: Sums,
    *,
    batch_size: int,
    seed: int,
    description: str,
    pieces: "Pieces | None" = None,
) -> None:
    """Run every cell and sum up.

    Arguments and errors are those of [`run_blocks`], and:

    Args:
        sums: what is added to.
        pieces: keeps the sums after each block; cells that are in them are not run again.
    """
    # the samples of a model of samples have no order in which sums could go on
    if cells.samples is not None:
        pieces = None
    kept = {} if pieces is None else pieces.load_arrays(0)
    if "piece" in kept:
        done = int(kept.pop("piece")[0])
        cells = replace(cells, part=slice(done, None))
        sums.restore(kept)
    blocks = run_blocks(loaded, cells, sums.add, batch_size=batch_size, seed=seed, description=description)
    for block, _ in blocks:
        if pieces is not None:
            pieces.save(0, np.array([block.stop]), **sums.state())
