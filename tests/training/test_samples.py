"""Training on whole samples."""

import json

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForPreTraining, AutoProcessor

from sclm_hf import CellCorpus, embed
from sclm_hf.corpora.statistics import gene_statistics
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_processor, make_tiny_checkpoint
from sclm_hf.registry import FAMILIES
from sclm_hf.tokenization.processing_sample import SampleProcessor
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.data import open_corpora
from sclm_hf.training.finetune import finetune
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from ..corpora.conftest import GENES, make_cells

pytestmark = pytest.mark.filterwarnings("ignore:.*are taken for one sample")


@pytest.fixture(scope="module")
def processor() -> SampleProcessor:
    return make_processor("cellplm", GENES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of three samples each."""
    folder = tmp_path_factory.mktemp("samples")
    for seed, name in enumerate(("one", "two")):
        cells = make_cells(40, seed)
        cells.obs["batch"] = np.random.default_rng(seed).choice(["a", "b", "c"], 40)
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def cells_of(corpus) -> set[tuple[int, ...]]:
    return {tuple(batch["cell_ids"].tolist()) for batch in corpus.batches(1000)}


@pytest.mark.parametrize(("share", "n_held_out"), [(0.3, 2), (0.01, 1), (0.99, 5)])
def test_an_evaluation_holds_out_whole_samples(folder, processor, share, n_held_out):
    corpus, held_out = open_corpora(DataArguments([str(folder)], eval_share=share, split_by="cell"), processor, seed=1)
    kept, rest = cells_of(corpus), cells_of(held_out)
    assert kept | rest == cells_of(CellCorpus(folder, processor))
    assert (len(kept), len(rest)) == (6 - n_held_out, n_held_out)


def test_the_only_sample_is_not_split(processor, tmp_path):
    make_cells(9).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"would split the only sample.*`eval_files`"):
        open_corpora(DataArguments([str(tmp_path)], eval_share=0.3), processor)


SETTINGS = {
    "max_steps": 15,
    "per_device_train_batch_size": 1000,
    "per_device_eval_batch_size": 1000,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_steps": 4,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_checkpoint("cellplm", tmp_path_factory.mktemp("base"), genes=GENES, task="pretrain")


def run(how, base, folder, output, batch_column=None, **settings):
    share = 0.0 if how == "pretrain" else 0.2
    by = "cell" if share else None
    data = DataArguments([str(folder)], eval_share=share, split_by=by, batch_column=batch_column)
    config = TrainingConfig(output_dir=str(output), **{**SETTINGS, **settings})
    if how == "pretrain":
        return pretrain(data, PretrainArguments(str(base)), config)
    return finetune(data, FinetuneArguments(str(base), "cell_type", head=how, partners=False), config)


def losses(result) -> list[float]:
    return [record["loss"] for record in result.history if "loss" in record]


@pytest.mark.parametrize("how", ["pretrain", *(pytest.param(how, marks=pytest.mark.slow) for how in ("lora", "full"))])
def test_a_stopped_run_goes_on_exactly(base, folder, tmp_path, how):
    whole = run(how, base, folder, tmp_path / "whole")
    assert np.isfinite(losses(whole)).all() and len(losses(whole)) == 15
    run(how, base, folder, tmp_path / "stopped", max_steps=8)
    again = {"resume_from_checkpoint": "last", "dataloader_num_workers": 2}
    assert losses(run(how, base, folder, tmp_path / "stopped", **again)) == losses(whole)


def test_a_step_is_a_sample_and_held_out_ones_are_evaluated_whole(base, folder, tmp_path):
    result = run("lora", base, folder, tmp_path)
    # one of six samples is held out
    assert [record["step"] for record in result.history if "eval_accuracy" in record] == [5, 10, 15]


def test_an_epoch_has_as_many_steps_as_samples(base, folder, tmp_path):
    settings = {"max_steps": 0, "num_train_epochs": 2, "gradient_accumulation_steps": 4}
    assert run("pretrain", base, folder, tmp_path, **settings).step == 4


@pytest.mark.slow
def test_a_new_model_learns_from_files(folder, tmp_path):
    settings = json.dumps(FAMILIES["cellplm"].tiny | {"latent_type": "vae", "hidden_dropout_prob": 0.0})
    arguments = PretrainArguments(family="cellplm", model_config=settings)
    config = TrainingConfig(output_dir=str(tmp_path), **{**SETTINGS, "max_steps": 96, "learning_rate": 0.03})
    result = pretrain(DataArguments([str(folder)]), arguments, config)
    # counts are random: there is little to learn beyond how they are distributed
    assert np.mean(losses(result)[-24:]) < np.mean(losses(result)[:12])


def test_a_model_that_knows_fewer_batches_is_not_gone_on_with(base, folder, tmp_path):
    small = AutoConfig.from_pretrained(base)
    small.num_batches = 1
    AutoModelForPreTraining.from_config(small).save_pretrained(tmp_path / "base")
    AutoProcessor.from_pretrained(base).save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigurationError, match="knows 1 batches, and `batch_column` has 3 values"):
        run("pretrain", tmp_path / "base", folder, tmp_path / "out", batch_column="batch")


@pytest.mark.parametrize("how", ["pretrain", "lora"])
def test_another_column_may_tell_samples_apart(base, folder, tmp_path, how):
    result = run(how, base, folder, tmp_path, batch_column="donor", max_steps=0, num_train_epochs=1)
    # two donors in each of two files; of four one is held out
    assert result.step == (4 if how == "pretrain" else 3)


SMALL = (
    '{"encoder_type": "mlp", "latent_type": "ae", "hidden_size": 32, "cell_embedding_size": 16, '
    '"num_hidden_layers": 2, "num_decoder_layers": 1, "num_datasets": 0}'
)


@pytest.mark.slow
def test_pretraining_on_z_scores_works_out_the_statistics_and_keeps_them(folder, tmp_path):
    settings = {"encoding": '{"encoding": "zscored"}', "model_config": SMALL, "gene_embeddings": "svd"}
    arguments = PretrainArguments(family="cellplm", **settings)
    config = TrainingConfig(output_dir=str(tmp_path), **SETTINGS | {"learning_rate": 0.003, "max_steps": 40})
    result = pretrain(DataArguments([str(folder)], eval_share=0.3, split_by="cell"), arguments, config)
    losses = [float(line["loss"]) for line in result.history if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    model, processor = AutoModelForPreTraining.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert (model.config.input_encoding, model.config.decoder_type) == ("zscored", "mlp")
    kept, _ = open_corpora(DataArguments([str(folder)], eval_share=0.3, split_by="cell"), processor)
    assert processor.feature_extractor.gene_means == gene_statistics(kept).parameters()["gene_means"]
    cells = embed(make_cells(20, 9), str(tmp_path))
    assert np.isfinite(cells.obsm["X_cellplm"]).all()
