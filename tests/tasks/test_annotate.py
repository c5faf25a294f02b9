import anndata
import numpy as np
import pytest
import torch

from sclm_hf import ScGPTForSequenceClassification, ScGPTModel, annotate
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmWarning

from .tiny import LABELS, make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"), ScGPTForSequenceClassification)


def test_predictions_are_those_of_the_classifier(checkpoint):
    cells = make_cells()
    result = annotate(cells, checkpoint, batch_size=5)
    with torch.no_grad():
        batch = make_processor()(cells, return_tensors="pt")
        expected = make_model(ScGPTForSequenceClassification)(**batch).logits.softmax(-1).numpy()
    np.testing.assert_allclose(result.obsm["sclm_probabilities"], expected, atol=1e-5)
    assert result.obs["sclm_prediction"].tolist() == [LABELS[index] for index in expected.argmax(1)]
    np.testing.assert_allclose(result.obs["sclm_confidence"], expected.max(1), atol=1e-5)
    assert list(result.obs["sclm_prediction"].cat.categories) == list(LABELS.values())
    assert "sclm_prediction" not in cells.obs


def test_uncertain_cells_are_unassigned(checkpoint):
    confidence = annotate(make_cells(), checkpoint).obs["sclm_confidence"].to_numpy()
    threshold = float(np.median(confidence))
    result = annotate(make_cells(), checkpoint, unassigned_threshold=threshold)
    np.testing.assert_array_equal(result.obs["sclm_prediction"] == "unassigned", confidence < threshold)
    assert 0 < (result.obs["sclm_prediction"] == "unassigned").sum() < len(confidence)


def test_result_survives_the_file(checkpoint, tmp_path):
    annotate(make_cells(), checkpoint, unassigned_threshold=0.5).write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    record = again.uns["sclm_hf"]["sclm_prediction"]
    assert list(record["label_names"]) == list(LABELS.values())
    assert record["settings"]["unassigned_threshold"] == 0.5


def test_a_model_without_trained_head_is_refused(tmp_path):
    told = r"lacks \d+ weights? that ScGPTForSequenceClassification needs.*classifier.*random"
    with pytest.raises(CheckpointError, match=told):
        annotate(make_cells(), save_checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="needs a model with a classification head, got ScGPTModel"):
        annotate(make_cells(), make_model(ScGPTModel), make_processor())


def test_threshold_is_checked(checkpoint):
    with pytest.raises(ConfigurationError, match="between 0 and 1, got 50"):
        annotate(make_cells(), checkpoint, unassigned_threshold=50)


def test_labels_of_several_models_have_names_of_their_own(checkpoint):
    result = annotate(annotate(make_cells(), checkpoint), checkpoint, key_added="second")
    assert result.obs["second"].tolist() == result.obs["sclm_prediction"].tolist()
    assert {"sclm_confidence", "second_confidence"} < set(result.obs)
    assert set(result.obsm) == {"sclm_probabilities", "second_probabilities"}
    assert list(result.uns["sclm_hf"]["second"]["label_names"]) == list(LABELS.values())


def test_replacing_the_labels_of_another_model_is_warned_of(checkpoint, tmp_path):
    other = save_checkpoint(tmp_path, ScGPTForSequenceClassification)
    with pytest.warns(SclmWarning, match="another `key_added` .* keeps both"):
        annotate(annotate(make_cells(), checkpoint), other)


def test_names_that_columns_cannot_have_are_refused():
    cells = make_cells()
    cells.obs.index.name = "barcode"
    for key, told in (("barcode", "names of the cells"), ("_index", "names of the cells"), ("a/b", "without `/`")):
        with pytest.raises(ConfigurationError, match=told):
            annotate(cells, "never looked at", key_added=key)
