"""DeepMAPS embeds the cells of a study: clusters of its embedding beside those of principal components.

The types of pbmc_citeseq come from gates on its proteins, so that RNA alone is asked for what it was not labelled by;
with proteins every method sees what the labels are made of.
"""

from typing import Any

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import sclm_hf
from sclm_hf.specialists.pairing import centred_log_ratios

from . import fitted, read

N_COMPONENTS = 20


def citeseq() -> tuple[anndata.AnnData, anndata.AnnData]:
    """RNA and proteins of the cells that have a type."""
    cells = read("pbmc_citeseq_400")
    cells = cells[cells.obs["cell_type"] != "unassigned"].copy()
    proteins = cells.obsm["protein_counts"]
    return cells, anndata.AnnData(np.asarray(proteins, np.float32), cells.obs, {"protein": _names(proteins)}).copy()


def _names(proteins: Any) -> list[str]:
    return list(getattr(proteins, "columns", [f"protein {number}" for number in range(proteins.shape[1])]))


def principal_components(cells: anndata.AnnData) -> np.ndarray:
    """(cells, 20), of the 2,000 most variable genes, as scanpy's tutorial makes them."""
    import scanpy

    values = anndata.AnnData(cells.X.copy(), cells.obs, cells.var)
    scanpy.pp.normalize_total(values, target_sum=1e4)
    scanpy.pp.log1p(values)
    scanpy.pp.highly_variable_genes(values, n_top_genes=2000)
    values = values[:, values.var["highly_variable"]].copy()
    scanpy.pp.scale(values, max_value=10)
    scanpy.pp.pca(values, n_comps=N_COMPONENTS, random_state=0)
    return values.obsm["X_pca"]


def agreement(cells: anndata.AnnData, embedding: np.ndarray) -> dict[str, float]:
    """ARI and NMI with the types of as many Leiden clusters as there are types."""
    types = cells.obs["cell_type"].astype(str).to_numpy()
    cells.obsm["embedding"] = embedding
    found = sclm_hf.cluster(cells, use_rep="embedding", n_clusters=len(set(types)), n_subsamples=1, n_markers=0)
    clusters = found.obs["sclm_cluster"].astype(str).to_numpy()
    scores = {"ARI": adjusted_rand_score, "NMI": normalized_mutual_info_score}
    return {name: float(score(types, clusters)) for name, score in scores.items()}


def of_rna(seed: int) -> dict[str, dict[str, float]]:
    """RNA alone."""
    cells, _ = citeseq()
    found = {"PCA": principal_components(cells)}
    found["DeepMAPS"] = sclm_hf.embed(cells, fitted("deepmaps", cells, seed)).obsm["X_deepmaps"]
    return {name: agreement(cells, embedding) for name, embedding in found.items()}


def with_proteins(seed: int) -> dict[str, dict[str, float]]:
    """RNA with proteins."""
    cells, proteins = citeseq()
    ratios = centred_log_ratios(proteins.X)
    components = principal_components(cells)
    scaled = [one / np.linalg.norm(one - one.mean(axis=0)) for one in (components, ratios)]
    found = {"PCA of RNA": components, "proteins": ratios, "PCA of RNA and proteins": np.hstack(scaled)}
    folder = fitted("deepmaps", {"rna": cells, "protein": proteins}, seed)
    found["DeepMAPS"] = sclm_hf.multimodal(cells, proteins, folder).obsm["sclm_multimodal_joint"]
    return {name: agreement(cells, embedding) for name, embedding in found.items()}


STUDIES = {"clusters, pbmc_citeseq, RNA": of_rna, "clusters, pbmc_citeseq, RNA and proteins": with_proteins}
