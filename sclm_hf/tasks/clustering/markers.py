"""The genes that mark clusters of cells."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...sources.cell_source import CellSource
from ...sources.survey import row_blocks
from ...tokenization.expression_matrix import FRACTIONAL_SHARE

COLUMNS = {
    "cluster": "group",
    "gene": "names",
    "score": "scores",
    "log2_fold_change": "logfoldchanges",
    "p_adjusted": "pvals_adj",
}
"""Column of the table -> what scanpy calls it."""


def holds_counts(source: CellSource) -> bool:
    """Whether at most 1 % of the values are fractional."""
    n_values = n_fractional = 0
    for block in row_blocks(source.n_cells):
        values = source.read(np.arange(source.n_cells)[block]).data
        n_values, n_fractional = n_values + values.size, n_fractional + int((values % 1 != 0).sum())
    return n_fractional <= FRACTIONAL_SHARE * n_values


def marker_genes(source: CellSource, codes: np.ndarray, n_genes: int) -> dict[str, np.ndarray | Sequence[Any]]:
    """The genes that are higher in each cluster than in the other cells: Wilcoxon's test on log-normalised counts.

    Counts are scaled to 10,000 per cell and their logarithms taken; what is no counts is taken as it is. Clusters of
    one cell have no markers.

    Args:
        source: the cells, all of which are read into memory.
        codes: (cells,) cluster of each.
        n_genes: how many genes per cluster.

    Returns:
        The columns of a table with a row per cluster and gene, the highest score of a cluster first.
    """
    scanpy, anndata = require("scanpy", extra="evaluation"), require("anndata", extra="anndata")
    pandas = require("pandas", extra="anndata")
    tested = [str(code) for code, size in enumerate(np.bincount(codes)) if size > 1]
    if not tested or codes.max() == 0 or not n_genes:
        return {}
    matrix = source.read(np.arange(source.n_cells))
    cells = anndata.AnnData(
        log1p_cp10k(matrix) if holds_counts(source) else matrix,
        obs=pandas.DataFrame({"cluster": pandas.Categorical(codes.astype(str))}, index=source.obs_names()),
        var=pandas.DataFrame(index=np.asarray(source.genes()[0], str)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.tl.rank_genes_groups(cells, "cluster", groups=tested, method="wilcoxon", n_genes=n_genes, use_raw=False)
        table = scanpy.get.rank_genes_groups_df(cells, group=tested)
    if "group" not in table:
        # scanpy leaves the column out where there is one cluster to test
        table["group"] = tested[0]
    return {
        name: table[column].to_numpy(object if name in ("cluster", "gene") else float)
        for name, column in COLUMNS.items()
    }
