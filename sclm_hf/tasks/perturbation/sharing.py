"""Cells that lack one gene each, embedded from what their layers share: as many times a cell as it has genes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from .cells import TokenCells
from .tokens import ragged

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from .runs import Run

_FEWEST_RUNS, _TOKENS_PER_RUN = 4, 32
"""Of a cell with fewer deletions, or fewer for so many of its tokens, less is saved than the shared part costs: all
weights of its first layer. Measured on one core with two layers: 16 deletions of cells of 1,100 genes take 1.5 times
as long when they share it, of 250 genes 0.7 times."""

_MOST_WEIGHTS = 2**25
"""Most weights of a cell that are kept; with what is made of them they take half a gigabyte."""


class SharedDeletions:
    """Embeds cells that lack one gene each, by models that have `share_first_layer` and `embed_without_one`.

    Args:
        loaded: the model and its processor.
        cells: tokens of every cell.
        batch_labels: (cells,) int64, for models that were trained with batch labels.
    """

    def __init__(self, loaded: "LoadedModel", cells: TokenCells, batch_labels: np.ndarray | None) -> None:
        self._loaded, self._cells, self._batch_labels = loaded, cells, batch_labels
        self._able = hasattr(loaded.model, "embed_without_one")

    def by_cell(self, runs: "Iterable[Run]") -> "Iterator[tuple[bool, Iterator[Run]]]":
        """The runs in their order, in parts that share something, and parts that do not."""
        cells = (list(some) for _, some in groupby(runs, key=lambda run: run.cell))
        for shared, parts in groupby(cells, key=self._share):
            yield shared, (run for part in parts for run in part)

    def _share(self, runs: "Sequence[Run]") -> bool:
        """Whether the runs of one cell are embedded together: each lacks one gene that the cell has room for."""
        if not self._able:
            return False
        n_tokens, n_heads = self._cells.kept[runs[0].cell].ids.size, self._loaded.model.config.num_attention_heads
        return (
            len(runs) >= max(_FEWEST_RUNS, n_tokens // _TOKENS_PER_RUN)
            and n_heads * n_tokens**2 <= _MOST_WEIGHTS
            and all(len(run.tokens) == 1 and not self._cells.lacks(run.cell, run.tokens) for run in runs)
        )

    def embed(self, whole: Sequence[int], runs: "Sequence[Run]", batch_size: int) -> "torch.Tensor":
        """Embeddings of cells as they are and of runs, (cells + runs, hidden) float32.

        Args:
            whole: numbers of cells to embed as they are; all have a run.
            runs: the runs.
            batch_size: how many are embedded at a time, or fewer.
        """
        import torch

        from ...modeling.common.cpu import fast_on_cpu, tokens_at_a_time
        from ..running.batches import MAX_TOKENS

        model, numbers = self._loaded.model, list(dict.fromkeys(run.cell for run in runs))
        place_of = {number: place for place, number in enumerate(numbers)}
        cells = [place_of[number] for number in (*whole, *(run.cell for run in runs))]
        token_places = {number: _places(self._cells.kept[number].ids) for number in numbers}
        places = [*(-1 for _ in whole), *(token_places[run.cell][run.tokens[0]] for run in runs)]
        with torch.inference_mode(), fast_on_cpu(model):
            inputs = self._inputs(numbers)
            shared = model.share_first_layer(**inputs)
            rows = torch.tensor([cells, places], device=model.device)
            most = tokens_at_a_time(model, MAX_TOKENS) // inputs["input_ids"].shape[1]
            parts = rows.split(max(1, min(batch_size, most)), dim=1)
            return torch.cat([model.embed_without_one(shared, *part) for part in parts]).float()

    def _inputs(self, numbers: Sequence[int]) -> "dict[str, torch.Tensor]":
        import torch

        from ...modeling.common.cpu import KEYS_AT_A_TIME

        processor = self._loaded.processor
        arrays: dict[str, Any] = processor.padded(ragged([self._cells.kept[number] for number in numbers]))
        arrays = processor.widened(arrays, multiple=KEYS_AT_A_TIME)
        if self._batch_labels is not None:
            arrays["batch_labels"] = self._batch_labels[list(numbers)]
        return {name: torch.from_numpy(array).to(self._loaded.model.device) for name, array in arrays.items()}


def _places(ids: np.ndarray) -> dict[int, int]:
    return {token: place for place, token in enumerate(ids.tolist())}
