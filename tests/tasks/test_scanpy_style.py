"""`sclm_hf.pp` and `sclm_hf.tl`: the verbs in scanpy's manner."""

import inspect

import numpy as np
import pytest

import sclm_hf
from sclm_hf import ScGPTModel
from sclm_hf.errors import ConfigurationError

from .tiny import make_cells, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("models") / "encoder", ScGPTModel)


def test_a_verb_adds_in_place_and_gives_nothing(model):
    cells = make_cells(9)
    assert sclm_hf.tl.embed(cells, model=model) is None
    assert np.array_equal(cells.obsm["X_scgpt"], sclm_hf.embed(make_cells(9), model).obsm["X_scgpt"])


def test_with_copy_it_gives_a_copy(model):
    cells = make_cells(9)
    assert "X_scgpt" in sclm_hf.tl.embed(cells, model, copy=True).obsm and "X_scgpt" not in cells.obsm


def test_all_verbs_are_there_and_say_what_their_default_is():
    assert set(dir(sclm_hf.tl)) == set(sclm_hf.tasks.verb_names())
    assert inspect.signature(sclm_hf.tl.embed).parameters["copy"].default is False
    assert sclm_hf.tl.grn is sclm_hf.grn
    with pytest.raises(AttributeError, match="has no `nonsense`"):
        _ = sclm_hf.tl.nonsense


def test_coverage_marks_the_genes_that_a_model_knows(model):
    cells = make_cells(9)
    report = sclm_hf.pp.coverage(cells, model)
    assert cells.var["sclm_known"].sum() == report.to_dict()["n_matched"]
    assert not cells.var["sclm_known"].all()
    # of the counts, as `embed` says it, not of the columns
    assert report.count_share == pytest.approx(
        sclm_hf.embed(cells, model).uns["sclm_hf"]["X_scgpt"]["coverage"]["count_share"]
    )
    assert "known" in sclm_hf.pp.coverage(make_cells(9), model, key_added="known", copy=True).var


def test_pictures_take_cells_and_leave_out_those_without_a_label():
    cells = make_cells(9)
    cells.obsm["X_umap"] = np.zeros((9, 2))
    cells.obs["label"], cells.obs["sclm_prediction"] = ["B"] * 4 + ["T"] * 4 + [None], ["B"] * 6 + ["T"] * 3
    cells.obs["sclm_confidence"] = 0.9
    axes = sclm_hf.pl.confusion(cells, "label")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["B", "T"]
    assert {"4", "2"} <= {text.get_text() for text in axes.texts}
    assert sclm_hf.pl.calibration(cells, "label").get_title(loc="left") == "8 cells, calibration error 0.150"
    assert "no label (1)" in [text.get_text() for text in sclm_hf.pl.umap(cells, "label").get_legend().texts]
    assert sclm_hf.pl.umap(cells, "sclm_confidence").collections[0].get_array().tolist() == [0.9] * 9
    cells.obs["other"] = "monocyte"
    axes = sclm_hf.pl.confusion(cells, "label", "other")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["monocyte"]
    with pytest.raises(ConfigurationError, match="rename one of them"):
        sclm_hf.pl.calibration(cells, "label", "other")
    with pytest.raises(ConfigurationError, match="no column 'lable'"):
        sclm_hf.pl.confusion(cells, "lable")
    with pytest.raises(ConfigurationError, match=r"scanpy\.tl\.umap"):
        sclm_hf.pl.umap(cells, "label", basis="X_tsne")


def test_what_is_listed_is_for_users():
    assert dir(sclm_hf.pp) == ["coverage"]
    assert {"np", "Any", "TYPE_CHECKING"}.isdisjoint(dir(sclm_hf.pl)) and "umap" in dir(sclm_hf.pl)
