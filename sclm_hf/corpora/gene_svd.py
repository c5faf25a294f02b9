"""Gene embeddings from co-expression: the directions in which the z-scored cells of a corpus differ most."""

from collections.abc import Iterator

import numpy as np

from ..sources.soundness import cells_named
from ..sources.survey import row_blocks
from ..tokenization.encodings.keys import cell_keys, uniforms_for
from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from ..tokenization.processing_sample import SampleProcessor
from .contents import Contents
from .statistics import GeneStatistics

N_CELLS = 20_000
"""Cells that are looked at."""

_OVERSAMPLING, _PASSES = 16, 4


def gene_svd(
    corpus: Contents, statistics: GeneStatistics, n_components: int, *, n_cells: int = N_CELLS
) -> tuple[np.ndarray, np.ndarray]:
    """The right singular vectors of z-scored cells, of the largest singular values.

    Subspace iteration that reads the cells a block at a time, four times over (Halko, Martinsson and Tropp, SIAM
    Review 53, 2011); memory grows with the genes alone. Genes that a data set does not measure are 0 in its cells.

    Args:
        corpus: the cells; its processor's vocabulary and kind of data are used, its encoding is not.
        statistics: from `gene_statistics(corpus)`.
        n_components: how many vectors; fewer come back where there are fewer genes or cells.
        n_cells: most cells that are looked at, evenly spread over those of the corpus.

    Returns:
        (vocabulary size, components) float32, one row per token id, 0 for special tokens, each column of length 1 with
        its largest entry positive; and the (components,) singular values, descending.

    Raises:
        CorpusError, ExpressionError: as for `gene_statistics`; or a cell has no known gene.
    """
    vocabulary = corpus.processor.tokenizer.gene_vocabulary
    n_components = min(n_components, len(statistics.genes), sum(map(len, _positions(corpus, n_cells).values())))
    width = min(n_components + _OVERSAMPLING, len(statistics.genes))
    basis = uniforms_for(cell_keys(np.arange(vocabulary.size), 0, 0), 0, width) - 0.5
    for _ in range(_PASSES):
        before, product = np.linalg.qr(basis)[0], np.zeros_like(basis)
        for genes, values in zscored_blocks(corpus, statistics, n_cells):
            product[genes] += values.T @ (values @ before[genes].astype(np.float32))
        basis = product
    squares, turned = np.linalg.eigh(before.T @ product)
    order = np.argsort(squares)[::-1][:n_components]
    vectors = before @ turned[:, order]
    # what is in no cell is 0 but for rounding
    vectors[~product.any(1)] = 0
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(order))])
    return (vectors * signs).astype(np.float32), np.sqrt(squares[order].clip(0))


def zscored_blocks(
    corpus: Contents, statistics: GeneStatistics, n_cells: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Z-scored cells, a block at a time: (genes,) ids, and the (cells, genes) float32 z-scores."""
    asked = corpus.processor.feature_extractor
    encoding = ExpressionFeatureExtractor(
        encoding="zscored",
        expects=asked.expects,
        add_cls=False,
        pad_value=asked.pad_value,
        target_sum=asked.target_sum,
        z_clip=asked.z_clip,
        **statistics.parameters(),
    )
    processor = SampleProcessor(encoding, corpus.processor.tokenizer)
    for index, positions in _positions(corpus, n_cells).items():
        source, gene_ids = corpus.opened(index), corpus.gene_ids(index)
        for block in row_blocks(len(positions)):
            rows = corpus.rows_at(index, positions[block])
            matrix = source.read(rows)

            def encode(places, matrix=matrix, gene_ids=gene_ids):
                return processor.tokens(matrix, gene_ids, cell_ids=places, rows=places, check=False)

            with cells_named(source, matrix, rows, asked.expects, encode):
                sample = processor.padded(encode(np.arange(len(rows))))
            yield sample["input_ids"], sample["expression_values"]


def _positions(corpus: Contents, n_cells: int) -> dict[int, np.ndarray]:
    """Source -> positions of the cells that are looked at."""
    step, before = -(-sum(corpus.sizes) // n_cells), np.cumsum([0, *corpus.sizes])
    positions = {index: np.arange(-before[index] % step, size, step) for index, size in enumerate(corpus.sizes)}
    return {index: some for index, some in positions.items() if some.size}
