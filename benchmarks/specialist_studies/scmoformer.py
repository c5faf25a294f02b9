"""scMoFormer predicts proteins of the cells of a run that it was not trained on, from their RNA.

It reads 1,000 genes instead of 2,000, and is 128 wide instead of 512, with heads of 16: as published, one of the 200
epochs of `fit` takes a core five seconds. The original trains for up to 5,000, until held-out cells gain nothing.
"""

from functools import partial

import numpy as np
from anndata import AnnData

import sclm_hf

from . import fitted, read, with_intervals

N_COMPONENTS = 30


def proteins_of_another_run(dataset: str, held_out: str, seed: int, **settings) -> dict[str, dict[str, float]]:
    """How well centred log ratios are told of the cells of a run, methods fitted on the others.

    Args:
        dataset: the data set, with proteins in `obsm["protein_counts"]`.
        held_out: the run, as `batch` names it.
        seed: of the model.
        **settings: of `fit`.
    """
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV

    cells = read(dataset)
    table = cells.obsm.pop("protein_counts")
    table = table.loc[:, table.sum() > 0]
    is_test = (cells.obs["batch"].astype(str) == held_out).to_numpy()
    truth = centred(table.to_numpy(float))
    expression = log_normalized(cells)
    seen = np.asarray((expression[~is_test] > 0).sum(axis=0)) >= 3
    train, test = expression[~is_test][:, seen], expression[is_test][:, seen]
    pca = PCA(N_COMPONENTS, random_state=0).fit(train)
    of_train, of_test = pca.transform(train), pca.transform(test)
    ridge = RidgeCV(np.logspace(-2, 5, 15), alpha_per_target=True).fit(of_train, truth[~is_test])
    pls = PLSRegression(5, scale=False).fit(of_train, truth[~is_test])
    predicted = {
        "mean of training": np.tile(truth[~is_test].mean(axis=0), (is_test.sum(), 1)),
        "ridge regression on PCA": ridge.predict(of_test),
        "PLS regression on PCA": pls.predict(of_test),
    }
    protein = AnnData(table.to_numpy(np.float32), table[[]].copy(), table.T[[]].copy())
    folder = fitted(
        "scmoformer", {"rna": cells[~is_test].copy(), "protein": protein[~is_test].copy()}, seed, **settings
    )
    found = sclm_hf.multimodal(cells[is_test].copy(), model=folder, kind="protein")
    predicted["scmoformer"] = found.obsm["sclm_multimodal_predicted"]
    return {name: scores_of(truth[is_test], values) for name, values in predicted.items()}


def log_normalized(cells: AnnData) -> np.ndarray:
    """(cells, genes) log(1 + counts scaled to 10,000)."""
    counts = cells.X.toarray() if hasattr(cells.X, "toarray") else np.asarray(cells.X)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def centred(counts: np.ndarray) -> np.ndarray:
    """Centred log ratios, as the model predicts."""
    logarithms = np.log1p(counts)
    return logarithms - logarithms.mean(axis=1, keepdims=True)


def scores_of(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Correlations within proteins over cells and within cells over proteins, and the root mean squared error."""

    def score(cells: np.ndarray) -> dict[str, float]:
        true, found = truth[cells], predicted[cells]
        return {
            "pearson_of_proteins": correlation(true.T, found.T),
            "pearson_of_cells": correlation(true, found),
            "rmse": float(np.sqrt(np.square(true - found).mean())),
        }

    return with_intervals(score, len(truth))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Mean correlation of rows; 0 where one is constant."""
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(norms, 1e-12))[norms > 1e-9].sum() / len(norms))


SMALL = {"n_top_genes": 1000, "model_config": {"hidden_size": 128, "graph_head_dim": 16}}
STUDIES = {
    "proteins, pbmc_citeseq_400, run pbmc_5k held out, 1,000 genes, 128 wide": partial(
        proteins_of_another_run, "pbmc_citeseq_400", "pbmc_5k_protein_v3", **SMALL
    )
}
