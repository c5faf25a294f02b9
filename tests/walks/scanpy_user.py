"""Somebody who knows scanpy, from README alone: coverage, embedding, labels, pictures; then the usual mistakes.

`python tests/walks/scanpy_user.py CELLS.h5ad OUTPUT_FOLDER`, from the folder of the repository. The cells are
human blood, with raw counts in `X` and types in `obs["cell_type"]`.
"""

import sys
import warnings
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc
import scipy.sparse

import sclm_hf

MODEL = "model_cards/checkpoints/scgpt-blood-small"


def main(file: str, output: str) -> None:
    """The walk."""
    folder = Path(output)
    cells = anndata.read_h5ad(file)
    coverage = sclm_hf.pp.coverage(cells, MODEL)
    print(coverage.summary())
    assert coverage.count_share > 0.9
    sclm_hf.tl.embed(cells, model=MODEL)
    sclm_hf.tl.annotate(cells, model=MODEL)
    sc.pp.neighbors(cells, use_rep="X_scgpt")
    sc.tl.umap(cells)
    pictures = {
        "coverage": sclm_hf.pl.plot_coverage(coverage),
        "types": sclm_hf.pl.umap(cells, "cell_type"),
        "predictions": sclm_hf.pl.umap(cells),
        "confidence": sclm_hf.pl.umap(cells, "sclm_confidence"),
        "confusion": sclm_hf.pl.confusion(cells, "cell_type"),
    }
    for name, axes in pictures.items():
        axes.figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    cells.write_h5ad(folder / "cells.h5ad")
    print("versions:", cells.uns["sclm_hf"]["sclm_prediction"]["versions"])
    make_mistakes(anndata.read_h5ad(file)[:60].copy())


def make_mistakes(cells: anndata.AnnData) -> None:
    """What people do, and the words that must help them; what only looks like a mistake must give the same numbers."""
    expected = sclm_hf.embed(cells, MODEL).obsm["X_scgpt"]
    logged = cells.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    scaled = logged.copy()
    sc.pp.scale(scaled)
    kept = logged.copy()
    kept.raw = logged
    named = logged.copy()
    named.layers["raw_counts"] = cells.X.copy()
    numbered = anndata.AnnData(cells.X, cells.obs)
    empty = cells.copy()
    empty.X = scipy.sparse.vstack([empty.X[:-1], scipy.sparse.csr_matrix((1, cells.n_vars), dtype=np.float32)]).tocsr()
    labelled = sclm_hf.annotate(cells, MODEL)
    wrong = {
        "log-normalised": (lambda: sclm_hf.embed(logged, MODEL), "from before normalisation"),
        "scaled": (lambda: sclm_hf.embed(scaled, MODEL), "nothing scaled"),
        "`raw` is log-normalised": (lambda: sclm_hf.embed(kept, MODEL), "raw are fractional: name with `layer`"),
        "counts in another layer": (lambda: sclm_hf.embed(named, MODEL), '("raw_counts")'),
        "a layer that is not there": (lambda: sclm_hf.embed(named, MODEL, layer="counts"), "raw_counts, X"),
        "numbers for names": (lambda: sclm_hf.embed(numbered, MODEL), "They are numbers"),
        "turned around": (lambda: sclm_hf.embed(cells.T.copy(), MODEL), "few of the genes"),
        "a cell without counts": (lambda: sclm_hf.embed(empty, MODEL), "leave them out"),
        "a path": (lambda: sclm_hf.embed("cells.h5ad", MODEL), "anndata.read_h5ad"),
        "labels of another nomenclature": (lambda: sclm_hf.pl.calibration(labelled, "cell_type"), "rename one"),
        "a family": (lambda: sclm_hf.embed(cells, "scgpt"), "is a family, not a checkpoint"),
        "no such folder": (lambda: sclm_hf.embed(cells, "model_cards/checkpoints/nothing"), "does not exist"),
        "no such column": (
            lambda: sclm_hf.map(cells, MODEL, reference=cells, label_key="celltype"),
            "has no column `celltype`",
        ),
    }
    for title, (mistake, words) in wrong.items():
        try:
            mistake()
        except sclm_hf.errors.SclmError as error:
            assert words in str(error), f"{title}: {error}"
            print(f"{title}: {error}")
        else:
            raise AssertionError(f"{title} was taken")
    doubled = cells.copy()
    doubled.var_names = [*cells.var_names[:-1], cells.var_names[0]]
    doubled.X[:, -1] = 0
    right = {
        "layer named": sclm_hf.embed(named, MODEL, layer="raw_counts"),
        "by columns": sclm_hf.embed(anndata.AnnData(cells.X.tocsc(), cells.obs, cells.var), MODEL),
        "dense": sclm_hf.embed(anndata.AnnData(cells.X.toarray(), cells.obs, cells.var), MODEL),
        "a view": sclm_hf.embed(cells[:], MODEL),
    }
    for title, result in right.items():
        assert np.allclose(result.obsm["X_scgpt"], expected, atol=1e-5), title
    assert sclm_hf.embed(doubled, MODEL).n_vars == cells.n_vars


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning, module="anndata|scanpy|umap")
    main(*sys.argv[1:])
