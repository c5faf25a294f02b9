"""Families that read rankings, from counts to a folder that is fine-tuned, annotates, embeds and perturbs."""

import json

import anndata
import numpy as np
import pytest
from transformers import AutoModelForPreTraining, AutoProcessor

from sclm_hf import annotate, embed, perturb
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from .h5ad_files import LABELS, write_h5ad

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES = {
    "iseeek": ("ISEEEKForMaskedLM", BERT | {"initializer_range": 0.1}),
    "tgpt": ("TGPTForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.1}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return [str(write_h5ad(folder / f"{seed}.h5ad", 60, seed=seed)) for seed in range(2)]


def config(folder, **settings):
    settings = {"per_device_train_batch_size": 16, "learning_rate": 3e-3, "logging_steps": 2, **settings}
    return TrainingConfig(output_dir=str(folder), **settings)


def losses_fall(result) -> bool:
    losses = [record["loss"] for record in result.history if "loss" in record]
    return bool(np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3]))


@pytest.mark.filterwarnings("ignore:The embeddings in")
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_from_counts_to_labels(family, files, tmp_path):
    head, sizes = FAMILIES[family]
    new = PretrainArguments(family=family, model_config=json.dumps(sizes))
    assert losses_fall(pretrain(DataArguments(files), new, config(tmp_path / "base", num_train_epochs=3)))
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "base")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "base").tokenizer
    assert type(model).__name__ == head
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    if family == "tgpt":
        assert (model.config.bos_token_id, model.config.eos_token_id) == (
            tokenizer.cls_token_id,
            tokenizer.eos_token_id,
        )

    arguments = FinetuneArguments(str(tmp_path / "base"), "cell_type", partners=False)
    assert losses_fall(finetune(DataArguments(files), arguments, config(tmp_path / "tuned", num_train_epochs=6)))
    cells = anndata.read_h5ad(files[0])
    for folder in ("tuned", "tuned/adapter"):
        labelled = annotate(cells, tmp_path / folder)
        assert set(labelled.obs["sclm_prediction"].cat.categories) == set(LABELS)
    embedding = embed(cells, tmp_path / "base", batch_size=7).obsm[f"X_{family}"]
    np.testing.assert_allclose(embedding, embed(cells, tmp_path / "base").obsm[f"X_{family}"], atol=1e-5)
    shifts = perturb(cells, tmp_path / "base", genes=["GENE1"])
    assert shifts.n_vars == 1


def test_next_genes_need_a_ranking(files, tmp_path):
    arguments = PretrainArguments(family="tgpt", encoding='{"encoding": "bins", "n_bins": 5}')
    with pytest.raises(ValueError, match="next gene is that of a ranking, and the encoding 'bins' has none"):
        pretrain(DataArguments(files), arguments, config(tmp_path))
