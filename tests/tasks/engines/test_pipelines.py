"""The verbs as tasks of `transformers.pipeline`."""

import numpy as np
import pytest
from transformers import pipeline

import sclm_hf
from sclm_hf import ScGPTForSequenceClassification, ScGPTModel
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmError

from ..tiny import make_cells, save_checkpoint


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("models") / "encoder", ScGPTModel)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("models") / "classifier", ScGPTForSequenceClassification)


def test_embeddings_are_those_of_embed(encoder, tmp_path):
    cells = make_cells(9)
    expected = sclm_hf.embed(cells, encoder).obsm["X_scgpt"]
    pipe = pipeline("cell-embedding", model=str(encoder), batch_size=4)
    # the size of a batch changes the last bits
    assert np.allclose(pipe(cells), expected, atol=1e-6)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert np.allclose(pipe(tmp_path / "cells.h5ad"), expected, atol=1e-6)
    assert pipe(cells.to_df()).shape == expected.shape


def test_many_give_a_list_and_streams_a_generator(encoder):
    pipe, cells = pipeline("cell-embedding", model=str(encoder)), make_cells(9)
    assert [len(one) for one in pipe([cells, cells[:4].copy()])] == [9, 4]
    stream = pipe(iter([cells, cells[:4].copy()]))
    assert len(next(stream)) == 9 and len(next(stream)) == 4


def test_labels_and_scores_are_those_of_annotate(classifier):
    cells = make_cells(9)
    expected = sclm_hf.annotate(cells, classifier).obs
    found = pipeline("cell-type-annotation", model=str(classifier))(cells)
    assert [one["cell"] for one in found] == list(cells.obs_names)
    assert [one["label"] for one in found] == list(expected["sclm_prediction"].astype(str))
    assert np.allclose([one["score"] for one in found], expected["sclm_confidence"])


def test_deletions_are_those_of_perturb(encoder):
    cells = make_cells(9)
    gene = str(cells.var_names[0])
    found = pipeline("perturbation-prediction", model=str(encoder))(cells, genes=[gene])
    assert list(found.var_names) == [gene]


def test_what_a_model_cannot_do_is_said(encoder, classifier):
    with pytest.raises(CheckpointError, match="would be random"):
        pipeline("cell-type-annotation", model=str(encoder))
    with pytest.raises(SclmError):
        pipeline("gene-imputation", model=str(classifier))(make_cells(9))


def test_feature_extraction_names_the_right_task(encoder):
    with pytest.raises(ConfigurationError, match="`cell-embedding`"):
        pipeline("feature-extraction", model=str(encoder))


def test_unknown_settings_are_refused(encoder):
    with pytest.raises(ConfigurationError, match="nonsense"):
        pipeline("cell-embedding", model=str(encoder))(make_cells(9), nonsense=1)
