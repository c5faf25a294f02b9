"""Values as they are: the encoding of models that take (already transformed) expression as real numbers.

scGPT's `input_style` "log1p" and "normed_raw" are this.
"""

import numpy as np
from numba import njit

from .cells import Cells, Layout, gather, run, widest, write_cell


@njit(cache=True, nogil=True)
def _encode(cells, keys, layout, out_ids, out_values, out_mask, start, stop):
    size = widest(cells, start, stop) + 1
    ids, values = np.empty(size, np.int32), np.empty(size, np.float32)
    for i in range(start, stop):
        n = gather(cells, i, ids, values)
        write_cell(cells, i, layout, keys[i], ids, values, n, out_ids, out_values, out_mask)


def encode_continuous(
    cells: Cells, keys: np.ndarray, layout: Layout, width: int, *, num_threads: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write the known genes of sound cells as padded rows, with their values as float32.

    The arguments and what is returned are those of [`~bins.encode_bins`].
    """
    n = cells.rows.size
    out = np.empty((n, width), np.int64), np.empty((n, width), np.float32), np.empty((n, width), np.int64)
    run(_encode, n, num_threads, cells, keys, layout, *out)
    return out
