"""Counts of cells made fewer: cells thinned, genes left out. What is drawn belongs to the cell and the gene.

A read is kept with the same probability for all genes of a cell, so of `n` reads of a gene the number kept is
binomial: it is the quantile of the gene's draw.
"""

from typing import NamedTuple

import numpy as np

from .cells import CellTokens
from .kernels import kernel, part
from .keys import Stream, draw, substream, uniform
from .thinning import binomial_quantile


class Cuts(NamedTuple):
    """What becomes of the counts of cells.

    Attributes:
        keys: (cells,) uint64, what the draws about reads belong to.
        gene_keys: (cells,) uint64, what the draws about genes belong to: cells that share one lose the same genes.
        rates: (cells,) float64, probability that a read is kept; 1 = all are.
        numbers: (cells,) int64, the panel whose genes are kept, -1 = all are.
        shares: (cells,) float64, probability that a gene is left out.
        panels: (panels, largest token id + 1) bool, the genes of each panel.
    """

    keys: np.ndarray
    gene_keys: np.ndarray
    rates: np.ndarray
    numbers: np.ndarray
    shares: np.ndarray
    panels: np.ndarray


@kernel
def view_ids(ids, view):
    """What the draws about view number `view` of cells are keyed by; view 0 is keyed by the cells' own ids."""
    out = ids.copy()
    if view > 0:
        for i in range(ids.size):
            out[i] = draw(substream(ids[i], Stream.VIEW), view)
    return out


@part
def _keeps(number, panel, share, gene_key, gene):
    """Whether a cell keeps a gene; handing over all of `Cuts` would cost more than the draw."""
    return (number < 0 or panel[gene]) and uniform(gene_key, gene) >= share


@part
def _cut(columns, values, tokens, cuts, i, out):
    """Copy the values of the genes that cell `i` keeps, and 0 for others; False where nothing is left."""
    gene_key = substream(cuts.gene_keys[i], Stream.CUT_GENES)
    number, share = cuts.numbers[i], cuts.shares[i]
    panel = cuts.panels[max(number, 0)]
    anything = False
    for j in range(columns.size):
        gene = tokens[columns[j]]
        out[j] = values[j] if gene >= 0 and _keeps(number, panel, share, gene_key, gene) else 0
        anything |= out[j] > 0
    return anything


@part
def _thin(columns, tokens, key, rate, values, out):
    """Keep each read with probability `rate`, unless at most one would be left."""
    reads_key = substream(key, Stream.THINNED_READS)
    left = 0.0
    for j in range(columns.size):
        out[j] = 0
        if values[j] > 0 and tokens[columns[j]] >= 0:
            out[j] = binomial_quantile(uniform(reads_key, tokens[columns[j]]), np.rint(values[j]), rate)
            left += out[j]
    if left > 1:
        for j in range(values.size):
            values[j] = out[j]


@kernel
def _augment(indptr, indices, data, rows, tokens, cuts, out, is_cut):
    place = 0
    for i in range(rows.size):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        columns, values = indices[start:stop], data[start:stop]
        cell = out[place : place + columns.size]
        is_cut[i] = _cut(columns, values, tokens, cuts, i, cell)
        if not is_cut[i]:
            for j in range(values.size):
                cell[j] = values[j]
        if cuts.rates[i] < 1:
            _thin(columns, tokens, cuts.keys[i], cuts.rates[i], cell, np.empty(columns.size, out.dtype))
        place += columns.size


def augment(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: np.ndarray, tokens: np.ndarray, cuts: Cuts
) -> tuple[np.ndarray, np.ndarray]:
    """Make the counts of cells fewer.

    A cell that would have no gene left keeps all of them, and one that would have at most one read left is not
    thinned.

    Args:
        indptr, indices, data: the arrays of a CSR matrix whose indices are in range.
        rows: (cells,) int64, which rows.
        tokens: (columns,) int32, token id of each column, -1 = column not used. What is in it is left out.
        cuts: what becomes of the cells.

    Returns:
        The data of these rows one after the other, 0 where nothing is left; and (cells,) bool, whether genes were left
        out as `cuts` says.
    """
    sizes = indptr[rows + 1] - indptr[rows]
    out, is_cut = np.empty(int(sizes.sum()), np.result_type(data.dtype, np.float32)), np.empty(rows.size, np.bool_)
    _augment(indptr, indices, data, rows, tokens, cuts, out, is_cut)
    return out, is_cut


@kernel
def _leave_out(tokens, special, cuts, is_cut, starts, lengths):
    size = 0
    ids, values = tokens.ids, tokens.values
    has_values = values.size > 0
    for i in range(lengths.size):
        starts[i] = size
        gene_key = substream(cuts.gene_keys[i], Stream.CUT_GENES)
        number, share = cuts.numbers[i], cuts.shares[i]
        panel = cuts.panels[max(number, 0)]
        for j in range(tokens.starts[i], tokens.starts[i] + tokens.lengths[i]):
            token = ids[j]
            if not is_cut[i] or special[token] or _keeps(number, panel, share, gene_key, token):
                ids[size] = token
                if has_values:
                    values[size] = values[j]
                size += 1
        lengths[i] = size - starts[i]
    return size


def leave_out(tokens: CellTokens, special: np.ndarray, cuts: Cuts, is_cut: np.ndarray) -> CellTokens:
    """Encoded cells without the tokens of genes that were left out, for encodings of genes that are not expressed.

    Args:
        tokens: cells one after the other; their memory is used.
        special: (largest token id + 1,) bool, ids that are no genes.
        cuts, is_cut: as for, and from, [`augment`].
    """
    starts, lengths = np.empty_like(tokens.starts), np.empty_like(tokens.lengths)
    size = _leave_out(tokens, special, cuts, is_cut, starts, lengths)
    return CellTokens(tokens.ids[:size], tokens.values[: size if tokens.values.size else 0], starts, lengths)
