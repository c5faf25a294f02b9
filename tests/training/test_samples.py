"""Training on whole samples."""

import dataclasses

import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.registry import FAMILIES
from sclm_hf.tokenization.processing_sample import SampleProcessor
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.data import DataArguments, open_corpora
from sclm_hf.training.loop import train
from sclm_hf.training.validation import classification_metrics

from ..corpora.conftest import make_cells
from ..tasks.sample_model import GENES, SampleForSequenceClassification, make_model, make_processor


@pytest.fixture(scope="module")
def processor() -> SampleProcessor:
    return make_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of three samples each."""
    folder = tmp_path_factory.mktemp("samples")
    for seed, name in enumerate(("one", "two")):
        cells = make_cells(40, seed, GENES)
        cells.obs["batch"] = np.random.default_rng(seed).choice(["a", "b", "c"], 40)
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def cells_of(corpus) -> set[tuple[int, ...]]:
    return {tuple(batch["cell_ids"].tolist()) for batch in corpus.batches(1000)}


@pytest.mark.parametrize(("share", "n_held_out"), [(0.3, 2), (0.01, 1), (0.99, 5)])
def test_an_evaluation_holds_out_whole_samples(folder, processor, share, n_held_out):
    corpus, held_out = open_corpora(DataArguments([str(folder)], eval_share=share), processor, seed=1)
    kept, rest = cells_of(corpus), cells_of(held_out)
    assert kept | rest == cells_of(CellCorpus(folder, processor))
    assert (len(kept), len(rest)) == (6 - n_held_out, n_held_out)


def test_the_only_sample_is_not_split(processor, tmp_path):
    make_cells(9, 0, GENES).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"would split the only sample.*`eval_files`"):
        open_corpora(DataArguments([str(tmp_path)], eval_share=0.3), processor)


SETTINGS = {
    "max_steps": 15,
    "per_device_train_batch_size": 1000,
    "learning_rate": 0.02,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_steps": 4,
    "use_cpu": True,
}


@pytest.fixture
def base(tmp_path, monkeypatch):
    known = dataclasses.replace(FAMILIES["scgpt"], name="cellplm")
    monkeypatch.setitem(FAMILIES, "cellplm", known)
    make_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def fit(base, folder, output, *, on_log=None, **settings):
    processor = make_processor()
    corpus = CellCorpus(folder, processor, label_column="cell_type", seed=3)
    model = SampleForSequenceClassification.from_pretrained(base)
    collator = CellClassificationCollator.from_processor(processor, num_labels=3)
    config = TrainingConfig(output_dir=str(output), **{**SETTINGS, **settings})
    how = {"eval_corpus": corpus, "compute_metrics": classification_metrics, "on_log": on_log}
    return train(model, corpus, collator, config, processor=processor, **how)


def losses(result) -> list[float]:
    return [record["loss"] for record in result.history if "loss" in record]


def test_a_step_is_a_sample_and_a_stopped_run_goes_on_exactly(base, folder, tmp_path):
    whole = fit(base, folder, tmp_path / "whole")
    # six samples an epoch
    evaluated = [record["step"] for record in whole.history if "eval_accuracy" in record]
    assert evaluated == [6, 12, 15] and losses(whole)[-1] < losses(whole)[0]

    def stop(record):
        if record["step"] == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(base, folder, tmp_path / "stopped", on_log=stop)
    how = {"resume_from_checkpoint": "last", "dataloader_num_workers": 2}
    resumed = fit(base, folder, tmp_path / "stopped", **how)
    assert losses(resumed) == losses(whole)


def test_an_epoch_has_as_many_steps_as_samples(base, folder, tmp_path):
    result = fit(base, folder, tmp_path / "out", max_steps=0, num_train_epochs=2, gradient_accumulation_steps=4)
    assert result.step == 4
