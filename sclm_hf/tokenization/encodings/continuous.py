"""Values as they are: the encoding of models that take (already transformed) expression as real numbers.

scGPT's `input_style` "log1p" and "normed_raw" are this.
"""

import numpy as np
from numba import njit

from .cells import CellGenes, Layout, Rows, run, write_cell


@njit(cache=True, nogil=True)
def _encode(genes, keys, layout, rows, out_ids, out_values, out_mask, start, stop):
    for k in range(start, stop):
        i = rows.cells[k]
        first, last = genes.indptr[i], genes.indptr[i + 1]
        ids, values, n = genes.ids[first:last], genes.values[first:last].astype(np.float32), last - first
        row = slice(rows.starts[k], rows.starts[k] + rows.widths[k])
        write_cell(layout, genes.columns, keys[i], ids, values, n, out_ids[row], out_values[row], out_mask[row])


def encode_continuous(
    genes: CellGenes,
    keys: np.ndarray,
    layout: Layout,
    rows: Rows,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    num_threads: int = 1,
) -> None:
    """Write the genes of cells as padded rows, with their values as float32.

    The arguments are those of [`~bins.encode_bins`].
    """
    run(_encode, rows.cells.size, num_threads, genes, keys, layout, rows, *out)
