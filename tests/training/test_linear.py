import functools
import json

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoProcessor

from sclm_hf import CellCorpus, LinearForSequenceClassification, annotate, embed
from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.training import linear
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.data import open_corpora
from sclm_hf.training.finetune import finetune
from sclm_hf.training.linear import as_linear_model, fit_corpus, fit_linear, fit_values, new_processor
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

GENES = [f"GENE{number}" for number in range(40)]


def make_cells(n_cells: int = 90, genes=GENES, seed: int = 0) -> anndata.AnnData:
    """Counts of three cell types, each with five genes that are raised."""
    generator = np.random.default_rng(seed)
    labels = np.array(["B", "NK", "T"])[np.arange(n_cells) % 3]
    rates = np.full((n_cells, len(GENES)), 5.0)
    for place, name in enumerate(("B", "NK", "T")):
        rates[labels == name, 5 * place : 5 * place + 5] = 15.0
    names = [f"{seed}-{number}" for number in range(n_cells)]
    counts = generator.poisson(rates).astype(np.float32)
    cells = anndata.AnnData(counts, pd.DataFrame({"cell_type": labels}, names), pd.DataFrame(index=GENES))
    return cells[:, list(genes)].copy()


def run(tmp_path, cells: anndata.AnnData, **data):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    files = DataArguments([str(tmp_path / "cells.h5ad")], **data)
    config = TrainingConfig(str(tmp_path / "model"), use_cpu=True)
    return finetune(files, FinetuneArguments("linear", "cell_type"), config)


@pytest.mark.parametrize(
    ("kind", "baseline"),
    [
        ("zscored", ZScoredLogisticRegression),
        ("pca", PCALogisticRegression),
        ("scaled_pca", functools.partial(PCALogisticRegression, scale=True)),
    ],
)
def test_the_model_gives_what_the_baseline_gives(kind, baseline):
    cells, others = make_cells(), make_cells(30, seed=1)
    model, processor = fit_linear(cells.X, cells.obs["cell_type"], GENES, kind=kind)
    expected = np.exp(baseline().fit(cells.X, cells.obs["cell_type"]).predict_log_proba(others.X))
    found = annotate(others, model, processor, device="cpu").obsm["sclm_probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_is_the_logistic_regression_of_scikit_learn():
    cells, others = make_cells(), make_cells(30, seed=1)
    expression = log1p_cp10k(cells.X).toarray()
    means, deviations = expression.mean(axis=0), np.maximum(expression.std(axis=0), 0.1)
    values = np.clip((expression - means) / deviations, -10, 10)
    classifier = LogisticRegression(max_iter=5000, tol=1e-8).fit(values, cells.obs["cell_type"])
    expected = classifier.predict_proba(np.clip((log1p_cp10k(others.X).toarray() - means) / deviations, -10, 10))
    model, processor = fit_linear(cells.X, cells.obs["cell_type"], GENES)
    found = annotate(others, model, processor, device="cpu").obsm["sclm_probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_finetune_fits_it_and_the_folder_annotates(tmp_path):
    cells, others = make_cells(), make_cells(30, seed=1)
    run(tmp_path, cells)
    expected = np.exp(ZScoredLogisticRegression().fit(cells.X, cells.obs["cell_type"]).predict_log_proba(others.X))
    found = annotate(others, tmp_path / "model", device="cpu")
    np.testing.assert_allclose(found.obsm["sclm_probabilities"], expected, atol=1e-5)
    assert (
        type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")) is LinearForSequenceClassification
    )
    assert (tmp_path / "model" / "training_manifest.parquet").exists()


def test_finetune_scores_held_out_cells(tmp_path):
    result = run(tmp_path, make_cells(), eval_share=0.3)
    assert result.metrics["eval_accuracy"] > 0.9 and 0 < result.metrics["eval_loss"] < 0.5
    line = json.loads((tmp_path / "model" / "training_log.jsonl").read_text())
    assert line["eval_accuracy"] == result.metrics["eval_accuracy"]


def test_a_label_of_one_cell_is_trained_on(tmp_path):
    cells = make_cells()
    cells.obs["cell_type"] = np.where(np.arange(90) == 4, "rare", cells.obs["cell_type"])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    files = DataArguments([str(tmp_path / "cells.h5ad")], eval_share=0.9)
    corpus, held_out = open_corpora(files, new_processor(files), label_column="cell_type", seed=0)
    assert [np.unique(one.numbered["labels"][0]).tolist() for one in (corpus, held_out)] == [[0, 1, 2, 3], [0, 1, 2]]
    assert len(corpus) + len(held_out) == 90


def test_an_unknown_metric_is_refused_before_anything_is_fitted(tmp_path):
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    config = TrainingConfig(str(tmp_path / "model"), use_cpu=True, metric_for_best_model="macro_f2")
    with pytest.raises(ConfigurationError, match=r"macro_f2.*accuracy.*loss.*macro_f1"):
        data = DataArguments([str(tmp_path / "cells.h5ad")], eval_share=0.3)
        finetune(data, FinetuneArguments("linear", "cell_type"), config)
    assert not (tmp_path / "model").exists()


def test_an_embedding_of_pca_holds_principal_components():
    cells = make_cells()
    baseline = PCALogisticRegression(n_components=7).fit(cells.X, cells.obs["cell_type"])
    model, processor = as_linear_model(baseline, GENES)
    embedded = embed(cells, model, processor, device="cpu").obsm["X_linear"]
    components = baseline.project(cells.X)
    np.testing.assert_allclose(embedded, components, atol=1e-4)


@pytest.mark.parametrize("kind", ["zscored", "pca", "scaled_pca"])
def test_files_with_other_genes_are_fitted_together(tmp_path, kind):
    make_cells().write_h5ad(tmp_path / "all.h5ad")
    make_cells(genes=GENES[:30], seed=1).write_h5ad(tmp_path / "fewer.h5ad")
    files = {name: tmp_path / f"{name}.h5ad" for name in ("all", "fewer")}
    run(tmp_path, make_cells())
    corpus = CellCorpus(files, AutoProcessor.from_pretrained(tmp_path / "model"), label_column="cell_type")
    model = fit_corpus(corpus, kind=kind)
    for cells in (make_cells(30, seed=2), make_cells(30, genes=GENES[:30], seed=2)):
        predicted = annotate(cells, model, corpus.processor, device="cpu").obs["sclm_prediction"]
        assert (predicted.astype(str) == cells.obs["cell_type"]).mean() > 0.9


@pytest.mark.parametrize("kind", ["zscored", "pca", "scaled_pca"])
def test_a_corpus_is_fitted_as_its_counts_are(tmp_path, kind):
    run(tmp_path, make_cells())
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    corpus = CellCorpus(tmp_path / "cells.h5ad", processor, label_column="cell_type")
    expected, found = (
        fit_linear(make_cells().X, make_cells().obs["cell_type"], GENES, kind=kind),
        fit_corpus(corpus, kind=kind),
    )
    ones = [annotate(make_cells(9, seed=3), *one, device="cpu") for one in (expected, (found, processor))]
    np.testing.assert_allclose(*(one.obsm["sclm_probabilities"] for one in ones), atol=1e-4)


def test_a_label_of_no_cell_is_never_given():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(20, 6)), np.array([0, 2] * 10)
    for kind in ("zscored", "pca", "scaled_pca"):
        fitted = fit_values(values, labels, 4, np.ones(6), kind=kind)
        assert np.exp(fitted.log_probabilities(values))[:, [1, 3]].max() < 1e-9


def test_more_cells_than_memory_are_refused_with_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.evaluation.baselines.linear.MOST_BYTES", 8 * 41 * 60)
    with pytest.raises(ConfigurationError, match="fit on 60 cells or fewer"):
        run(tmp_path, make_cells())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "full"}, "leave out `head`"),
        ({"label_column": None, "task_columns": ["cell_type"]}, "give one `label_column`"),
    ],
)
def test_settings_of_other_models_are_refused(tmp_path, changes, message):
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    arguments = FinetuneArguments(**{"model_name_or_path": "linear", "label_column": "cell_type"} | changes)
    with pytest.raises(ConfigurationError, match=message):
        finetune(DataArguments([str(tmp_path / "cells.h5ad")]), arguments, TrainingConfig(str(tmp_path / "model")))


def test_an_unknown_kind_and_wrong_genes_are_named():
    cells = make_cells()
    with pytest.raises(ConfigurationError, match="`kind` must be one of 'zscored', 'pca', 'scaled_pca', got 'svm'"):
        linear.fit_linear(cells.X, cells.obs["cell_type"], GENES, kind="svm")
    with pytest.raises(ConfigurationError, match="must name the 40 genes, got 39"):
        fit_linear(cells.X, cells.obs["cell_type"], GENES[1:])
