"""Rank-value encoding: a cell is the list of its genes, from the most to the least expressed for that gene.

Source: Theodoris et al., "Transfer learning enables predictions in network biology", Nature 618, 616-624 (2023),
doi:10.1038/s41586-023-06139-9, Methods. A gene's value is its count over the cell's total, times a target sum, times a
factor of the gene (there: one over its non-zero median across the corpus). Equal values are in the order of the
genes' ids.
"""

import numpy as np

from ...errors import ConfigurationError
from .cells import CellGenes, CellTokens, Layout, run, widest, write_ids
from .encoding import TARGET_SUM, Encoding, Parameter, Setting, is_number
from .kernels import kernel
from .scratch import Scratch
from .sorting import sort_scratch, stable_sort
from .stored import StoredRows, open_tile, read_tile, written


@kernel
def rank_cell(ids, values, n, total, target_sum, factors, scratch):
    """Rank the `n` genes of one cell.

    Args:
        ids: (>= n,) token ids.
        values: (>= n,) float32 or float64, positive and finite.
        n: how many, at least 1.
        total: total count of the cell.
        target_sum, factors: as for [`encode_rank`].
        scratch: from [`rank_scratch`].

    Returns:
        (>= n,) int32, where the genes stand in `ids`, from the highest rank down.
    """
    scaled, ordered, order, sorting = scratch
    keys, share = scaled.view(np.uint64), 1 / total
    for j in range(n):
        scaled[j] = values[j] * share * target_sum * factors[np.uint32(ids[j])]
    for j in range(n):
        keys[j] = ~keys[j]
    stable_sort(keys, n, ordered, order, sorting)
    return order


def rank_scratch(size: int) -> tuple:
    """What [`rank_cell`] works in, for cells of at most `size` genes."""
    return (
        np.empty(size, np.float64),
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        sort_scratch(size),
    )


@kernel
def rank_cells(genes, totals, target_sum, factors, layout, scratch, out, start, stop):
    """Rank the cells `start:stop` and write them as tokens."""
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        ids, values, n = genes.ids[first:last], genes.values[first:last], last - first
        row = out.ids[out.starts[i] : out.starts[i] + out.lengths[i]]
        kept = min(n, layout.max_genes)
        begin = write_ids(layout, kept, row)
        if n:
            order = rank_cell(ids, values, n, totals[i], target_sum, factors, scratch)
            for j in range(kept):
                row[begin + j] = ids[np.uint32(order[j])]


def encode_rank(
    genes: CellGenes,
    layout: Layout,
    out: CellTokens,
    *,
    factors: np.ndarray,
    target_sum: float = 10_000.0,
    totals: np.ndarray | None = None,
    num_threads: int = 1,
) -> None:
    """Rank the genes of cells and write them as tokens.

    Args:
        genes: the genes of sound cells (see [`take_genes`]).
        layout: how a row looks; the first `max_genes` ranks are kept.
        out: where each cell's tokens go, and how many it has.
        factors: (largest token id + 1,) float64, positive and finite, by token id.
        target_sum: what a cell's counts are scaled to.
        totals: (cells,) float64, each cell's total count; None for the sum of its row, unknown genes included.
        num_threads: how many threads share the cells; the result does not depend on it.
    """
    totals = genes.totals if totals is None else np.ascontiguousarray(totals, dtype=np.float64)
    target_sum = float(target_sum)

    def piece(start: int, stop: int) -> None:
        scratch = rank_scratch(widest(genes, start, stop))
        rank_cells(genes, totals, target_sum, factors, layout, scratch, out, start, stop)

    run(piece, totals.size, num_threads)


@kernel
def _encode_stored(work, tile, target_sum, factors, layout, scratch, out):
    first = 0
    while first < work.rows.size:
        end = read_tile(work, first, tile)
        if end < 0:
            return False
        cells = written(layout, tile, out, first, end)
        rank_cells(tile.genes, tile.genes.totals, target_sum, factors, layout, scratch, cells, 0, end - first)
        first = end
    return True


def _are_medians(value) -> bool:
    genes = value.items() if isinstance(value, dict) else ()
    sound = all(isinstance(gene, str) and is_number(median) and median > 0 for gene, median in genes)
    return value is None or (isinstance(value, dict) and sound)


class Rank(Encoding):
    """Genes in the order of their scaled expression."""

    name = "rank"
    parameters = {
        "target_sum": TARGET_SUM,
        "gene_medians": Parameter(None, _are_medians, "None, or names of genes with positive numbers"),
    }
    has_values = False
    ranks_genes = True
    takes = ("totals",)
    reads_files = True

    def check(self, parameters) -> None:
        if parameters.include_zero_genes:
            raise ConfigurationError("Genes that are not expressed have no rank: `include_zero_genes` must be False.")
        if parameters.truncation == "sample":
            raise ConfigurationError(
                "The encoding `rank` keeps the top ranks: `truncation` must be 'head', or 'zscore' for those of the "
                "largest z-scores."
            )

    def tables(self, setting: Setting) -> np.ndarray:
        """One over the medians of genes, by token id."""
        vocabulary, medians = setting.vocabulary, setting.parameters.gene_medians
        factors = np.ones(vocabulary.size)
        if medians is None:
            return factors
        genes = {gene: token for gene, token in vocabulary.items() if gene not in vocabulary.special_tokens}
        missing = [gene for gene in genes if gene not in medians]
        if missing:
            raise ConfigurationError(
                f"`gene_medians` lacks {len(missing):,} of the tokenizer's {len(genes):,} genes, such as "
                f"{missing[0]}: give one for every gene."
            )
        for gene, token in genes.items():
            factors[token] = 1 / medians[gene]
        return factors

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        encode_rank(
            genes,
            setting.layout,
            out,
            factors=setting.tables,
            target_sum=setting.parameters.target_sum,
            totals=totals,
            num_threads=num_threads,
        )

    def write_stored(self, setting: Setting, stored: StoredRows, rows, columns, keys, out, scratch: Scratch) -> bool:
        counts, target_sum = setting.parameters.expects == "counts", float(setting.parameters.target_sum)
        work, tile = open_tile(stored, rows, columns, counts=counts, scratch=scratch)
        room = rank_scratch(tile.genes.ids.size)
        return _encode_stored(work, tile, target_sum, setting.tables, setting.layout, room, out)


RANK = Rank()
