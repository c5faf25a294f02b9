"""Values as they are: the encoding of models that take (already transformed) expression as real numbers.

scGPT's `input_style` "log1p" and "normed_raw" are this.
"""

import numpy as np

from .cells import CellGenes, CellTokens, Layout, run, write_cell
from .encoding import Encoding, Setting
from .kernels import kernel


@kernel
def _encode(genes, keys, layout, out, start, stop):
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        ids, values, n = genes.ids[first:last], genes.values[first:last].astype(np.float32), last - first
        row = slice(out.starts[i], out.starts[i] + out.lengths[i])
        write_cell(layout, genes, keys[i], ids, values, n, out.ids[row], out.values[row])


def encode_continuous(
    genes: CellGenes, keys: np.ndarray, layout: Layout, out: CellTokens, *, num_threads: int = 1
) -> None:
    """Write the genes of cells as tokens, with their values as float32.

    The arguments are those of [`~bins.encode_bins`].
    """
    run(_encode, keys.size, num_threads, genes, keys, layout, out)


class Continuous(Encoding):
    """Values as they are."""

    name = "continuous"

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        encode_continuous(genes, keys, setting.layout, out, num_threads=num_threads)


CONTINUOUS = Continuous()
