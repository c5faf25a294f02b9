"""Which peaks may regulate which genes, by their distance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ConfigurationError, require
from ..logging import warn
from .peaks import read_peaks

COLUMNS = ("gene", "chrom", "tss")
HALF_DISTANCE = 10_000
FARTHEST = 15
"""Half distances beyond which a peak says nothing."""

_HINT = (
    "`gene_positions` (`--set gene_positions=FILE`) must be a table, or a `.csv` or `.tsv` file, with the columns "
    "gene, chrom and tss: where each gene starts, in the assembly that the peaks are named by"
)


def read_gene_positions(given: Any, genes: Sequence[str]) -> dict[str, list]:
    """Name of a gene -> its chromosome and transcription start, of those of `genes` that have one.

    Args:
        given: a DataFrame, or a file, with the columns `gene`, `chrom` and `tss`. Of several starts of a gene the
            first counts.
        genes: names of the genes.

    Raises:
        ConfigurationError: there is no such table, or it has none of the genes.
    """
    if given is None:
        raise ConfigurationError(f"Peaks are joined to genes by their distance: {_HINT}.")
    table = _table(given)
    if absent := [name for name in COLUMNS if name not in table]:
        raise ConfigurationError(f"{_HINT}; there is no column {absent[0]!r}, but {', '.join(map(str, table))}.")
    wanted, found = set(genes), {}
    for gene, chromosome, start in zip(*(table[name] for name in COLUMNS), strict=True):
        if str(gene) in wanted and str(gene) not in found:
            found[str(gene)] = [str(chromosome), _number(start, gene)]
    if not found:
        raise ConfigurationError(
            f"None of the {len(wanted):,} genes is in `gene_positions`: they are named like {genes[0]!r}, those of "
            f"the table like {str(next(iter(table['gene']), 'nothing'))!r}."
        )
    if missing := len(wanted) - len(found):
        warn(f"{missing:,} of {len(wanted):,} genes have no position, and no peaks are joined to them.")
    return found


def _table(given: Any) -> Any:
    if not isinstance(given, str | Path):
        if not hasattr(given, "columns"):
            raise ConfigurationError(f"{_HINT}; got {type(given).__name__}.")
        return given
    if not Path(given).is_file():
        raise ConfigurationError(f"{_HINT}; there is no file `{given}`.")
    pandas = require("pandas", extra="anndata")
    try:
        return pandas.read_csv(given, sep="\t" if ".tsv" in Path(given).suffixes else ",", dtype={"chrom": str})
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{_HINT}; `{given}` cannot be read as one: {error}") from error


def _number(start: Any, gene: Any) -> int:
    try:
        return int(start)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"The `tss` of {str(gene)!r} in `gene_positions` is no number, but {start!r}."
        ) from error


def regulatory_potential(
    genes: Sequence[str],
    positions: Mapping[str, Sequence],
    peaks: Sequence[str],
    half_distance: float = HALF_DISTANCE,
) -> sparse.csr_matrix:
    """(genes, peaks) float32, 2^(-distance / half_distance) from the start of the gene to the middle of the peak.

    As MAESTRO (Wang et al., Genome Biology 21, 198 (2020)) without what it adds about exons and neighbouring genes;
    0 beyond 15 half distances.

    Args:
        genes: names of the genes.
        positions: name -> chromosome and start; genes without one have no peaks.
        peaks: names of the peaks.
        half_distance: bases over which the potential halves.

    Raises:
        ConfigurationError: a peak is not named by its place, or no peak is near any gene.
    """
    read = read_peaks(peaks)
    chromosomes = np.array([peak.chromosome for peak in read], dtype=object)
    middles = np.array([(peak.start + peak.end) / 2 for peak in read])
    peaks_of = {}
    for chromosome in np.unique(chromosomes.astype(str)):
        own = np.flatnonzero(chromosomes == chromosome)
        peaks_of[chromosome] = own[np.argsort(middles[own], kind="stable")]
    rows, columns, values = [], [], []
    for row, gene in enumerate(genes):
        chromosome, start = positions.get(gene, (None, 0))
        own = peaks_of.get(chromosome, np.empty(0, np.int64))
        reach = FARTHEST * half_distance
        low, high = np.searchsorted(middles[own], [start - reach, start + reach])
        near = own[low:high]
        rows.append(np.full(len(near), row))
        columns.append(near)
        values.append(2.0 ** (-np.abs(middles[near] - start) / half_distance))
    shape = (len(genes), len(peaks))
    data = np.concatenate(values).astype(np.float32)
    if not len(data):
        near = f"No peak is within {FARTHEST * half_distance:,.0f} bases of a gene"
        if any(chromosome in peaks_of for chromosome, _ in positions.values()):
            raise ConfigurationError(
                f"{near}, though chromosomes are named alike: give `gene_positions` in the assembly of the peaks, or "
                f"raise `half_distance` (`--set half_distance=`, {half_distance:g})."
            )
        raise ConfigurationError(
            f"{near}: chromosomes of peaks are named like {str(chromosomes[0])!r}, those of `gene_positions` like "
            f"{str(next(iter(positions.values()))[0])!r}."
        )
    return sparse.csr_matrix((data, (np.concatenate(rows), np.concatenate(columns))), shape=shape)
