"""Predicted labels against true ones."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sclm_hf import ScGPTForSequenceClassification, annotate, evaluate
from sclm_hf.corpora.training_manifest import CHOSEN, TRAINED, TrainingManifest, hash_counts, hash_genes
from sclm_hf.errors import ConfigurationError, CorpusError, SclmWarning
from sclm_hf.sources.in_memory import InMemorySource

from .tiny import LABELS, make_cells, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return save_checkpoint(tmp_path / "scgpt", ScGPTForSequenceClassification)


@pytest.fixture
def cells():
    cells = make_cells()
    cells.obs["cell_type"] = np.resize(list(LABELS.values()), cells.n_obs)
    return cells


def note_as_seen(checkpoint: str, cells, *, n_chose: int = 0) -> None:
    source = InMemorySource(cells, None, expects="counts")
    counts = hash_counts(source.read(np.arange(source.n_cells)), hash_genes(source))
    roles = np.array([TRAINED] * (len(counts) - n_chose) + [CHOSEN] * n_chose, object)
    TrainingManifest(np.full(len(counts), "other", object), source.cell_ids(), counts, roles).save(checkpoint)


def test_scores_are_those_of_the_labels_that_annotate_gives(checkpoint, cells):
    record = evaluate(cells, checkpoint, label_key="cell_type").uns["sclm_hf"]["sclm_prediction"]
    predicted = annotate(cells, checkpoint).obs["sclm_prediction"].astype(str)
    expected = f1_score(cells.obs["cell_type"], predicted, average="macro")
    assert record["scores"]["macro_f1"]["mean"] == pytest.approx(expected)
    assert record["per_label"]["n_cells"].sum() == record["n_scored"] == cells.n_obs
    assert not record["has_manifest"]


def test_cells_of_the_training_are_refused_left_out_or_scored(checkpoint, cells):
    note_as_seen(checkpoint, cells[:3])
    with pytest.raises(ConfigurationError, match=r"3 of the \d+ cells of .* stand in the training manifest"):
        evaluate(cells, checkpoint, label_key="cell_type")
    left_out = evaluate(cells, checkpoint, label_key="cell_type", seen="leave_out")
    scored = evaluate(cells, checkpoint, label_key="cell_type", seen="score")
    records = [one.uns["sclm_hf"]["sclm_prediction"] for one in (left_out, scored)]
    assert [record["n_scored"] for record in records] == [cells.n_obs - 3, cells.n_obs]
    assert left_out.obs["sclm_seen_in_training"].tolist() == [True] * 3 + [False] * (cells.n_obs - 3)


def test_cells_of_the_training_are_known_whatever_genes_are_read(checkpoint, cells):
    note_as_seen(checkpoint, cells[:3])
    with pytest.raises(ConfigurationError, match=r"3 of the \d+ cells of .* stand in the training manifest"):
        evaluate(cells, checkpoint, label_key="cell_type", genes=list(cells.var_names[:50]))


def test_cells_that_chose_the_model_are_refused_like_those_that_it_was_trained_on(checkpoint, cells):
    note_as_seen(checkpoint, cells[:5], n_chose=2)
    with pytest.raises(ConfigurationError, match=r"5 of .*\(3 trained on, 2 held out to choose the checkpoint"):
        evaluate(cells, checkpoint, label_key="cell_type")
    record = evaluate(cells, checkpoint, label_key="cell_type", seen="leave_out").uns["sclm_hf"]["sclm_prediction"]
    assert (record["n_scored"], record["n_seen"], record["n_chose"]) == (cells.n_obs - 5, 5, 2)


def test_cells_without_a_label_are_not_scored(checkpoint, cells):
    cells.obs.loc[cells.obs_names[:2], "cell_type"] = np.nan
    record = evaluate(cells, checkpoint, label_key="cell_type").uns["sclm_hf"]["sclm_prediction"]
    assert record["n_scored"] == cells.n_obs - 2


def test_labels_that_the_model_does_not_know_are_named(checkpoint, cells):
    cells.obs.loc[cells.obs_names[0], "cell_type"] = "unheard of"
    with pytest.warns(SclmWarning, match="does not know 1 label .*'unheard of'"):
        evaluate(cells, checkpoint, label_key="cell_type")
    cells.obs["cell_type"] = "unheard of"
    with pytest.raises(ConfigurationError, match="holds none of the 3 labels of the model"):
        evaluate(cells, checkpoint, label_key="cell_type")


def test_the_column_of_labels_must_be_named_and_there(checkpoint, cells):
    with pytest.raises(ConfigurationError, match="--label-key"):
        evaluate(cells, checkpoint)
    with pytest.raises(CorpusError, match="absent"):
        evaluate(cells, checkpoint, label_key="absent")
