"""The screen that an AnnData holds."""

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, ExpressionError, require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...evaluation.perturbations.cell_eval import LARGEST
from ...evaluation.perturbations.screen import ONE_CONTEXT, Screen, check_screen
from ...logging import counted
from ...tokenization.expression_matrix import as_csr, select_counts
from ...tokenization.genes.gene_columns import kind_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ..predict_perturbation import PredictPerturbationSettings


def read_screen(adata: "AnnData", settings: "PredictPerturbationSettings") -> tuple[Screen, str]:
    """The cells as a screen, log-normalised, and where their data were found.

    Counts are brought to 10,000 per cell, and the logarithm of 1 + these taken; values that are log-normalised already
    stay as they are.

    Raises:
        ConfigurationError: a column is missing or has gaps, or there are no controls, or nothing else.
        ExpressionError: values are negative, not finite, or neither counts nor log-normalised.
    """
    perturbations = _column(adata, settings.perturbation_key, "perturbation_key", "--perturbation-key")
    contexts = np.full(adata.n_obs, ONE_CONTEXT, object)
    if settings.cell_type_key is not None:
        contexts = _column(adata, settings.cell_type_key, "cell_type_key", "--cell-type-key")
    matrix, names, _, data_name = select_counts(adata, settings.layer, expects="any")
    if matrix.shape[1] != adata.n_vars or data_name == "raw":
        raise ConfigurationError(
            "The counts are in `raw`, whose genes may be others than those of the result: put them into a layer, and "
            "name it with `layer` (`--layer`)."
        )
    genes = tuple(map(str, names))
    _refuse_other_features(genes)
    if len(set(genes)) < len(genes):
        twice = next(name for number, name in enumerate(genes) if name in genes[:number])
        raise ConfigurationError(f"The gene {twice!r} is there twice: add its columns up, or rename one.")
    control, separator = settings.control, settings.separator
    # the cheap checks come before the values are read
    screen = Screen(_empty(adata), genes, perturbations, contexts, control, separator)
    check_screen(screen)
    values = _log_normalised(as_csr(matrix), data_name)
    return Screen(values, genes, perturbations, contexts, control, separator), data_name


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


def _log_normalised(matrix: Any, data_name: str) -> scipy.sparse.csr_matrix:
    values = scipy.sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    data = values.data
    if not np.isfinite(data).all() or (data < 0).any():
        unsound = int((~np.isfinite(data) | (data < 0)).sum())
        raise ExpressionError(
            f"{counted(unsound, 'value')} of `{data_name}` are negative, NaN or infinite: expression is neither. Name "
            "with `layer` (`--layer`) where counts or log-normalised values are."
        )
    if (data == np.rint(data)).all():
        return log1p_cp10k(values).astype(np.float32)
    if data.max() >= LARGEST:
        raise ExpressionError(
            f"`{data_name}` holds neither counts nor log-normalised values: some are no whole numbers, and the "
            f"largest is {data.max():.4g}. Name with `layer` (`--layer`) where either is."
        )
    return values.astype(np.float32)
