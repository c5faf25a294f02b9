"""Annotation from descriptions, and search, with a dual encoder."""

import json

import anndata as ad
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from sclm_hf import annotate, embed, search
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError

from ..dual_encoders import TEXTS, tiny_dual_encoder
from ..training.h5ad_files import write_h5ad


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual")
    for name, settings in (("plain", {}), ("matching", {"matching_layers": 1})):
        model, processor = tiny_dual_encoder(folder, **settings)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    write_h5ad(folder / "cells.h5ad", 9)
    return folder


@pytest.fixture
def cells(place):
    return ad.read_h5ad(place / "cells.h5ad")


def directions(place, cells, texts):
    model, processor = (one.from_pretrained(place / "plain") for one in (AutoModel, AutoProcessor))
    with torch.no_grad():
        output = model.eval()(**processor(cells, texts, return_tensors="pt"))
    return output


def test_embed_gives_directions_of_the_shared_space(place, cells):
    embedded = embed(cells, place / "plain", batch_size=4).obsm["X_cell_text_dual_encoder"]
    np.testing.assert_allclose(embedded, directions(place, cells, ["a"]).cell_embedding, atol=1e-5)


def test_cells_get_the_label_whose_text_is_nearest(place, cells):
    annotated = annotate(cells, place / "plain", labels=TEXTS, batch_size=4)
    expected = directions(place, cells, list(TEXTS.values())).logits.softmax(dim=1)
    np.testing.assert_allclose(annotated.obsm["sclm_probabilities"], expected, atol=1e-5)
    assert list(annotated.obs["sclm_prediction"]) == [list(TEXTS)[i] for i in expected.argmax(dim=1).tolist()]
    assert list(annotated.uns["sclm_hf"]["sclm_prediction"]["label_names"]) == list(TEXTS)


def test_the_matching_head_weighs_in_as_published(place, cells):
    annotated = annotate(cells, place / "matching", labels=TEXTS)
    probabilities = annotated.obsm["sclm_probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    again = annotate(cells[::-1], place / "matching", labels=TEXTS, batch_size=2).obsm["sclm_probabilities"]
    np.testing.assert_allclose(again[::-1], probabilities, atol=1e-5)


def test_several_texts_of_a_label_are_one_direction(place, cells):
    same = {name: [text, text] for name, text in TEXTS.items()}
    one, two = (annotate(cells, place / "plain", labels=labels).obsm["sclm_probabilities"] for labels in (TEXTS, same))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_model_without_text_is_refused(place, cells):
    with pytest.raises(CheckpointError, match="is a `scgpt` model"):
        annotate(cells, place / "cells", labels=TEXTS)
    with pytest.raises(ConfigurationError, match="describe their types: give `labels`"):
        annotate(cells, place / "plain")


def test_search_gives_cosines_and_the_best_cells(place, cells):
    cells.obs["group"] = ["a", "b", "b"] * 3
    texts = list(TEXTS.values())
    found = search(cells, place / "plain", queries=texts, top=2, by="group")
    output = directions(place, cells, texts)
    expected = output.cell_embedding @ output.text_embedding.T
    np.testing.assert_allclose(found.obsm["sclm_search"], expected, atol=1e-5)
    record = found.uns["sclm_hf"]["sclm_search"]
    assert list(record["queries"]) == texts and record["best_cells"].shape == (3, 2)
    assert list(record["best_cells"][:, 0]) == [cells.obs_names[i] for i in expected.argmax(dim=0).tolist()]
    assert list(record["groups"]) == ["a", "b"] and record["group_similarities"].shape == (2, 3)
    with pytest.raises(ConfigurationError, match="Say what to look for"):
        search(cells, place / "plain")


def test_the_commands_write_what_the_functions_add(place, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(TEXTS))
    source, model = str(place / "cells.h5ad"), str(place / "plain")
    for verb, option, value in (
        ("annotate", "--labels", str(tmp_path / "labels.json")),
        ("search", "--queries", "makes antibodies|kills cells"),
    ):
        output = str(tmp_path / f"{verb}.h5ad")
        result = CliRunner().invoke(make_app(), [verb, source, output, "--model", model, option, value])
        assert result.exit_code == 0, result.output
    assert ad.read_h5ad(tmp_path / "search.h5ad").obsm["sclm_search"].shape == (9, 2)
    assert set(ad.read_h5ad(tmp_path / "annotate.h5ad").obs["sclm_prediction"]) <= set(TEXTS)
