"""The cells of the app: a file that somebody uploads, read with care, or PBMCs that come with scanpy."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError, CorpusError, require
from .settings import AppSettings

if TYPE_CHECKING:
    from anndata import AnnData

FEWEST_CELLS = 20
"""A map needs neighbours."""


def built_in_cells() -> "AnnData":
    """700 PBMCs of 10x Genomics as counts, with the published labels in `obs["cell_type"]` (scanpy, 765 genes)."""
    anndata, scanpy = require("anndata", extra="app"), require("scanpy", extra="app")
    pandas, sparse = require("pandas", extra="app"), require("scipy.sparse", extra="app")
    reduced = scanpy.datasets.pbmc68k_reduced()
    # raw.X is log1p of counts scaled to 10,000 per cell; undoing that gives whole numbers to within 0.1 %
    scaled = np.expm1(reduced.raw.X.toarray().astype("float64"))
    counts = np.rint(scaled * reduced.obs["n_counts"].to_numpy()[:, None] / 1e4)
    labels = pandas.DataFrame({"cell_type": reduced.obs["bulk_labels"].astype(str), "batch": "pbmc68k"})
    return anndata.AnnData(sparse.csr_matrix(counts.astype("float32")), labels, reduced.raw.var[[]])


def read_upload(path: str | Path, settings: AppSettings) -> "AnnData":
    """Read an uploaded `.h5ad` file, no larger than the settings allow; links in it are refused.

    Raises:
        CorpusError: it is no readable `.h5ad`, is too large, has too many or too few cells, or some of the same name.
    """
    from ..tasks.files.h5ad import read_h5ad

    path = Path(path)
    if path.suffix != ".h5ad":
        raise CorpusError(f"`{path.name}` is not an `.h5ad` file: write one with `adata.write_h5ad(…)`.")
    if path.is_file() and path.stat().st_size > settings.max_megabytes * 10**6:
        raise CorpusError(
            f"`{path.name}` has {path.stat().st_size / 1e6:,.0f} MB; the app takes {settings.max_megabytes:,}: "
            "write fewer cells, compressed."
        )
    cells = read_h5ad(path)
    if not FEWEST_CELLS <= cells.n_obs <= settings.max_cells:
        raise CorpusError(
            f"`{path.name}` has {cells.n_obs:,} cells; the app takes {FEWEST_CELLS} to {settings.max_cells:,}: draw "
            "some with `scanpy.pp.sample`, or use `sclm-hf annotate` for large files."
        )
    if not cells.obs_names.is_unique:
        raise CorpusError(f"`{path.name}` has cells of the same name: mend it with `adata.obs_names_make_unique()`.")
    return cells


def count_seen(cells: "AnnData", model: str, name: str = "AnnData") -> int | None:
    """How many of the cells a model was trained on or chosen by; None where it has no manifest that says so.

    Cells are known by their counts, or by their names in the data set `name`.
    """
    from ..sources.in_memory import InMemorySource
    from ..tasks.running.seen import seen_by

    source = InMemorySource(cells, name=name)
    seen = seen_by(model, "", source, source.cell_ids(np.arange(source.n_cells)))
    return int((seen.trained | seen.chose).sum()) if seen.has_manifest else None


def unseen_cells(model: str) -> "AnnData":
    """The built-in cells.

    Raises:
        ConfigurationError: the model was trained on some of them, and would show nothing here.
    """
    cells = built_in_cells()
    if n_seen := count_seen(cells, model, "pbmc68k"):
        raise ConfigurationError(
            f"`{Path(model).name}` was trained on {n_seen:,} of the built-in cells, which show nothing: upload others."
        )
    return cells
