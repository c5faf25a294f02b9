"""Small .h5ad files whose labels show in their counts."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

GENES = [f"GENE{i}" for i in range(40)]
LABELS = ("B cell", "NK cell", "T cell")


def write_h5ad(
    path: Path,
    n_cells: int,
    *,
    seed: int = 0,
    genes: list[str] = GENES,
    labels: tuple[int, ...] = (0, 1, 2),
    others: float = 0.7,
) -> Path:
    """Write cells in which the genes of their label have 6 counts on average, and the `others` fewer."""
    generator = np.random.default_rng(seed)
    labels = np.array(labels)[generator.integers(0, len(labels), n_cells)]
    rates = np.where(np.arange(len(genes)) % 3 == labels[:, None], 6.0, others)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([LABELS[i] for i in labels])},
        index=[f"{path.stem}-{i}" for i in range(n_cells)],
    )
    counts = sp.csr_matrix(generator.poisson(rates).astype(np.float32))
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path
