"""`predict_perturbation` from file to file: training and predictions continued after a stop."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError, GeneCoverageError
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.prediction.models import SetPredictor
from sclm_hf.training.loop import _Run

from ..stopped_runs import stopping
from .screens import features, make_screen

pytestmark = pytest.mark.filterwarnings("ignore:The predictions for 3")

WANTED = ["GENE3", "GENE6", "GENE0+GENE1"]
TINY = '{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}'


@pytest.fixture
def folder(tmp_path):
    make_screen().write_h5ad(tmp_path / "in.h5ad")
    features().to_csv(tmp_path / "features.csv")
    (tmp_path / "recipe.yaml").write_text(
        f"model_config: '{TINY}'\nmax_steps: 6\nsave_steps: 2\ncells_per_set: 8\nlearning_rate: 0.03\nuse_cpu: true\n"
    )
    return tmp_path


@pytest.fixture
def steps(monkeypatch):
    """The steps that are taken."""
    taken, take = [], _Run._take
    monkeypatch.setattr(_Run, "_take", lambda self, step: taken.append(self.state.step) or take(self, step))
    return taken


@pytest.fixture
def predicted(monkeypatch):
    """The perturbations whose cells are predicted."""
    found, cells = [], SetPredictor.cells
    monkeypatch.setattr(
        SetPredictor, "cells", lambda self, parts, *more: found.append(parts) or cells(self, parts, *more)
    )
    return found


def run(folder, output="out", trained="trained", **settings):
    settings = {"method": "set", "perturbations": WANTED, **settings}
    if settings["method"] == "set":
        settings |= {"trained": str(folder / trained), "recipe": str(folder / "recipe.yaml")}
    settings["features"] = str(folder / "features.csv")
    return run_files("predict_perturbation", folder / "in.h5ad", folder / f"{output}.h5ad", None, **settings)


def stopping_at_step(monkeypatch, number):
    take = _Run._take

    def take_or_stop(self, step):
        if self.state.step == number:
            raise KeyboardInterrupt
        take(self, step)

    monkeypatch.setattr(_Run, "_take", take_or_stop)


def same(folder):
    whole, out = (anndata.read_h5ad(folder / name) for name in ("whole.h5ad", "out.h5ad"))
    np.testing.assert_array_equal(out.X.toarray(), whole.X.toarray())
    assert out.obs.equals(whole.obs)
    # the steps make a difference
    assert whole.uns["sclm_hf"]["predict_perturbation"]["spread"] > 1e-3
    scores = [one.uns["sclm_hf"]["predict_perturbation"]["scores"]["pearson_delta"] for one in (whole, out)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(("stop", "left"), [(0, 6), (1, 6), (3, 4), (5, 2)])
def test_training_goes_on_from_its_last_checkpoint(folder, steps, monkeypatch, stop, left):
    run(folder, "whole", "other")
    assert len(steps) == 6
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping_at_step(patched, stop)
        run(folder)
    assert not (folder / "out.h5ad").exists() and (folder / "out.h5ad.partial").exists()
    steps.clear()
    run(folder)
    assert steps == list(range(6 - left, 6)) and not (folder / "out.h5ad.partial").exists()
    same(folder)


def test_predictions_that_are_there_are_not_made_again(folder, steps, predicted, monkeypatch):
    run(folder, "whole", "other")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping(patched, "predicted-00000001.npz")
        run(folder)
    everything = list(predicted)
    steps.clear(), predicted.clear()
    run(folder)
    assert not steps and len(predicted) == 2 and set(map(tuple, predicted)) < set(map(tuple, everything))
    same(folder)


def test_a_stopped_training_of_other_settings_is_refused(folder, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping_at_step(patched, 3)
        run(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "weight_decay: 0.5\n")
    with pytest.raises(ConfigurationError, match="differs in recipe: repeat that run"):
        run(folder)
    # what is in the folder of the model is never mixed with another run, or replaced
    with pytest.raises(ConfigurationError, match="holds checkpoints of an earlier run"):
        run(folder, overwrite=True)


def test_what_is_refused_or_fitted_in_seconds_leaves_no_folder(folder):
    with pytest.raises(GeneCoverageError, match="none of NOTHING"):
        run(folder, method="ridge", perturbations=["NOTHING"])
    run(folder, method="ridge")
    assert sorted(path.name for path in Path(folder).iterdir()) == [
        "features.csv",
        "in.h5ad",
        "out.h5ad",
        "recipe.yaml",
    ]
