"""MarsGT looks for rare cells in two views of the same cells.

The only pairs of RNA and ATAC at hand are of one cell line. So real blood cells stand in, whose genes are drawn into
two halves: one is RNA; the other plays the peaks, open in a cell that has counts of the gene. Both views are measured,
but no peak is a peak, and all places are made up: genes stand 5,000 bases apart in the order of their names. A type is
found as well as its best cluster finds it. It is trained for 20 epochs, and 10 of the second stage, instead of 100
and 50.
"""

import tempfile
from pathlib import Path

import anndata
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

import sclm_hf
from sclm_hf.specialists.cells import read_counts
from sclm_hf.specialists.marsgt.clusters_marsgt import initial_clusters

from . import fitted
from .deepmaps import citeseq, principal_components

RARE, APART = 0.1, 5000
SHORT = {"n_first_epochs": 20, "training": {"num_train_epochs": 30}}


def halves(seed: int = 0) -> tuple[dict[str, anndata.AnnData], str]:
    """The two views of the cells, whose genes are seen in 5 % of the cells; and a file with the places of genes."""
    import pandas

    cells, _ = citeseq()
    share = np.asarray((cells.X > 0).mean(axis=0)).ravel()
    cells = cells[:, share >= 0.05].copy()
    names = sorted(cells.var_names)
    places = pandas.DataFrame({"gene": names, "chrom": "chr1", "tss": APART * (1 + np.arange(len(names)))})
    file = Path(tempfile.mkdtemp()) / "places.csv"
    places.to_csv(file, index=False)
    is_peak = np.random.default_rng(seed).random(cells.n_vars) < 0.5
    rna, peaks = cells[:, ~is_peak].copy(), cells[:, is_peak].copy()
    starts = places.set_index("gene").loc[peaks.var_names, "tss"]
    peaks.X = csr_matrix((peaks.X > 0).astype(np.float32))
    peaks.var_names = [f"chr1:{start}-{start + 500}" for start in starts]
    return {"rna": rna, "atac": peaks}, str(file)


def scores_of(types: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """F1 of the rare types, each with its best cluster, and ARI of all."""
    best = []
    for name in np.unique(types):
        own = types == name
        if own.mean() < RARE:
            shared = [
                (own & (clusters == one)).sum() * 2 / (own.sum() + (clusters == one).sum()) for one in set(clusters)
            ]
            best.append(max(shared))
    return {"F1 of rare types": float(np.mean(best)), "ARI": float(adjusted_rand_score(types, clusters))}


def rare_types(seed: int) -> dict[str, dict[str, float]]:
    """Rare types among blood cells."""
    cells, places = halves()
    rna = cells["rna"]
    types = rna.obs["cell_type"].astype(str).to_numpy()
    rna.obsm["X_pca"] = principal_components(rna)
    swept = sclm_hf.cluster(rna, use_rep="X_pca", resolutions="1", n_subsamples=1, n_markers=0)
    found = {
        "PCA + Leiden, resolution 1": swept.obs["sclm_cluster"].astype(str).to_numpy(),
        "the initial clusters": initial_clusters(read_counts(rna)),
    }
    folder = fitted("marsgt", cells, seed, gene_positions=places, **SHORT)
    clusters = sclm_hf.cluster(rna, model=folder, other=cells["atac"])
    found["MarsGT"] = clusters.obs["sclm_cluster"].astype(str).to_numpy()
    return {name: scores_of(types, one) for name, one in found.items()}


STUDIES = {"rare types, pbmc_citeseq, half of the genes as peaks, 30 epochs": rare_types}
