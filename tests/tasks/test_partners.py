"""A classifier that labels cells together with partners."""

import json
import shutil

import anndata as ad
import numpy as np
import pytest
import torch

from sclm_hf import annotate
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.kinds import AUTO_CLASSES
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.partners import combined, logarithms, read_weights, with_partners, write_partners
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.running import batches

from .tiny import GENES, make_cells

WEIGHTS = {"model": 0.5, "first": 1.0, "second": 0.25}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A classifier with two partners, and where these came from."""
    root = tmp_path_factory.mktemp("partners")
    made = {
        name: make_tiny_checkpoint(family, root / name, task="annotate", genes=GENES, seed=seed)
        for name, family, seed in (("model", "scgpt", 0), ("first", "tgpt", 1), ("second", "cellplm", 2))
    }
    shutil.copytree(made["model"], root / "ensemble")
    for name in ("first", "second"):
        shutil.copytree(made[name], root / "ensemble" / "partners" / name)
    write_partners(root / "ensemble", WEIGHTS, {"baselines": {}})
    return made | {"ensemble": root / "ensemble"}


def probabilities(model, **settings):
    return annotate(make_cells(), str(model), device="cpu", **settings).obsm["sclm_probabilities"]


def test_annotate_adds_weighted_log_probabilities(folders):
    alone = {name: logarithms(probabilities(folders[name])) for name in WEIGHTS}
    total = np.exp(sum(WEIGHTS[name] * alone[name] for name in WEIGHTS))
    expected = total / total.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(folders["ensemble"]), expected, atol=1e-5)
    np.testing.assert_allclose(combined(alone, WEIGHTS), expected, atol=1e-6)


def test_partners_can_be_left_out(folders):
    found = probabilities(folders["ensemble"], partners=False)
    np.testing.assert_array_equal(found, probabilities(folders["model"]))


def test_partners_that_a_model_does_not_have_are_refused_where_they_are_asked_for(folders):
    assert np.array_equal(probabilities(folders["ensemble"], partners=True), probabilities(folders["ensemble"]))
    with pytest.raises(ConfigurationError, match=r"has no partners.*leave out `partners` \(`--partners`\)"):
        probabilities(folders["model"], partners=True)


def test_partners_stay_in_float32_beside_a_model_in_half_precision(folders):
    loaded = with_partners(load_model(folders["ensemble"], AUTO_CLASSES["annotate"], device="cpu", dtype="bfloat16"))
    assert loaded.model.dtype == torch.bfloat16
    assert [one.loaded.model.dtype for one in loaded.partners.partners] == [torch.float32] * 2


def test_the_record_names_the_weights(folders):
    cells = annotate(make_cells(), str(folders["ensemble"]), device="cpu")
    assert cells.uns["sclm_hf"]["sclm_prediction"]["partners"] == WEIGHTS


def test_labels_from_file_to_file_are_those_in_memory_whatever_the_blocks(folders, tmp_path, monkeypatch):
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(batches, "BLOCK_SIZE", 7)
    run_files("annotate", tmp_path / "cells.h5ad", tmp_path / "out.h5ad", str(folders["ensemble"]), device="cpu")
    found = ad.read_h5ad(tmp_path / "out.h5ad").obsm["sclm_probabilities"]
    np.testing.assert_allclose(found, probabilities(folders["ensemble"]), atol=1e-6)


def test_a_file_labelled_without_partners_is_not_taken_for_one_with_them(folders, tmp_path):
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    where = ("annotate", tmp_path / "cells.h5ad", tmp_path / "out.h5ad", str(folders["ensemble"]))
    run_files(*where, device="cpu", partners=False)
    with pytest.raises(ConfigurationError, match="overwrite"):
        run_files(*where, device="cpu")


def test_a_partner_with_other_labels_is_refused(folders, tmp_path):
    shutil.copytree(folders["ensemble"], tmp_path / "ensemble")
    config = tmp_path / "ensemble" / "partners" / "first" / "config.json"
    config.write_text(config.read_text().replace("Monocyte", "DC"))
    with pytest.raises(CheckpointError, match=r"`first`.*other labels.*--no-partners"):
        probabilities(tmp_path / "ensemble")


@pytest.mark.parametrize(
    "weights", [None, [], {}, {"model": 0}, {"model": -1, "a": 2}, {"../a": 1}, {"model": True}, {"a": "1"}]
)
def test_weights_that_are_none_are_refused(weights, tmp_path):
    (tmp_path / "partners.json").write_text(json.dumps({"weights": weights}))
    with pytest.raises(CheckpointError, match="must hold `weights`"):
        read_weights(tmp_path / "partners.json")
