"""The other modality of paired cells: proteins or peaks, checked and normalised."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, ExpressionError
from ...logging import counted
from ...specialists.pairing import centred_log_ratios
from ..files.fingerprint import hash_of
from ..files.h5ad import read_h5ad
from ..running.provenance import check_adata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from ..multimodal import MultimodalSettings

NAMES = {"protein": "prot", "atac": "atac"}
"""What a MuData calls a kind of modality."""


@dataclass(frozen=True)
class Modality:
    """Normalised values of the other modality.

    Attributes:
        kind: `"protein"` or `"atac"`.
        cells: (n_cells,) their names.
        features: (n_features,) names of the proteins or of the peaks.
        values: (n_cells, n_features) float64.
    """

    kind: str
    cells: np.ndarray
    features: np.ndarray
    values: np.ndarray

    @property
    def hash(self) -> str:
        """A hash of the names and the values."""
        return hash_of([self.kind, self.cells.tolist(), self.features.tolist(), self.values.tolist()])

    def of(self, names: "Sequence[str]") -> np.ndarray:
        """(n_cells, n_features) values of the cells of these names, in their order.

        Raises:
            ConfigurationError: names are doubled, or either modality has cells that the other has not.
        """
        own, names = set(self.cells.tolist()), list(names)
        if len(set(names)) < len(names):
            raise _doubled("RNA")
        only_rna, only_other = [name for name in names if name not in own], sorted(own - set(names))
        if len(only_rna) == len(names):
            raise ConfigurationError(
                f"RNA and `other` have no cell in common: names of the first are like {names[0]!r}, of the second "
                f"like {self.cells[0]!r}. Give the same cell the same name in both."
            )
        if only_rna or only_other:
            example = (only_rna or only_other)[0]
            raise ConfigurationError(
                f"{counted(len(only_rna), 'cell')} of RNA and {len(only_other):,} of `other` are not in both, such as "
                f"{example!r}: keep the shared ones, `shared = rna.obs_names.intersection(other.obs_names)`, "
                "`rna[shared]` and `other[shared]`."
            )
        place = {name: row for row, name in enumerate(self.cells)}
        return self.values[[place[name] for name in names]]


def in_mudata(mdata: "MuData", other: Any, settings: "MultimodalSettings", *, copy: bool) -> "tuple[str, AnnData]":
    """The name of RNA in a MuData, and its other modality.

    Raises:
        ConfigurationError: it lacks one of them, another modality or a head is given too, or nothing can be added.
    """
    if other is not None:
        raise ConfigurationError("A MuData holds the other modality: leave out `other`, or give `mdata['rna']`.")
    if mdata.is_view and not copy:
        raise ConfigurationError("Nothing can be added to a part of a MuData: pass `copy=True`.")
    wanted = {"rna_key": settings.rna_key, "other_key": settings.other_key or NAMES[settings.kind]}
    for setting, name in wanted.items():
        if name not in mdata.mod:
            raise ConfigurationError(
                f"The MuData has no modality {name!r}, it has {list(mdata.mod)}: name it with `{setting}` "
                f"(`--{setting.replace('_', '-')}`)."
            )
    return wanted["rna_key"], mdata.mod[wanted["other_key"]]


def read_modality(other: "str | Path | AnnData", kind: str, n_features: int) -> Modality:
    """Read, check and normalise the other modality.

    Raises:
        ConfigurationError: it is no AnnData, or cells or features have doubled names.
        CorpusError: the file cannot be read.
        ExpressionError: there are no cells, too few features, or values that are no raw counts.
    """
    adata = read_h5ad(other) if isinstance(other, str | Path) else other
    check_adata(adata)
    if not adata.n_obs:
        raise ExpressionError("`other` has no cells.")
    names, features = adata.obs_names.to_numpy(object), adata.var_names.to_numpy(object)
    if not adata.obs_names.is_unique:
        raise _doubled("`other`")
    if not adata.var_names.is_unique:
        raise ConfigurationError("`other` has features of the same name: `other.var_names_make_unique()`.")
    counts = _counts(adata.X, features, kind)
    if kind == "protein":
        values = centred_log_ratios(counts.toarray())
        if np.allclose(values, values[0]):
            raise ExpressionError(
                f"All {len(values):,} cells of `other` have the same shares of all proteins, which tell none apart: "
                "give raw counts, in `X`, of cells that differ."
            )
        return Modality(kind, names, features, values)
    chosen = _most_variable_peaks(counts, n_features)
    return Modality(kind, names, features[chosen], tf_idf(counts)[:, chosen].toarray())


def tf_idf(counts: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """(n_cells, n_peaks) log(1 + 10,000 tf idf) of open peaks.

    tf is the share of a cell's open peaks, idf the inverse of the share of the cells in which a peak is open; both of
    binarised counts. As Stuart et al., Nature Methods 18, 1333-1341 (2021).
    """
    is_open = (counts > 0).astype(np.float64)
    per_cell, per_peak = (np.asarray(is_open.sum(axis=axis)).ravel() for axis in (1, 0))
    idf = len(per_cell) / np.maximum(per_peak, 1)
    weighted = (scipy.sparse.diags(1e4 / per_cell) @ is_open @ scipy.sparse.diags(idf)).tocsr()
    return weighted.log1p()


def _most_variable_peaks(counts: scipy.sparse.csr_matrix, n_features: int) -> np.ndarray:
    """Ascending columns of the binarised peaks that vary most; none that is open in no cell or in all."""
    share = np.asarray((counts > 0).mean(axis=0)).ravel()
    # in whole numbers, as a share of all cells may be rounded
    n_open = np.bincount(counts.indices, minlength=counts.shape[1])
    varies = (n_open > 0) & (n_open < counts.shape[0])
    variances = np.where(varies, share * (1 - share), 0)
    if varies.sum() < 2:
        raise ExpressionError("Fewer than 2 peaks of `other` are open in some cells and closed in others.")
    chosen = np.argsort(-variances, kind="stable")[:n_features]
    return np.sort(chosen[varies[chosen]])


def _counts(matrix: Any, features: np.ndarray, kind: str) -> scipy.sparse.csr_matrix:
    """The counts, sound."""
    if len(features) < 2:
        raise ExpressionError(
            f"`other` has {counted(len(features), 'feature')}: at least 2 are needed, as a cell is "
            "normalised over them."
        )
    if matrix is None:
        raise ExpressionError("`other` has no matrix `X`: put the raw counts there.")
    counts = scipy.sparse.csr_matrix(matrix, dtype=np.float64)
    values = counts.data
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise ExpressionError(
            "`other.X` holds values that are missing, negative or no whole numbers: give raw counts, "
            "`other.X = other.layers['counts']`."
        )
    counts.eliminate_zeros()
    empty = features[np.bincount(counts.indices, minlength=len(features)) == 0]
    # peaks that are never open are not among the most variable
    if len(empty) and kind == "protein":
        raise ExpressionError(
            f"{counted(len(empty), 'protein')} of `other` {'is' if len(empty) == 1 else 'are'} 0 in all cells, such "
            f"as {empty[0]!r}: leave them out, `other[:, other.X.sum(0) > 0]`."
        )
    if (np.diff(counts.indptr) == 0).any():
        cell = int(np.flatnonzero(np.diff(counts.indptr) == 0)[0])
        raise ExpressionError(f"Cell {cell} of `other` (0 is the first) has no counts: leave such cells out of both.")
    return counts


def _doubled(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Cells of {what} have the same name: modalities are joined by names. Tell the cells apart in both before."
    )
