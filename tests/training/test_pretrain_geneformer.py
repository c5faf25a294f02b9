"""Masked genes from counts to a folder that is fine-tuned, annotates, embeds and perturbs."""

import json
import shutil

import anndata
import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoProcessor

from sclm_hf import GeneformerForMaskedLM, annotate, embed, perturb
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from .h5ad_files import LABELS, write_h5ad

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NEW = {
    "family": "geneformer",
    "objective": "masked_genes",
    "model_config": json.dumps(TINY | {"initializer_range": 0.1}),
    "encoding": '{"max_length": 32}',
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return [str(write_h5ad(folder / f"{seed}.h5ad", 60, seed=seed)) for seed in range(2)]


def config(folder, **settings):
    settings = {"per_device_train_batch_size": 16, "learning_rate": 3e-3, "logging_steps": 2, **settings}
    return TrainingConfig(output_dir=str(folder), **settings)


@pytest.mark.filterwarnings("ignore:The embeddings in")
@pytest.mark.slow
def test_from_counts_to_labels(files, tmp_path):
    history = pretrain(DataArguments(files), PretrainArguments(**NEW), config(tmp_path / "base", num_train_epochs=3))
    losses = [record["loss"] for record in history.history if "loss" in record]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "base")
    assert type(model) is GeneformerForMaskedLM
    assert (model.config.has_special_tokens, model.config.max_position_embeddings) == (True, 32)
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    assert set(processor.tokenizer.gene_vocabulary.special_tokens) == {"<pad>", "<mask>", "<cls>", "<eos>"}

    arguments = FinetuneArguments(str(tmp_path / "base"), "cell_type", partners=False)
    history = finetune(DataArguments(files), arguments, config(tmp_path / "tuned", num_train_epochs=6))
    losses = [record["loss"] for record in history.history if "loss" in record]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])
    cells = anndata.read_h5ad(files[0])
    for folder in ("tuned", "tuned/adapter"):
        labelled = annotate(cells, tmp_path / folder)
        assert set(labelled.obs["sclm_prediction"].cat.categories) == set(LABELS)
    embedding = embed(cells, tmp_path / "base", batch_size=7).obsm["X_geneformer"]
    np.testing.assert_allclose(embedding, embed(cells, tmp_path / "base").obsm["X_geneformer"], atol=1e-5)
    assert perturb(cells, tmp_path / "base", genes=["GENE1"]).n_vars == 1


@pytest.mark.slow
def test_a_run_with_tied_weights_goes_on_exactly(files, tmp_path):
    settings = {"save_steps": 2, "logging_steps": 1}
    whole = pretrain(DataArguments(files), PretrainArguments(**NEW), config(tmp_path / "a", max_steps=5, **settings))
    pretrain(DataArguments(files), PretrainArguments(**NEW), config(tmp_path / "b", max_steps=5, **settings))
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-00000005")
    again = config(tmp_path / "b", max_steps=5, resume_from_checkpoint="last", **settings)
    resumed = pretrain(DataArguments(files), PretrainArguments(**NEW), again)
    assert [record["loss"] for record in resumed.history] == [record["loss"] for record in whole.history]
    ours, theirs = (AutoModelForPreTraining.from_pretrained(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
