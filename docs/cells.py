"""The cells of the examples: 700 blood cells that scanpy brings along, as raw counts."""

import warnings
from pathlib import Path

import anndata
import numpy as np
import scanpy
import scipy.sparse

from sclm_hf.errors import SclmWarning

MODEL = str(Path(__file__).parents[1] / "model_cards" / "checkpoints" / "scgpt-blood-small")
"""A small scGPT for immune cells that lies in the repository; it was trained on none of these."""

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="scanpy|umap|anndata")
warnings.filterwarnings("ignore", category=SclmWarning)


def pbmc() -> anndata.AnnData:
    """700 cells, 765 genes: counts from log-normalised values, exact to 0.1 %."""
    reduced = scanpy.datasets.pbmc68k_reduced()
    scaled = np.expm1(reduced.raw.X.toarray().astype("float64"))
    counts = np.rint(scaled * reduced.obs["n_counts"].to_numpy()[:, None] / 1e4)
    cells = anndata.AnnData(scipy.sparse.csr_matrix(counts.astype("float32")), var=reduced.raw.var[[]])
    cells.obs_names = reduced.obs_names
    cells.obs["cell_type"] = reduced.obs["bulk_labels"].astype(str).to_numpy()
    return cells
