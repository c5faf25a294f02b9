"""The demo app without a browser: limits, what it finds, pictures, and tools that stay in their folder."""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pytest
import torch
import yaml

from sclm_hf import ScGPTForSequenceClassification
from sclm_hf.app import analysis as analysis_module
from sclm_hf.app.analysis import analyse, ask, top_genes, write_result
from sclm_hf.app.cells import built_in_cells, count_seen, read_upload, unseen_cells
from sclm_hf.app.limits import limited_time
from sclm_hf.app.pictures import clicked, draw_maps
from sclm_hf.app.settings import AppSettings
from sclm_hf.app.tools import choose_model, inside, make_tools
from sclm_hf.errors import ConfigurationError, CorpusError

from ..tasks.tiny import make_cells, save_checkpoint

CHECKPOINT = str(Path(analysis_module.__file__).parents[2] / "model_cards" / "checkpoints" / "scgpt-blood-small")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "tiny", ScGPTForSequenceClassification)


@pytest.fixture
def settings(model, tmp_path):
    (tmp_path / "uploads").mkdir()
    return AppSettings(models=(model,), folder=tmp_path / "uploads", max_cells=40, max_megabytes=1)


@pytest.fixture
def found(model, monkeypatch):
    # UMAP takes long to compile
    monkeypatch.setattr("sclm_hf.evaluation.plots.umap_layout", lambda embedding: np.asarray(embedding)[:, :2])
    return analyse(make_cells(), model, time_limit=300)


def test_uploads_have_limits(settings):
    path = settings.folder / "cells.h5ad"
    make_cells(41).write_h5ad(path)
    with pytest.raises(CorpusError, match="41 cells; the app takes 20 to 40"):
        read_upload(path, settings)
    make_cells(40).write_h5ad(path)
    assert read_upload(path, settings).n_obs == 40
    with pytest.raises(CorpusError, match=r"not an `\.h5ad` file"):
        read_upload(path.with_suffix(".txt"), settings)
    os.truncate(path, 1_000_001)
    with pytest.raises(CorpusError, match="the app takes 1:"):
        read_upload(path, settings)


def test_links_in_uploads_are_refused(settings):
    path = settings.folder / "cells.h5ad"
    make_cells().write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["uns/elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(CorpusError, match="external link"):
        read_upload(path, settings)


def test_cells_of_the_same_name_are_refused(settings):
    cells = make_cells()
    cells.obs_names = ["cell"] * cells.n_obs
    cells.write_h5ad(settings.folder / "cells.h5ad")
    with pytest.raises(CorpusError, match="of the same name"):
        read_upload(settings.folder / "cells.h5ad", settings)


def test_old_files_go_from_the_folder_of_the_app_alone(settings, model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = AppSettings(models=(model,))
    for folder in (own.folder, settings.folder):
        for name, modified in (("old", 0), ("new", 2**33)):
            (folder / name).touch()
            os.utime(folder / name, (modified, modified))
    own.remove_old_files(60)
    settings.remove_old_files(60)
    assert {path.name for path in own.folder.iterdir()} == {"new"}
    assert {path.name for path in settings.folder.iterdir()} == {"old", "new"}


def test_settings_out_of_range(model, tmp_path):
    with pytest.raises(ConfigurationError, match="--max-cells"):
        AppSettings(models=(model,), max_cells=0, folder=tmp_path)
    with pytest.raises(ConfigurationError, match="no folder"):
        AppSettings(models=(model,), folder=tmp_path / "absent")


def test_the_default_checkpoint_has_seen_no_built_in_cell():
    cells = unseen_cells(CHECKPOINT)
    assert cells.shape == (700, 765) and count_seen(cells, CHECKPOINT) == 0


def test_built_in_cells_are_refused_where_the_model_was_trained_on_them(monkeypatch):
    monkeypatch.setattr("sclm_hf.app.cells.count_seen", lambda cells, model, name: 7)
    with pytest.raises(ConfigurationError, match="trained on 7 of the built-in cells"):
        unseen_cells(CHECKPOINT)
    assert set(built_in_cells().obs) == {"cell_type", "batch"}


def test_a_run_stops_at_its_limit_and_leaves_no_hook():
    layer = torch.nn.Linear(2, 2)
    with limited_time(0), pytest.raises(ConfigurationError, match="longer than the 0 seconds"):
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))


def test_cells_are_labelled_mapped_and_summed_up(found):
    assert {"sclm_prediction", "sclm_confidence"} <= set(found.cells.obs)
    assert found.cells.obsm["X_sclm_umap"].shape == (23, 2)
    assert "23 cells" in found.summary and "90 of 91 genes" in found.summary
    assert "does not say which cells" in found.summary


def test_a_click_finds_its_cell(found):
    for picture in draw_maps(found, chosen=3):
        height, width, _ = picture.pixels.shape
        assert (picture.places >= 0).all() and (picture.places <= [width, height]).all()
        row = clicked(picture, *picture.places[5])
        assert np.allclose(picture.places[row], picture.places[5])
        assert clicked(picture, -500, -500) is None


def test_genes_of_a_cell_with_their_counts(found):
    table = top_genes(found, "cell 4", time_limit=300, n_genes=5)
    assert table["attribution"].is_monotonic_decreasing and len(table) == 5
    assert table["counts"].tolist() == [found.cells["cell 4", gene].X.toarray()[0, 0] for gene in table["gene"]]
    with pytest.raises(ConfigurationError, match="No cell is called 'nobody'"):
        top_genes(found, "nobody", time_limit=300)


def test_questions_without_a_language_model_say_what_to_start(found):
    with pytest.raises(ConfigurationError, match="--text-model"):
        ask(found, "cell 4", "Which cell type is it?", None, time_limit=300)


def test_the_result_can_be_read_again(found, tmp_path):
    again = anndata.read_h5ad(write_result(found, tmp_path))
    assert again.obs["sclm_prediction"].tolist() == found.cells.obs["sclm_prediction"].tolist()


def test_tools_read_and_write_beside_the_upload(settings):
    make_cells().write_h5ad(settings.folder / "cells.h5ad")
    reference = make_cells(30, seed=1)
    reference.obs_names = [f"known {name}" for name in reference.obs_names]
    reference.obs["cell_type"] = ["a", "b"] * 15
    reference.write_h5ad(settings.folder / "known.h5ad")
    embed, annotate, perturb, map = make_tools(settings)
    assert embed("cells.h5ad")["embedding"] == [23, 32]
    assert sum(annotate("cells.h5ad")["cells_per_label"].values()) == 23
    assert set(perturb("cells.h5ad", ["GENE3"])["mean_similarity"]) == {"GENE3"}
    mapped = map("cells.h5ad", "known.h5ad", "cell_type")
    assert set(mapped["cells_per_label"]) <= {"a", "b", "unknown"}
    assert anndata.read_h5ad(settings.folder / mapped["file"]).n_obs == 23


def test_tools_read_nothing_outside_the_folder(settings, tmp_path):
    make_cells().write_h5ad(tmp_path / "secret.h5ad")
    (settings.folder / "link.h5ad").symlink_to(tmp_path / "secret.h5ad")
    for file in ("../secret.h5ad", str(tmp_path / "secret.h5ad"), "link.h5ad", "absent.h5ad", "a\0b", ""):
        with pytest.raises(ConfigurationError, match="in the upload folder"):
            inside(file, settings.folder)


def test_questions_are_answered_about_the_cell(found, monkeypatch):
    asked = []

    class FakeChat:
        def __init__(self, cells, model):
            asked.append((cells.n_obs, model))

        def ask(self, question, cells):
            asked.append((question, cells))
            return SimpleNamespace(text="A B cell.")

    monkeypatch.setattr("sclm_hf.text.chat.Chat", FakeChat)
    assert ask(found, "cell 4", "Which cell type is it?", "text_model", time_limit=300) == "A B cell."
    assert asked == [(23, "text_model"), ("Which cell type is it?", ["cell 4"])]
    with pytest.raises(ConfigurationError, match="empty"):
        ask(found, "cell 4", " ", "text_model", time_limit=300)


def test_the_space_needs_what_the_package_needs():
    space = Path(CHECKPOINT).parents[1] / "space"
    facts = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (space / facts["app_file"]).is_file() and facts["sdk_version"].startswith("6.")
    assert {"AppSettings", "launch"} <= set(runpy.run_path(str(space / "app.py"), run_name="space"))


def test_tools_open_only_the_models_of_the_app(settings, model):
    assert choose_model("", settings) == choose_model("tiny", settings) == model
    with pytest.raises(ConfigurationError, match="no model 'other'"):
        choose_model("other", settings)
