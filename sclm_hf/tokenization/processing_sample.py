"""Samples become matrices of cells and genes: the processor of models whose tokens are cells."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ConfigurationError
from .encodings.cells import CellTokens, Layout
from .encodings.samples import sample_genes, sample_matrix
from .processing_cell import CellProcessor


class SampleProcessor(CellProcessor):
    """The processor of CellPLM: the cells of one sample, over their genes.

    The model reads a sample as a sentence of cells, so the cells that are encoded in one call belong together and
    nothing is padded. With the encoding `continuous`, values are the counts as they are, of the genes that some cell
    expresses: the model takes their logarithm. With `zscored` they are z-scores of the genes that are measured.

    Args:
        feature_extractor: with the encoding `continuous` or `zscored`, no special tokens and no `max_length`. With
            `include_zero_genes`, a sample has all genes of the vocabulary, with value 0 where there is none.
        tokenizer: the model's genes.

    Raises:
        ConfigurationError: the feature extractor asks for what a sample does not have.
    """

    context = "sample"

    def __init__(self, feature_extractor, tokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        asked = feature_extractor
        if (
            asked.encoding not in ("continuous", "zscored")
            or asked.add_cls
            or asked.add_eos
            or asked.max_length is not None
        ):
            raise ConfigurationError(
                "A `SampleProcessor` needs a feature extractor with `encoding` 'continuous' or 'zscored', "
                "`add_cls=False`, `add_eos=False` and `max_length=None`: a sample has all genes of its cells and no "
                "special tokens."
            )

    def padded(
        self, tokens: CellTokens, cells: np.ndarray | None = None, *, narrow: bool = False
    ) -> dict[str, np.ndarray]:
        """A sample of encoded cells.

        Args:
            tokens: encoded cells.
            cells: (cells,) which of them; None for all.
            narrow: without effect: values may be any numbers.

        Returns:
            `input_ids` (genes,) int64 in ascending order, `expression_values` (cells, genes) float32 counts or
            z-scores, `attention_mask` (cells,) int64, all 1.
        """
        cells = np.arange(tokens.lengths.size) if cells is None else cells
        input_ids = self._genes(tokens, cells)
        values = sample_matrix(tokens, cells, input_ids, self.tokenizer.gene_vocabulary.size)
        return {
            "input_ids": input_ids,
            "expression_values": values,
            "attention_mask": np.ones(len(cells), np.int64),
        }

    def sparse(self, tokens: CellTokens, cells: np.ndarray | None = None) -> tuple[np.ndarray, csr_matrix]:
        """A sample of encoded cells without the zeros of genes that are not expressed.

        Args:
            tokens, cells: as for [`padded`].

        Returns:
            (genes,) int64 ids in ascending order, and the (cells, genes) float32 values.
        """
        cells = np.arange(tokens.lengths.size) if cells is None else cells
        lengths = tokens.lengths[cells]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(tokens.starts[cells] - indptr[:-1], lengths) + np.arange(indptr[-1])
        ids, values = tokens.ids[places], tokens.values[places]
        input_ids = self._genes(tokens, cells)
        columns = np.searchsorted(input_ids, ids)
        matrix = csr_matrix((values, columns, indptr), shape=(len(lengths), len(input_ids)))
        matrix.sort_indices()
        return input_ids, matrix

    def _genes(self, tokens: CellTokens, cells: np.ndarray) -> np.ndarray:
        """(genes,) int64, ascending ids of a sample's genes."""
        vocabulary = self.tokenizer.gene_vocabulary
        if self.feature_extractor.include_zero_genes:
            return np.array(sorted(vocabulary.values()), np.int64)
        return sample_genes(tokens, cells, vocabulary.size)

    def _finished(self, tokens: CellTokens, padding: str, multiple: int | None) -> dict[str, Any]:
        if padding != "longest" or multiple is not None:
            raise ConfigurationError(
                "The cells of a sample are one matrix, and nothing of it is padded: leave out `padding` and "
                "`pad_to_multiple_of`. Rows of shards are not whole samples: read them with `CellCorpus`."
            )
        return self.padded(tokens)

    def _cut_otherwise(self, truncation: bool | str | None, max_length: int | None) -> "SampleProcessor":
        if truncation not in (None, False) or max_length is not None:
            raise ConfigurationError(
                "A sample has all genes of its cells, and nothing of it is cut off: leave out `truncation` and "
                "`max_length`."
            )
        return self

    def _layout(self) -> Layout:
        none, no_limit = -1, np.iinfo(np.int64).max
        return Layout(none, none, none, cls_value=0.0, pad_value=0.0, max_genes=no_limit, sample=False, zeros=False)
