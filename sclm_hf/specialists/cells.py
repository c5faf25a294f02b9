"""What task-specific models read of an AnnData: counts of the genes they know, and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ConfigurationError, ExpressionError, GeneCoverageError, require
from ..logging import warn
from ..tokenization.encodings.cells import columns_of
from ..tokenization.expression_matrix import check_kind, data_places, read_cells, select_counts

FEWEST_GENES = 0.5
"""Least share of a model's genes that cells must measure."""


@dataclass(frozen=True)
class Counts:
    """Counts of cells.

    Attributes:
        matrix: (cells, genes) CSR, float32.
        genes: (genes,) their names.
        totals: (cells,) float64, the counts of each cell over all genes that were measured.
    """

    matrix: sparse.csr_matrix
    genes: list[str]
    totals: np.ndarray

    def log_normalized(self, target_sum: float) -> sparse.csr_matrix:
        """log(1 + counts scaled to `target_sum` per cell), (cells, genes)."""
        scale = target_sum / np.maximum(self.totals, 1e-12)
        scaled = sparse.diags_array(scale) @ self.matrix
        return sparse.csr_matrix(scaled.log1p(), dtype=np.float32)


def read_counts(cells: Any, layer: str | None = None, *, what: str = "the cells") -> Counts:
    """The counts of an AnnData.

    Args:
        cells: an AnnData, where counts are looked for as [`select_counts`] says.
        layer: the layer that holds them.
        what: what to call the cells in messages.

    Raises:
        ExpressionError: the values are no counts, a cell has none, or a name stands for two genes.
        ConfigurationError: it is no AnnData.
    """
    if not hasattr(cells, "var_names"):
        raise ConfigurationError(
            f"{what.capitalize()} must be an AnnData, got {type(cells).__name__}: the model reads a single one "
            "(`cells['rna']`), on the command line one file without `NAME=`."
        )
    if layer is not None and layer not in data_places(cells):
        raise ExpressionError(
            f"There is no layer `{layer}` in {what}, where the model reads counts as it was told for "
            f"training (`layer`), but {', '.join(data_places(cells))}: put the counts there "
            f"(`adata.layers[{layer!r}] = …`), or train a model on another."
        )
    matrix, names, _, source = select_counts(cells, layer)
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ExpressionError(f"The gene {twice!r} occurs twice: make names unique (`adata.var_names_make_unique()`).")
    if matrix.shape[0] == 0:
        where = "" if what == "the cells" else f" in {what}"
        raise ExpressionError(f"There are no cells{where}: was a filter too strict?")
    read, found = read_cells(matrix, columns_of(np.full(matrix.shape[1], -1, np.int32)))
    try:
        check_kind(found, "counts", source)
    except ExpressionError as error:
        # what it advises, a setting of tokenizers, these models have not
        raise ExpressionError(
            f"{what[:1].upper()}{what[1:]} must have raw counts, and many values in {source} are fractional: put "
            'counts into `layers["counts"]`, or name their layer when training (`layer`, `--set layer=NAME`).'
        ) from error
    counts = sparse.csr_matrix((read.data, read.indices, read.indptr), shape=matrix.shape, dtype=np.float32)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    if not totals.all():
        empty = [str(name) for name in np.asarray(cells.obs_names)[totals == 0][:3]]
        raise ExpressionError(
            f"{int((totals == 0).sum()):,} of {len(totals):,} cells have no counts, for example {', '.join(empty)}: "
            "leave them out (`scanpy.pp.filter_cells(adata, min_counts=1)`)."
        )
    return Counts(counts, names, totals)


def of_genes(counts: Counts, genes: Sequence[str], title: str, what: str = "genes") -> Counts:
    """The counts of a model's genes, in its order; a gene that was not measured has zeros.

    Args:
        counts: the cells.
        genes: the names of the genes.
        title: what to call the model in messages.
        what: what to call the genes there, where they are peaks.

    Raises:
        GeneCoverageError: fewer than half of them were measured.
    """
    column_of = {name: number for number, name in enumerate(counts.genes)}
    columns = np.array([column_of.get(name, -1) for name in genes])
    absent = [name for name, column in zip(genes, columns, strict=True) if column < 0]
    if len(absent) > (1 - FEWEST_GENES) * len(genes):
        raise GeneCoverageError(
            f"The cells measure {len(genes) - len(absent):,} of the {len(genes):,} {what} of this {title}, for "
            f"example not {', '.join(absent[:3])}: give cells whose {what} are named as those of its training, or "
            "train one."
        )
    if absent:
        warn(f"{len(absent):,} of {len(genes):,} {what} are not measured, and count as 0: {', '.join(absent[:5])} …")
    known = np.flatnonzero(columns >= 0)
    # a column of a matrix of ones at the place of each gene that is there
    places = sparse.csr_matrix(
        (np.ones(len(known), np.float32), (columns[known], known)), shape=(len(counts.genes), len(genes))
    )
    return Counts(sparse.csr_matrix(counts.matrix @ places), list(genes), counts.totals)


def read_labels(cells: Any, label_key: str | None) -> tuple[np.ndarray, list[str]]:
    """The labels of cells as numbers, and their names in the order of these.

    Raises:
        ConfigurationError: there is no such column, a cell has no label, or all have the same.
    """
    columns = ", ".join(map(str, cells.obs.columns))
    if label_key is None or label_key not in cells.obs:
        raise ConfigurationError(
            f"`label_key` (`--label-key`) names the column of `obs` with the labels; got {label_key!r}, and `obs` has "
            f"{columns or 'no columns'}."
        )
    values = cells.obs[label_key]
    if (missing := without_label(values)).any():
        raise ConfigurationError(
            f"{int(missing.sum()):,} cells have no label in `obs[{label_key!r}]`: leave them out, "
            f"`adata[adata.obs[{label_key!r}].notna() & (adata.obs[{label_key!r}] != '')]`."
        )
    names, numbers = np.unique(values.astype(str).to_numpy(), return_inverse=True)
    if len(names) < 2:
        raise ConfigurationError(f"All cells have the label {names[0]!r}: a classifier needs at least two.")
    return numbers.astype(np.int64), [str(name) for name in names]


def without_label(values: Any) -> np.ndarray:
    """(cells,) bool, which values of a column are missing or empty."""
    return (values.isna() | (values.astype(str) == "")).to_numpy()


def highly_variable(counts: Counts, n_genes: int, target_sum: float = 1e4) -> list[str]:
    """The most variable genes by scanpy's default (flavour "seurat"), or all, in the order of the data.

    Args:
        counts: the cells.
        n_genes: how many.
        target_sum: counts per cell before the logarithm.
    """
    seen = np.asarray(counts.matrix.sum(axis=0)).ravel() > 0
    if int(seen.sum()) <= n_genes:
        return [name for name, there in zip(counts.genes, seen, strict=True) if there]
    scanpy, anndata = require("scanpy", extra="anndata"), require("anndata", extra="anndata")
    values = anndata.AnnData(counts.log_normalized(target_sum)[:, seen])
    values.var_names = [name for name, there in zip(counts.genes, seen, strict=True) if there]
    scanpy.pp.highly_variable_genes(values, n_top_genes=n_genes)
    return [str(name) for name in values.var_names[values.var["highly_variable"]]]
