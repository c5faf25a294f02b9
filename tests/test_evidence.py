"""The evidence for pre-training is of cells that no model has seen."""

import importlib
from pathlib import Path

import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.training_manifest import TrainingManifest
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint

from .training.h5ad_files import GENES, write_h5ad


def test_a_model_that_saw_cells_of_a_target_is_refused_however_they_are_thinned_and_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    refuse_seen = importlib.import_module("evidence").refuse_seen
    folder = make_tiny_checkpoint("scgpt", tmp_path / "model", genes=GENES)
    trained, target = write_h5ad(tmp_path / "trained.h5ad", 9), write_h5ad(tmp_path / "target.h5ad", 9)
    TrainingManifest.of(CellCorpus(trained, load_processor(str(folder)), shuffle=False)).save(folder)
    with pytest.raises(SystemExit, match="was trained on cells of"):
        refuse_seen(folder, target)
    refuse_seen(folder, write_h5ad(tmp_path / "others.h5ad", 9, seed=1))
