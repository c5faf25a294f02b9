"""The tokens of cells to perturb, and those of their genes that a long cell has no room for."""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...sources.survey import row_blocks
from ..running.prepared_cells import PreparedCells
from .tokens import TokenCell, separate

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel
    from ...tokenization.processing_cell import CellProcessor


class TokenCells:
    """The tokens of cells, to which a gene to perturb can be added back.

    A cell with more genes than fit keeps its top ranks, those that its keyed draw chose, or those with the largest
    z-scores. To perturb a gene that was left out, it is put back in place of the gene that would have been left out
    next.

    Args:
        loaded: the model and its processor.
        cells: the cells.
        seed: seed of what is random about a cell.
        wanted: tokens that may be put back; None = any.
        rows: (cells,) numbers of the cells, different ones; None = all.

    Attributes:
        kept: number of each cell -> its tokens as they are without perturbation.
    """

    def __init__(
        self,
        loaded: "LoadedModel",
        cells: PreparedCells,
        seed: int,
        wanted: set[int] | None,
        rows: np.ndarray | None = None,
    ) -> None:
        from ...tokenization.encodings.keys import cell_keys

        rows = np.arange(cells.source.n_cells) if rows is None else np.asarray(rows)
        processor, keys = loaded.processor, cell_keys(cells.cell_ids[rows], seed, 0)
        self._keys = dict(zip(rows.tolist(), keys, strict=True))
        limit, self._drawn = processor.feature_extractor.max_length, processor.feature_extractor.truncation == "sample"
        self._special = np.array(list(processor.tokenizer.gene_vocabulary.special_tokens.values()), np.int64)
        self.kept = dict(_tokens(processor, cells, rows, seed))
        self._left_out: dict[int, TokenCell] = {}
        self._lacked: dict[int, frozenset[int]] = {}
        self._scores: dict[int, np.ndarray] = {}
        full = [number for number, cell in self.kept.items() if cell.ids.size == limit]
        if full:
            for number, cell in _tokens(_changed(processor, max_length=None), cells, np.array(full), seed):
                out = ~np.isin(cell.ids, self.kept[number].ids)
                if wanted is not None:
                    out &= np.isin(cell.ids, list(wanted))
                if out.any():
                    self._left_out[number] = cell.take(np.flatnonzero(out))
                    self._lacked[number] = frozenset(self._left_out[number].ids.tolist())
        if self._left_out and processor.feature_extractor.keeps_largest:
            self._note_scores(processor, cells, seed)

    def expressed(self, cell: int) -> np.ndarray:
        """(genes,) tokens of the genes that a cell expresses, as far as they are kept or wanted."""
        genes = self.kept[cell].ids[~np.isin(self.kept[cell].ids, self._special)]
        return np.concatenate([genes, self._left_out[cell].ids]) if cell in self._left_out else genes

    def lacks(self, cell: int, tokens: tuple[int, ...]) -> bool:
        """Whether a cell expresses one of the genes `tokens` that it has no room for."""
        return cell in self._lacked and not self._lacked[cell].isdisjoint(tokens)

    def holding(self, cell: int, tokens: tuple[int, ...]) -> TokenCell:
        """A cell with those of the genes `tokens` put back that it expresses."""
        kept = self.kept[cell]
        if not self.lacks(cell, tokens):
            return kept
        left_out = self._left_out[cell]
        back = left_out.take(np.flatnonzero(np.isin(left_out.ids, tokens)))
        others = np.flatnonzero(~np.isin(kept.ids, self._special) & ~np.isin(kept.ids, tokens))
        stay = np.setdiff1d(np.arange(kept.ids.size), self._by_rank(cell, others)[-back.ids.size :])
        genes = np.flatnonzero(~np.isin(kept.ids[stay], self._special))
        end = genes[-1] + 1 if genes.size else 0
        ids = np.insert(kept.ids[stay], end, back.ids)
        return TokenCell(ids, None if kept.values is None else np.insert(kept.values[stay], end, back.values))

    def _note_scores(self, processor: "CellProcessor", cells: PreparedCells, seed: int) -> None:
        """Keep the z-scores of what stayed in the cells that genes were left out of."""
        unclipped = {"encoding": "zscored", "max_length": None, "z_clip": np.finfo(np.float32).max}
        score_of = np.empty(processor.tokenizer.gene_vocabulary.size, np.float32)
        for number, cell in _tokens(_changed(processor, **unclipped), cells, np.array(list(self._left_out)), seed):
            score_of[cell.ids] = cell.values
            self._scores[number] = score_of[self.kept[number].ids]

    def _by_rank(self, cell: int, places: np.ndarray) -> np.ndarray:
        """Places of genes in a cell, those first that are left out last."""
        from ...tokenization.encodings.keys import Stream, uniforms_for

        if cell in self._scores:
            return places[np.argsort(-self._scores[cell][places], kind="stable")]
        if not self._drawn:
            return places
        ids = self.kept[cell].ids[places].astype(np.int64)
        return places[np.argsort(uniforms_for(self._keys[cell][None], Stream.SUBSET, ids[None])[0], kind="stable")]


def _tokens(
    processor: "CellProcessor", cells: PreparedCells, rows: np.ndarray, seed: int
) -> Iterator[tuple[int, TokenCell]]:
    """The number of each cell, and its tokens."""
    for block in row_blocks(len(rows)):
        yield from zip(rows[block].tolist(), separate(cells.tokens(processor, rows[block], seed)), strict=True)


def _changed(processor: "CellProcessor", **parameters: Any) -> "CellProcessor":
    """A processor with other parameters of the encoding."""
    extractor = copy.copy(processor.feature_extractor)
    vars(extractor).update(parameters)
    return type(processor)(extractor, processor.tokenizer)
