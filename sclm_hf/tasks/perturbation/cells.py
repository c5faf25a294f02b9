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
    """The tokens of every cell, to which a gene to perturb can be added back.

    A cell with more genes than fit keeps its top ranks, those that its keyed draw chose, or those with the largest
    z-scores. To perturb a gene that was left out, it is put back in place of the gene that would have been left out
    next.

    Args:
        loaded: the model and its processor.
        cells: the cells.
        seed: seed of what is random about a cell.
        wanted: tokens that may be put back; None = any.

    Attributes:
        kept: the tokens of each cell as they are without perturbation.
    """

    def __init__(self, loaded: "LoadedModel", cells: PreparedCells, seed: int, wanted: set[int] | None) -> None:
        from ...tokenization.encodings.keys import cell_keys

        processor, self._keys = loaded.processor, cell_keys(cells.cell_ids, seed, 0)
        limit, self._drawn = processor.feature_extractor.max_length, processor.feature_extractor.truncation == "sample"
        self._special = np.array(list(processor.tokenizer.gene_vocabulary.special_tokens.values()), np.int64)
        self.kept = list(_tokens(processor, cells, seed))
        self._left_out: dict[int, TokenCell] = {}
        self._lacked: dict[int, frozenset[int]] = {}
        self._scores: dict[int, np.ndarray] = {}
        if limit is not None and any(cell.ids.size == limit for cell in self.kept):
            for number, cell in enumerate(_tokens(_changed(processor, max_length=None), cells, seed)):
                out = ~np.isin(cell.ids, self.kept[number].ids)
                if wanted is not None:
                    out &= np.isin(cell.ids, list(wanted))
                if out.any():
                    self._left_out[number] = cell.take(np.flatnonzero(out))
                    self._lacked[number] = frozenset(self._left_out[number].ids.tolist())
        if self._left_out and processor.feature_extractor.keeps_largest:
            self._note_scores(processor, cells, seed)

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.kept)

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
        for number, cell in enumerate(_tokens(_changed(processor, **unclipped), cells, seed)):
            if number in self._left_out:
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
        return places[np.argsort(uniforms_for(self._keys[[cell]], Stream.SUBSET, ids[None])[0], kind="stable")]


def _tokens(processor: "CellProcessor", cells: PreparedCells, seed: int) -> Iterator[TokenCell]:
    for rows in row_blocks(cells.source.n_cells):
        yield from separate(cells.tokens(processor, rows, seed))


def _changed(processor: "CellProcessor", **parameters: Any) -> "CellProcessor":
    """A processor with other parameters of the encoding."""
    extractor = copy.copy(processor.feature_extractor)
    vars(extractor).update(parameters)
    return type(processor)(extractor, processor.tokenizer)
