"""What is known of each gene over the cells of a corpus: mean and deviation of its log-normalised counts."""

from typing import NamedTuple

import numpy as np

from ..logging import warn
from ..sources.survey import look_at, row_blocks
from ..tokenization.encodings.cells import Columns, columns_of, tokens_of_columns
from ..tokenization.encodings.depth import known_totals
from ..tokenization.encodings.kernels import kernel
from ..tokenization.expression_matrix import read_genes
from .contents import Contents


class GeneStatistics(NamedTuple):
    """Means and deviations of genes.

    Attributes:
        genes: names, as in the vocabulary, in the order of their ids.
        means: (genes,) float64, mean of `ln(1 + count / total * target_sum)` over the cells of the data sets that
            measure the gene; `total` is that of the genes that a data set measures and the vocabulary knows.
        deviations: (genes,) float64, the standard deviations (of the population) that belong to them.
        n_cells: (genes,) int64, how many cells they are from.
    """

    genes: list[str]
    means: np.ndarray
    deviations: np.ndarray
    n_cells: np.ndarray

    def parameters(self) -> dict[str, dict[str, float]]:
        """`gene_means` and `gene_deviations` as an `ExpressionFeatureExtractor` takes them."""
        return {
            "gene_means": dict(zip(self.genes, self.means.tolist(), strict=True)),
            "gene_deviations": dict(zip(self.genes, self.deviations.tolist(), strict=True)),
        }


@kernel
def _add(genes, scales, sums, squares):
    for i in range(scales.size):
        for j in range(genes.indptr[i], genes.indptr[i + 1]):
            value = np.float64(genes.values[j])
            if scales[i] > 0:
                value = np.log1p(value * scales[i])
            sums[genes.ids[j]] += value
            squares[genes.ids[j]] += value * value


def gene_statistics(corpus: Contents, *, target_sum: float = 10_000.0) -> GeneStatistics:
    """Mean and deviation of every gene of the vocabulary, in one pass over the cells.

    They do not depend on blocks, windows or the order of an epoch. A gene that no data set measures has mean 0 and
    deviation 1, and a warning says so.

    Args:
        corpus: the cells, mapped to the vocabulary of the corpus's processor, whose encoding is not used. Where it
            expects no counts, values are taken for logarithms.
        target_sum: what counts are scaled to before the logarithm.

    Raises:
        CorpusError: a file vanished, changed or is damaged.
        ExpressionError: values are not what the processor's encoding expects.
    """
    vocabulary, expects = corpus.processor.tokenizer.gene_vocabulary, corpus.processor.feature_extractor.expects
    sums, squares, n_cells = np.zeros(vocabulary.size), np.zeros(vocabulary.size), np.zeros(vocabulary.size, np.int64)

    def add(matrix) -> None:
        genes, _, _ = read_genes(matrix, columns)
        totals = known_totals(genes).clip(np.finfo(np.float64).tiny)
        _add(genes, target_sum / totals if expects == "counts" else np.zeros_like(totals), sums, squares)

    for index, size in enumerate(corpus.sizes):
        if size:
            columns = known_columns(corpus, index)
            rows = corpus.rows_at(index, np.arange(size))
            look_at(corpus.opened(index), (rows[block] for block in row_blocks(size)), expects, add)
            n_cells[columns.known] += size
    genes = sorted(set(vocabulary) - set(vocabulary.special_tokens), key=vocabulary.__getitem__)
    return _finished(genes, np.array([vocabulary[gene] for gene in genes]), sums, squares, n_cells)


def known_columns(corpus: Contents, index: int) -> Columns:
    """The columns of a source, seen through the vocabulary of the corpus's processor."""
    special = tuple(corpus.processor.tokenizer.gene_vocabulary.special_tokens.values())
    return columns_of(tokens_of_columns(corpus.gene_ids(index), special))


def _finished(
    genes: list[str], ids: np.ndarray, sums: np.ndarray, squares: np.ndarray, n_cells: np.ndarray
) -> GeneStatistics:
    sums, squares, n_cells = sums[ids], squares[ids], n_cells[ids]
    unmeasured = np.flatnonzero(n_cells == 0)
    if unmeasured.size:
        warn(
            f"{unmeasured.size:,} of the {len(genes):,} genes, such as {genes[unmeasured[0]]}, are in no file: their "
            "z-scores will be their log-normalised counts."
        )
    n = np.maximum(n_cells, 1)
    means = sums / n
    deviations = np.sqrt(np.maximum(squares / n - means**2, 0))
    deviations[unmeasured] = 1.0
    return GeneStatistics(genes, means, deviations, n_cells)
