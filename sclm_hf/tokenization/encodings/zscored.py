"""Z-scores of log-normalised counts, of every gene that a data set measures.

Counts are scaled to `target_sum` within the genes that the data set measures and the vocabulary knows, so that a small
panel and a whole transcriptome come out alike; of their logarithms stored means are subtracted, and the differences
divided by stored deviations. A gene that is measured and not expressed has a z-score like any other; one that is not
measured has no token, which for a model that sums over genes is the same as its mean.
"""

import numpy as np

from ...errors import ConfigurationError
from .cells import CellGenes, CellTokens, Layout, run, write_cell
from .depth import known_totals
from .encoding import TARGET_SUM, Encoding, Parameter, Setting, is_number
from .kernels import kernel, part

SMALLEST_DEVIATION = 0.1
"""Smaller deviations count as this: a gene that hardly any cell expresses would make a giant of a single count."""


@part
def zscore(value, scale, mean, deviation, clip):
    """The z-score of a count; with `scale` 0, of a logarithm."""
    value = np.log1p(value * scale) if scale > 0 else np.float64(value)
    return min(max((value - mean) / deviation, -clip), clip)


@kernel
def _encode(genes, keys, layout, scales, means, deviations, clip, out, start, stop):
    columns = genes.columns
    n = columns.size
    not_expressed, values = np.empty(n), np.empty(n)
    for place in range(n):
        not_expressed[place] = zscore(0.0, 0.0, means[columns[place]], deviations[columns[place]], clip)
    for i in range(start, stop):
        for place in range(n):
            values[place] = not_expressed[place]
        place = 0
        for j in range(genes.indptr[i], genes.indptr[i + 1]):
            gene = genes.ids[j]
            while columns[place] != gene:
                place += 1
            values[place] = zscore(genes.values[j], scales[i], means[gene], deviations[gene], clip)
        row = slice(out.starts[i], out.starts[i] + out.lengths[i])
        write_cell(layout, genes, keys[i], columns, values, n, out.ids[row], out.values[row])


def encode_zscored(
    genes: CellGenes,
    keys: np.ndarray,
    layout: Layout,
    out: CellTokens,
    *,
    scales: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    clip: float,
    num_threads: int = 1,
) -> None:
    """Write every measured gene of each cell as a token, with its z-score.

    Args:
        genes: the genes of sound cells (see [`take_genes`]), in the order of their ids.
        keys, layout, out, num_threads: those of [`~bins.encode_bins`].
        scales: (cells,) what counts are multiplied by before the logarithm; 0 for values that are logarithms already.
        means, deviations: (largest token id + 1,) float64, by token id; deviations are positive.
        clip: largest absolute z-score; others become it.
    """
    run(_encode, keys.size, num_threads, genes, keys, layout, scales, means, deviations, float(clip), out)


def _are_means(value) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_mean, value.items())))


def _are_deviations(value) -> bool:
    return _are_means(value) and (value is None or min(value.values(), default=0) >= 0)


def _is_mean(entry) -> bool:
    return isinstance(entry[0], str) and is_number(entry[1])


def statistics_tables(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of genes, (largest token id + 1,) each, by token id.

    Raises:
        ConfigurationError: some are missing.
    """
    vocabulary, given = setting.vocabulary, setting.parameters
    means, deviations = np.zeros(vocabulary.size), np.ones(vocabulary.size)
    genes = {gene: token for gene, token in vocabulary.items() if gene not in vocabulary.special_tokens}
    for name, table in (("gene_means", means), ("gene_deviations", deviations)):
        stored = getattr(given, name)
        if stored is None:
            raise ConfigurationError(
                f"{_user(given)} needs `{name}`: give the feature extractor those of the training cells, "
                "`gene_statistics(corpus).parameters()` of `sclm_hf.corpora.statistics`; `sclm-hf pretrain` "
                "works them out by itself."
            )
        missing = [gene for gene in genes if gene not in stored]
        if missing:
            raise ConfigurationError(
                f"`{name}` lacks {len(missing):,} of the tokenizer's {len(genes):,} genes, such as {missing[0]}: "
                "give one for every gene."
            )
        table[list(genes.values())] = [stored[gene] for gene in genes]
    return means, np.maximum(deviations, SMALLEST_DEVIATION)


def _user(parameters) -> str:
    """What asks for statistics, for messages."""
    return "The encoding `zscored`" if parameters.encoding == "zscored" else "`truncation='zscore'`"


class ZScored(Encoding):
    """Z-scores of log-normalised counts."""

    name = "zscored"
    parameters = {
        "target_sum": TARGET_SUM,
        "z_clip": Parameter(10.0, lambda value: is_number(value) and value > 0, "a finite, positive number"),
        "gene_means": Parameter(None, _are_means, "None, or names of genes with finite numbers"),
        "gene_deviations": Parameter(None, _are_deviations, "None, or names of genes with numbers from 0 on"),
    }
    has_zeros = True

    def check(self, parameters) -> None:
        if (parameters.gene_means is None) != (parameters.gene_deviations is None):
            raise ConfigurationError("`gene_means` and `gene_deviations` belong together: give both, or neither.")

    def tables(self, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Means and deviations of genes, by token id."""
        return statistics_tables(setting)

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        parameters, (means, deviations) = setting.parameters, setting.tables
        sums = known_totals(genes)
        encode_zscored(
            genes,
            keys,
            setting.layout,
            out,
            scales=parameters.target_sum / sums if parameters.expects == "counts" else np.zeros_like(sums),
            means=means,
            deviations=deviations,
            clip=parameters.z_clip,
            num_threads=num_threads,
        )


ZSCORED = ZScored()
