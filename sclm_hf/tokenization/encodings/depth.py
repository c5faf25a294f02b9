"""Log-normalised values, then two tokens that tell a depth each: the encoding of scFoundation.

Source: Hao et al., scFoundation, Nature Methods 21 (2024): `ln(1 + count / total × 10,000)` of the expressed genes,
then `<T>`, whose value is the log10 of the total count that is asked for, and `<S>`, that of the total count measured.
"""

import re

import numpy as np

from ...errors import ConfigurationError
from .cells import CellGenes, CellTokens, Layout, run, write_cell
from .encoding import TARGET_SUM, Encoding, Parameter, Setting
from .kernels import kernel

DEPTH_TOKENS = ("<T>", "<S>")
"""In the order in which they end a cell."""

_TARGET = re.compile(r"([tfa])(\d+(?:\.\d+)?)")


@kernel
def _known_totals(genes, totals):
    for i in range(totals.size):
        total = 0.0
        for value in genes.values[genes.indptr[i] : genes.indptr[i + 1]]:
            total += value
        totals[i] = total


def known_totals(genes: CellGenes) -> np.ndarray:
    """(cells,) float64, the sum of each cell's known genes; `CellGenes.totals` has the others in it too."""
    totals = np.empty(genes.indptr.size - 1)
    _known_totals(genes, totals)
    return totals


def is_target_depth(value) -> bool:
    """Whether [`depths`] knows this `target_depth`."""
    return isinstance(value, str) and (value == "sum" or _TARGET.fullmatch(value) is not None)


def depths(totals: np.ndarray, target_depth: str) -> np.ndarray:
    """The values of `<T>` and `<S>`.

    Args:
        totals: (cells,) total counts.
        target_depth: `"t4"` asks for a log10 total of 4, `"f2"` for twice the cell's total, `"a5"` for a log10 total
            larger by 5, with any number; `"sum"` gives the total itself, not its logarithm, to both.

    Returns:
        (cells, 2) float64.
    """
    if target_depth == "sum":
        return np.stack([totals, totals], axis=1)
    kind, number = _TARGET.fullmatch(target_depth).groups()
    amount = float(number)
    with np.errstate(divide="ignore"):
        source = np.log10(totals)
        target = {"t": np.full_like(source, amount), "f": np.log10(totals * amount), "a": source + amount}[kind]
    return np.stack([target, source], axis=1)


@kernel
def _encode(genes, keys, layout, scales, depth_ids, depth_values, out, start, stop):
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        values = genes.values[first:last].astype(np.float64)
        if scales[i] > 0:
            for j in range(values.size):
                values[j] = np.log(1.0 + values[j] * scales[i])
        row = slice(out.starts[i], out.starts[i] + out.lengths[i])
        out_ids, out_values = out.ids[row], out.values[row]
        write_cell(layout, genes, keys[i], genes.ids[first:last], values, last - first, out_ids, out_values)
        for j in range(2):
            out_ids[out_ids.size - 2 + j], out_values[out_values.size - 2 + j] = depth_ids[j], depth_values[i, j]


def encode_depth(
    genes: CellGenes,
    keys: np.ndarray,
    layout: Layout,
    out: CellTokens,
    *,
    scales: np.ndarray,
    depth_ids: tuple[int, int],
    depth_values: np.ndarray,
    num_threads: int = 1,
) -> None:
    """Write the genes of cells as tokens, with their log-normalised values, and the two depth tokens behind them.

    Args:
        genes, keys, layout, out, num_threads: those of [`~bins.encode_bins`].
        scales: (cells,) what counts are multiplied by before the logarithm; 0 for values that are logarithms already.
        depth_ids: ids of `<T>` and `<S>`.
        depth_values: (cells, 2) their values, as from [`depths`].
    """
    ids = np.array(depth_ids, np.int32)
    run(_encode, keys.size, num_threads, genes, keys, layout, scales, ids, depth_values.astype(np.float32), out)


class Depth(Encoding):
    """Log-normalised values, then `<T>` and `<S>`."""

    name = "depth"
    parameters = {
        "target_sum": TARGET_SUM,
        "target_depth": Parameter(
            "t4", is_target_depth, "'sum', or a letter of t, f and a with a number, such as 't4'"
        ),
    }
    special_tokens = DEPTH_TOKENS
    takes = ("totals",)
    unfit = "so small a total (of 1 or less, in the genes that the model knows) that its logarithm is not positive"

    def check(self, parameters) -> None:
        if parameters.add_cls or parameters.add_eos or parameters.include_zero_genes:
            raise ConfigurationError(
                "The encoding `depth` has expressed genes and its own two tokens: `add_cls`, `add_eos` and "
                "`include_zero_genes` must be False."
            )

    def is_unfit(self, setting: Setting, genes, totals) -> np.ndarray:
        totals = known_totals(genes) if totals is None else np.asarray(totals, np.float64)
        return (depths(totals, setting.parameters.target_depth) <= 0).any(axis=1)

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        parameters = setting.parameters
        totals = known_totals(genes) if totals is None else np.asarray(totals, np.float64)
        encode_depth(
            genes,
            keys,
            setting.layout,
            out,
            scales=parameters.target_sum / totals if parameters.expects == "counts" else np.zeros_like(totals),
            depth_ids=setting.special_ids,
            depth_values=depths(totals, parameters.target_depth),
            num_threads=num_threads,
        )


DEPTH = Depth()
