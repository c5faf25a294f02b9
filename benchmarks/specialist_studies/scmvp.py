"""scMVP completes RNA and open chromatin that were hidden from it, in cells that it was trained on.

A tenth of the reads of RNA and of the open peaks of each cell are hidden; the methods see the rest. Of RNA it is asked
how expected counts go with hidden reads over the genes of a cell; of peaks, whether hidden ones come before closed.
"""

from functools import partial

import anndata
import numpy as np
from scipy import sparse

import sclm_hf
from sclm_hf.evaluation.thinning import thin_counts

from . import fitted, read

N_COMPONENTS = 20
HIDDEN = 0.1


def completion(dataset: str, seed: int, **settings) -> dict[str, dict[str, float]]:
    """How well what was hidden is told.

    Args:
        dataset: the data sets of RNA and of ATAC, without the end of their names.
        seed: of the model.
        **settings: of `fit`.
    """
    rna, atac = (read(f"{dataset}_{name}") for name in ("rna", "atac"))
    atac = atac[rna.obs_names].copy()
    opened = sparse.csr_matrix((atac.X > 0).astype(np.float32))
    share = np.asarray(opened.mean(axis=0)).ravel()
    kept = (share >= 0.01) & (share <= 0.1)
    opened = opened[:, kept]
    seen_rna, seen_atac = thin_counts(rna.X, share=1 - HIDDEN), hide(opened)
    hidden_rna = (sparse.csr_matrix(rna.X) - seen_rna).toarray()
    hidden_atac = (opened - seen_atac).toarray()
    given = {
        "rna": anndata.AnnData(seen_rna.astype(np.float32), rna.obs[[]], rna.var[[]]),
        "atac": anndata.AnnData(seen_atac, atac.obs[[]], atac.var[[]][kept]),
    }
    expected_rna, expected_atac = simple(seen_rna.toarray(), seen_atac.toarray())
    folder = fitted("scmvp", given, seed, **settings)
    found = sclm_hf.multimodal(given["rna"], given["atac"], folder)
    facts = found.uns["sclm_hf"]["sclm_multimodal"]
    for name, columns, place, expected in (
        ("sclm_multimodal_rna", facts["genes"], rna.var_names, expected_rna),
        ("sclm_multimodal_predicted", facts["features"], given["atac"].var_names, expected_atac),
    ):
        # genes and peaks that nothing was seen of are expected nowhere
        expected["scmvp"] = np.zeros((rna.n_obs, len(place)))
        expected["scmvp"][:, place.get_indexer(columns)] = found.obsm[name]
    closed = opened.toarray() == 0
    return {
        method: {
            "pearson_of_hidden_reads": correlation(hidden_rna, expected_rna[method]),
            "auc_of_hidden_peaks": auc(hidden_atac > 0, closed, expected_atac[method]),
        }
        for method in expected_rna
    }


def hide(opened: sparse.csr_matrix) -> sparse.csr_matrix:
    """A tenth of the open peaks of each cell, closed."""
    left = opened.copy()
    left.data = left.data * (np.random.default_rng(0).random(left.nnz) >= HIDDEN)
    left.eliminate_zeros()
    return left


def simple(rna: np.ndarray, atac: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What simple methods expect of RNA and of peaks: means, components, and a ridge regression on the other."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import Ridge

    totals, n_open = rna.sum(axis=1, keepdims=True), atac.sum(axis=1, keepdims=True)
    shares = rna / totals
    logs = np.log1p(1e4 * shares)
    weighted = atac / n_open * np.log1p(len(atac) / np.maximum(atac.sum(axis=0), 1))
    pca = TruncatedSVD(N_COMPONENTS, random_state=0).fit(logs - logs.mean(axis=0))
    lsi = TruncatedSVD(N_COMPONENTS, random_state=0).fit(weighted)
    of_rna, of_atac = pca.transform(logs - logs.mean(axis=0)), lsi.transform(weighted)
    back = pca.inverse_transform(of_rna) + logs.mean(axis=0)
    ridges = [Ridge(10.0).fit(one, two).predict(one) for one, two in ((of_atac, logs), (of_rna, atac))]
    return (
        {
            "mean": totals * shares.mean(axis=0),
            "PCA, LSI": totals * np.expm1(np.maximum(back, 0)),
            "ridge regression on the other modality": totals * np.expm1(np.maximum(ridges[0], 0)),
        },
        {
            "mean": n_open * atac.mean(axis=0),
            "PCA, LSI": lsi.inverse_transform(of_atac),
            "ridge regression on the other modality": ridges[1],
        },
    )


def correlation(hidden: np.ndarray, expected: np.ndarray) -> float:
    """Mean over cells of the correlation of log(1 + counts) over genes."""
    one, other = (np.log1p(np.maximum(values, 0)) for values in (hidden, expected))
    one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1)[norms > 0] / norms[norms > 0]).mean())


def auc(hidden: np.ndarray, closed: np.ndarray, expected: np.ndarray) -> float:
    """Mean over cells of the area under the curve of hidden against closed peaks."""
    from sklearn.metrics import roc_auc_score

    found = []
    for is_hidden, is_closed, values in zip(hidden, closed, expected, strict=True):
        asked = is_hidden | is_closed
        if is_hidden.any():
            found.append(roc_auc_score(is_hidden[asked], values[asked]))
    return float(np.mean(found))


STUDIES = {"completion of hidden counts, snareseq_h1_385": partial(completion, "snareseq_h1_385")}
