"""Samples become matrices of cells and genes: the processor of models whose tokens are cells."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import ConfigurationError
from .encodings.cells import CellTokens, Layout
from .processing_cell import CellProcessor


class SampleProcessor(CellProcessor):
    """The processor of CellPLM: the cells of one sample, over the genes that they express.

    The model reads a sample as a sentence of cells, so the cells that are encoded in one call belong together and
    nothing is padded. Values are the counts as they are: the model takes their logarithm.

    Args:
        feature_extractor: with the encoding `continuous`, no special tokens and no `max_length`. With
            `include_zero_genes`, a sample has all genes of the vocabulary, else those that one of its cells expresses.
        tokenizer: the model's genes.

    Raises:
        ConfigurationError: the feature extractor asks for what a sample does not have.
    """

    context = "sample"

    def __init__(self, feature_extractor, tokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        asked = feature_extractor
        if asked.encoding != "continuous" or asked.add_cls or asked.add_eos or asked.max_length is not None:
            raise ConfigurationError(
                "A `SampleProcessor` needs a feature extractor with `encoding='continuous'`, `add_cls=False`, "
                "`add_eos=False` and `max_length=None`: a sample has all genes of its cells and no special tokens."
            )

    def padded(
        self, tokens: CellTokens, cells: np.ndarray | None = None, *, narrow: bool = False
    ) -> dict[str, np.ndarray]:
        """A sample of encoded cells.

        Args:
            tokens: encoded cells.
            cells: (cells,) which of them; None for all.
            narrow: without effect: counts may be any numbers.

        Returns:
            `input_ids` (genes,) int64 in ascending order, `expression_values` (cells, genes) float32 counts,
            `attention_mask` (cells,) int64, all 1.
        """
        input_ids, values = self.sparse(tokens, cells)
        mask = np.ones(values.shape[0], np.int64)
        return {"input_ids": input_ids, "expression_values": values.toarray(), "attention_mask": mask}

    def sparse(self, tokens: CellTokens, cells: np.ndarray | None = None) -> tuple[np.ndarray, csr_matrix]:
        """A sample of encoded cells without its zeros.

        Args:
            tokens, cells: as for [`padded`].

        Returns:
            (genes,) int64 ids in ascending order, and the (cells, genes) float32 counts.
        """
        cells = np.arange(tokens.lengths.size) if cells is None else cells
        lengths = tokens.lengths[cells]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(tokens.starts[cells] - indptr[:-1], lengths) + np.arange(indptr[-1])
        ids, values = tokens.ids[places], tokens.values[places]
        if self.feature_extractor.include_zero_genes:
            input_ids = np.array(sorted(self.tokenizer.gene_vocabulary.values()), np.int64)
        else:
            input_ids = np.unique(ids).astype(np.int64)
        columns = np.searchsorted(input_ids, ids)
        matrix = csr_matrix((values, columns, indptr), shape=(len(lengths), len(input_ids)))
        matrix.sort_indices()
        return input_ids, matrix

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

    def _token_counts(self, found, n_columns: int) -> np.ndarray:
        return found.genes
