"""The screen that an AnnData holds."""

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, ExpressionError, require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...evaluation.perturbations.cell_eval import LARGEST
from ...evaluation.perturbations.screen import ONE_CONTEXT, Screen, check_screen
from ...logging import counted
from ...sources.survey import row_blocks
from ...tokenization.genes.gene_columns import kind_of

KEPT_ENTRIES = 2**28
"""Most values that are kept in memory; with their places they take 2 GB."""

if TYPE_CHECKING:
    from anndata import AnnData

    from ...sources.cell_source import CellSource
    from ..predict_perturbation import PredictPerturbationSettings


def read_screen(adata: "AnnData", source: "CellSource", settings: "PredictPerturbationSettings") -> tuple[Screen, str]:
    """The cells as a screen, log-normalised, and where their data were found.

    Counts are brought to 10,000 per cell, and the logarithm of 1 + these taken; values that are log-normalised already
    stay as they are. They are kept in memory where there are `KEPT_ENTRIES` at most, and read again each time where
    there are more.

    Args:
        adata: `obs` and `var` of the cells.
        source: the same cells with their values.
        settings: the settings.

    Raises:
        ConfigurationError: a column is missing or has gaps, or there are no controls, or nothing else.
        ExpressionError: values are negative, not finite, or neither counts nor log-normalised.
    """
    perturbations = _column(adata, settings.perturbation_key, "perturbation_key", "--perturbation-key")
    contexts = np.full(adata.n_obs, ONE_CONTEXT, object)
    if settings.cell_type_key is not None:
        contexts = _column(adata, settings.cell_type_key, "cell_type_key", "--cell-type-key")
    if source.n_genes != adata.n_vars or source.data_name == "raw":
        raise ConfigurationError(
            "The counts are in `raw`, whose genes may be others than those of the result: put them into a layer, and "
            "name it with `layer` (`--layer`)."
        )
    genes = tuple(map(str, source.genes()[0]))
    _refuse_other_features(genes)
    if len(set(genes)) < len(genes):
        twice = next(name for number, name in enumerate(genes) if name in genes[:number])
        raise ConfigurationError(f"The gene {twice!r} is there twice: add its columns up, or rename one.")
    control, separator = settings.control, settings.separator
    # the cheap checks come before the values are read
    screen = Screen(_empty(adata), genes, perturbations, contexts, control, separator)
    check_screen(screen)
    values = _log_normalised(source)
    return Screen(values, genes, perturbations, contexts, control, separator), source.data_name


def _refuse_other_features(genes: tuple[str, ...]) -> None:
    """Refuse what would count towards the depth of a cell and is not RNA of it; transgenes such as Cas9 are."""
    others = [name for name in genes if kind_of(name) not in (None, "transgene")]
    if others:
        some = ", ".join(others[:5]) + (", …" if others[5:] else "")
        raise ConfigurationError(
            f"{counted(len(others), 'column')} not of genes: {some}. Leave out what is none (`adata[:, are_genes]`), "
            "also in the real cells that predictions are compared with."
        )


def _column(adata: "AnnData", key: str, setting: str, flag: str) -> np.ndarray:
    pandas = require("pandas", extra="anndata")
    if key not in adata.obs:
        raise ConfigurationError(
            f"`obs` has no column {key!r} (`{setting}`, `{flag}`); it has {sorted(map(str, adata.obs.columns))}."
        )
    if missing := int(pandas.isna(adata.obs[key]).sum()):
        raise ConfigurationError(
            f"{missing:,} of {counted(adata.n_obs, 'cell')} have no value in `obs[{key!r}]`: leave them out."
        )
    return adata.obs[key].astype(str).to_numpy(object)


def _empty(adata: "AnnData") -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(adata.shape, dtype=np.float32)


class LogNormalisedRows:
    """Log-normalised expression of cells, read when it is asked for.

    Args:
        source: the cells.
        are_counts: whether its values are counts; they are log-normalised already otherwise.
    """

    def __init__(self, source: "CellSource", are_counts: bool) -> None:
        self._source, self._are_counts = source, are_counts
        self.shape = source.n_cells, source.n_genes

    def __getitem__(self, rows: np.ndarray) -> scipy.sparse.csr_matrix:
        """(rows, n_genes) float32 of some rows, in any order."""
        ascending, places = np.unique(rows, return_inverse=True)
        values = _plain(self._source.read(ascending))
        values = log1p_cp10k(values) if self._are_counts else values
        return values.astype(np.float32)[places]


def _log_normalised(source: "CellSource") -> "scipy.sparse.csr_matrix | LogNormalisedRows":
    n_entries = n_unsound = 0
    are_counts, largest = True, 0.0
    for rows in row_blocks(source.n_cells):
        data = source.read(rows).data
        n_unsound += int((~np.isfinite(data) | (data < 0)).sum())
        are_counts = are_counts and bool((data == np.rint(data)).all())
        n_entries, largest = n_entries + len(data), max(largest, float(data.max(initial=0)))
    if n_unsound:
        raise ExpressionError(
            f"{counted(n_unsound, 'value')} of `{source.data_name}` are negative, NaN or infinite: expression is "
            "neither. Name with `layer` (`--layer`) where counts or log-normalised values are."
        )
    if not are_counts and largest >= LARGEST:
        raise ExpressionError(
            f"`{source.data_name}` holds neither counts nor log-normalised values: some are no whole numbers, and the "
            f"largest is {largest:.4g}. Name with `layer` (`--layer`) where either is."
        )
    values = LogNormalisedRows(source, are_counts)
    if n_entries > KEPT_ENTRIES:
        return values
    return scipy.sparse.vstack([values[rows] for rows in row_blocks(source.n_cells)], format="csr")


def _plain(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """The same as a matrix that scipy has looked at."""
    return scipy.sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
