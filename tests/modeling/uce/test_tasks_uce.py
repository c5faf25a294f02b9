"""A converted UCE from AnnData to AnnData, and fine-tuned."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from safetensors.numpy import load_file, save_file

from sclm_hf import UCEForSequenceClassification, annotate, embed
from sclm_hf.adapters.lora import lora_config
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.uce.modeling_uce import PROTEIN_FILE
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .golden_uce import convert_case, recorded


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert_case("case_a", tmp_path_factory.mktemp("uce"))


@pytest.fixture
def cells():
    arrays = recorded("case_a")
    adata = AnnData(arrays["raw_x"])
    adata.var_names = [str(name) for name in arrays["raw_var"]]
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) % 2, "B", "T")
    return adata


def test_embed_does_not_depend_on_the_batch(converted, cells):
    together = embed(cells, converted).obsm["X_uce"]
    alone = embed(cells, converted, batch_size=1).obsm["X_uce"]
    some = embed(cells[[7, 3]].copy(), converted).obsm["X_uce"]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(some, together[[7, 3]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.abs(embed(cells, converted, seed=1).obsm["X_uce"] - together).max() > 1e-3


def test_files_of_another_protein_table_are_not_taken_for_finished(converted, cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    other = Path(shutil.copytree(converted, tmp_path / "other"))
    table = load_file(other / PROTEIN_FILE)["weight"].copy()
    # the row of <cls>, which every cell has
    table[3] += 1
    save_file({"weight": table}, other / PROTEIN_FILE)
    run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", converted)
    run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", converted)
    with pytest.raises(ConfigurationError, match="overwrite"):
        run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", other)


def test_proteins_are_not_trained(converted, tmp_path):
    model = UCEForSequenceClassification.from_pretrained(converted)
    with pytest.raises(ConfigurationError, match="gene embeddings of UCE are a fixed table"):
        lora_config(model, train_gene_embeddings=True)
    table = model.get_input_embeddings().the_table().rows
    model.set_protein_embeddings(torch.cat([table, table[-1:]]))
    assert lora_config(model).modules_to_save == ["classifier"]


@pytest.mark.parametrize("lora", [True, False])
def test_finetune_and_annotate(converted, cells, tmp_path, lora):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    config = TrainingConfig(output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4)
    arguments = FinetuneArguments(
        model_name_or_path=str(converted), label_column="cell_type", head="lora" if lora else "full", partners=False
    )
    finetune(DataArguments(train_files=[str(tmp_path / "cells.h5ad")]), arguments, config)
    annotated = annotate(cells, tmp_path / "out")
    assert set(annotated.obs["sclm_prediction"]) <= {"B", "T"}
    model = UCEForSequenceClassification.from_pretrained(tmp_path / "out")
    tables = [load_file(folder / PROTEIN_FILE)["weight"] for folder in (converted, tmp_path / "out")]
    np.testing.assert_array_equal(*tables)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["padding_is_additive"]
    assert model.config.num_labels == 2
    if lora:
        adapter = tmp_path / "out" / "adapter"
        assert not (adapter / PROTEIN_FILE).exists()
        np.testing.assert_allclose(
            annotate(cells, adapter).obsm["sclm_probabilities"], annotated.obsm["sclm_probabilities"], atol=1e-5
        )
