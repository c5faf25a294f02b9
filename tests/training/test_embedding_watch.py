"""What a run says about its cell embedding, and how a collapse ends it."""

import json
import warnings

import anndata as ad
import numpy as np
import pytest

from sclm_hf import CellCorpus, embed
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.evaluation.collapse import Collapse, measure_collapse
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.opening.weights import open_model
from sclm_hf.registry import FAMILIES
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.checkpoints import TrainingState
from sclm_hf.training.embedding_watch import EmbeddingQuality, EmbeddingWatch, distinct_classes, probe_score
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from .h5ad_files import GENES, write_h5ad

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*are taken for one sample"),
    pytest.mark.filterwarnings("ignore:.*of 1 samples have more than"),
    pytest.mark.filterwarnings("ignore:The embeddings in .* hardly tell cells apart"),
]

APART, ALIKE = Collapse(0.1, 0.2, 9.0, 80), Collapse(0.999, 0.8, 2.5, 80)
FLAT = Collapse(0.5, 0.69, 1.9, 80)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 80)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in ("scgpt", "cellplm")]


@pytest.mark.parametrize("family", ["scgpt", "cellplm", *SLOW])
def test_the_embeddings_watched_are_those_of_embed(cells, tmp_path, family):
    task = "pretrain" if FAMILIES[family].objectives else "embed"
    name = str(make_tiny_checkpoint(family, tmp_path, genes=GENES, task=task))
    corpus = CellCorpus(cells, load_processor(name), label_column="cell_type")
    model = open_model(name, "AutoModelForPreTraining" if task == "pretrain" else "AutoModel").train()
    found = EmbeddingWatch(corpus, batch_size=100).measure(model)
    embedded = embed(ad.read_h5ad(cells), name).obsm[f"X_{family}"]
    expected = measure_collapse(embedded)._asdict()
    assert model.training and found.probe_macro_f1 > 0
    assert found.collapse._asdict() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def states(*measured, **settings):
    """After each measurement: evaluations in a row that found a collapse."""
    watch, state = EmbeddingWatch.__new__(EmbeddingWatch), TrainingState()
    watch.learns_labels, watch.stops = settings.get("learns_labels", False), True
    for one in measured:
        watch.note(
            state, EmbeddingQuality(*one) if isinstance(one, tuple) and len(one) == 2 else EmbeddingQuality(one)
        )
        yield state.collapsed_evaluations


def test_a_collapse_is_one_that_was_not_there_at_first():
    assert list(states(APART, ALIKE, APART, ALIKE, ALIKE)) == [0, 1, 0, 1, 2]
    assert list(states(ALIKE, ALIKE, ALIKE)) == [0, 0, 0]
    # untrained models often give nearly parallel vectors that differ in many directions
    assert list(states(APART._replace(mean_cosine=0.999), ALIKE, ALIKE)) == [0, 1, 2]


def test_embeddings_along_one_direction_have_collapsed_unless_they_gain():
    assert list(states(FLAT, FLAT, FLAT)) == [0, 1, 2]
    assert list(states(FLAT, FLAT._replace(effective_rank=1.95))) == [0, 0]


def test_few_cells_show_no_collapse():
    assert list(states(APART, FLAT._replace(n_cells=20), ALIKE._replace(n_cells=20))) == [0, 0, 0]


def test_labels_that_are_learnt_may_leave_few_directions_unless_the_probe_loses():
    measured = [(APART, 0.5), (FLAT, 0.9), (ALIKE, 0.5), (FLAT, 0.4), (ALIKE, 0.3)]
    assert list(states(*measured, learns_labels=True)) == [0, 0, 0, 1, 2]
    assert list(states(*measured)) == [0, 1, 2, 3, 4]


def test_the_probe_is_tested_on_cells_that_it_was_not_fitted_on_and_their_order_is_no_matter():
    generator = np.random.default_rng(0)
    classes, ids = generator.integers(-1, 3, 200), generator.permutation(200)
    noise = generator.normal(size=(200, 30))
    signal = noise + 4 * np.eye(30)[classes]
    assert probe_score(signal, classes, ids, 0) > 0.9 and probe_score(noise, classes, ids, 0) < 0.6
    order = generator.permutation(200)
    assert probe_score(noise[order], classes[order], ids[order], 0) == pytest.approx(
        probe_score(noise, classes, ids, 0), abs=1e-6
    )


def test_labels_that_mean_more_than_others_are_no_classes_of_the_probe():
    sets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]], bool)
    assert distinct_classes(sets, np.arange(6)).tolist() == [2, 1, -1, 0, 2, -1]
    assert distinct_classes(sets, np.array([2, 3])).tolist() == [-1, -1, 1, 0, -1, -1]
    assert distinct_classes(sets[5:], np.array([0])).tolist() == [0]


def run(cells, folder, *, steps=4, family="scgpt", evaluated=True, config=(), **settings):
    dropout = {"hidden_dropout_prob": 0.2} if family == "scgpt" else {}
    tiny = json.dumps(FAMILIES[family].tiny | dropout)
    arguments = PretrainArguments(family=family, model_config=tiny, **settings)
    options = {"max_steps": steps, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "use_cpu": True}
    return pretrain(
        DataArguments([str(cells)], eval_files=[str(cells)] if evaluated else None),
        arguments,
        TrainingConfig(output_dir=str(folder / "out"), **options | dict(config)),
    )


def watched(result):
    return [record for record in result.history if "eval_effective_rank" in record]


@pytest.mark.parametrize("family", ["scgpt", "cellplm"])
def test_the_log_has_the_embedding_before_the_first_step_and_at_every_evaluation(cells, tmp_path, family):
    best = {"metric_for_best_model": "probe_macro_f1"}
    result = run(cells, tmp_path, family=family, probe_column=["cell_type"], stop_on_collapse=False, config=best)
    names = {"eval_mean_cosine", "eval_top_variance_share", "eval_effective_rank", "eval_probe_macro_f1"}
    assert [record["step"] for record in watched(result)] == [0, 2, 4] and names < watched(result)[0].keys()
    assert names < result.metrics.keys() and "probe_macro_f1" in result.summary()
    assert result.metrics["eval_probe_macro_f1"] == max(
        record["eval_probe_macro_f1"] for record in watched(result)[1:]
    )


@pytest.mark.slow
def test_watching_does_not_change_a_run(cells, tmp_path):
    plain = run(cells, tmp_path / "plain", evaluated=False)
    probed = run(cells, tmp_path / "probed", stop_on_collapse=False, probe_column=["cell_type"])
    losses = [[record["loss"] for record in one.history if "loss" in record] for one in (plain, probed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.slow
def test_a_collapse_ends_a_run_with_advice_and_a_resumed_one_may_go_on(cells, tmp_path, monkeypatch):
    found = iter([APART, APART, ALIKE, ALIKE, ALIKE, ALIKE])
    monkeypatch.setattr(EmbeddingWatch, "measure", lambda self, model: EmbeddingQuality(next(found)))
    with pytest.warns(SclmWarning, match=r"collapsed, effective rank 2\.5 \(at first 9\).*lower `learning_rate`"):
        result = run(cells, tmp_path, steps=10)
    assert (result.step, result.watch_found, result.stopped_early) == (6, "the cell embedding collapsed", True)
    assert "stopped early because the cell embedding collapsed after 6 steps" in result.summary()
    resumed = {"resume_from_checkpoint": "last"}
    with pytest.warns(SclmWarning, match="collapsed"):
        assert run(cells, tmp_path, steps=10, config=resumed).step == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error", SclmWarning)
        assert run(cells, tmp_path, steps=10, config=resumed, stop_on_collapse=False).step == 10


def test_labels_of_the_probe_need_cells_to_evaluate_on(cells, tmp_path):
    with pytest.raises(ConfigurationError, match="`probe_column` names labels of cells to evaluate on"):
        pretrain(
            DataArguments([str(cells)]),
            PretrainArguments(probe_column=["cell_type"]),
            TrainingConfig(output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True),
        )


def test_a_metric_that_only_labels_give_is_refused_without_them(cells, tmp_path):
    with pytest.raises(ConfigurationError, match="'probe_macro_f1', and the evaluation gives effective_rank, loss"):
        run(cells, tmp_path, config={"metric_for_best_model": "probe_macro_f1"})
