"""Bins of the logarithm, for all genes of the vocabulary: the encoding of scBERT.

Source: Yang et al., scBERT, Nature Machine Intelligence 4 (2022): counts scaled to 10,000 per cell, log2(1 + x), cut
down to whole numbers of which the largest stands for all above.
"""

import numpy as np

from ...errors import ConfigurationError
from .cells import CellGenes, CellTokens, run
from .encoding import N_BINS, TARGET_SUM, Encoding, Setting
from .kernels import kernel, part

_LN2 = np.log(2.0)


@part
def _bin(value, divisor, top):
    # each step is rounded as in the published pipeline, so that values on the edge of a bin fall on the same side
    value = np.float32(value)
    if divisor > 0:
        value = np.float32(np.float64(np.log1p(np.float32(value / divisor))) / _LN2)
    return np.float32(int(min(value, top)))


@kernel
def _encode(genes, tokens, places, n_bins, target_sum, out, start, stop):
    top = np.float32(n_bins - 1)
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        row = slice(out.starts[i], out.starts[i] + out.lengths[i])
        out_ids, out_values = out.ids[row], out.values[row]
        for j in range(tokens.size):
            out_ids[j], out_values[j] = tokens[j], 0
        total = 0.0
        for value in genes.values[first:last]:
            total += value
        divisor = np.float32(np.float32(total) / np.float32(target_sum)) if target_sum > 0 else np.float32(0)
        for j in range(first, last):
            out_values[places[genes.ids[j]]] = _bin(genes.values[j], divisor, top)


def encode_log_bins(
    genes: CellGenes,
    tokens: np.ndarray,
    out: CellTokens,
    *,
    n_bins: int,
    target_sum: float | None,
    num_threads: int = 1,
) -> None:
    """Write every cell as one token for each of `tokens`, with its bin; genes that the data lack are not expressed.

    Args:
        genes: the expressed genes of the cells.
        tokens: (tokens,) ids in the order wanted; each cell gets all of them.
        out: where to write.
        n_bins: number of bins, bin 0 of genes that are not expressed (or too little) included.
        target_sum: what the counts of a cell's known genes are scaled to; None for values that are logarithms already.
        num_threads: how many threads share the cells.
    """
    places = np.full(int(tokens.max(initial=0)) + 1, -1, np.int64)
    places[tokens] = np.arange(tokens.size)
    run(_encode, out.lengths.size, num_threads, genes, tokens, places, n_bins, target_sum or 0.0, out)


class LogBins(Encoding):
    """Whole parts of log2 of the scaled counts, of all genes of the vocabulary."""

    name = "log_bins"
    parameters = {"n_bins": N_BINS, "target_sum": TARGET_SUM}
    has_fixed_genes = True

    def check(self, parameters) -> None:
        fixed = {"max_length": None, "include_zero_genes": True, "cls_value": 0}
        if any(getattr(parameters, name) != value for name, value in fixed.items()):
            raise ConfigurationError(
                "The encoding `log_bins` has all genes of the vocabulary, and bin 0 for `<cls>`: `max_length` must be "
                "None, `include_zero_genes` True and `cls_value` 0."
            )

    def tables(self, setting: Setting) -> np.ndarray:
        """(tokens,) int32, the ids of all genes, and of `<cls>` where it is added, in order."""
        special = set(setting.vocabulary.special_tokens.values()) - {setting.layout.cls_id}
        return np.array(sorted(set(setting.vocabulary.values()) - special), np.int32)

    def token_counts(self, setting: Setting, n_genes, n_columns) -> np.ndarray:
        return np.full_like(n_genes, setting.tables.size)

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        parameters = setting.parameters
        target_sum = parameters.target_sum if parameters.expects == "counts" else None
        encode_log_bins(
            genes,
            setting.tables,
            out,
            n_bins=parameters.n_bins,
            target_sum=target_sum,
            num_threads=num_threads,
        )


LOG_BINS = LogBins()
