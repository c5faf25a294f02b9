import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sclm_hf import annotate, embed
from sclm_hf.adapters.lora import add_lora, merge_adapter, save_adapter

from .tiny import LABELS, make_cells, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """An adapter of a base without classifier, and the folder of the model it was merged into."""
    folder = tmp_path_factory.mktemp("adapted")
    base = save_checkpoint(folder / "base")
    torch.manual_seed(1)
    model = add_lora(AutoModelForSequenceClassification.from_pretrained(base, id2label=LABELS))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    save_adapter(model, folder / "adapter", processor=make_processor())
    merge_adapter(model).save_pretrained(folder / "merged")
    make_processor().save_pretrained(folder / "merged")
    return str(folder / "base"), str(folder / "adapter"), str(folder / "merged")


def test_adapter_folder_annotates_like_the_merged_model(adapted):
    _, adapter, merged = adapted
    one, other = (annotate(make_cells(), model) for model in (adapter, merged))
    np.testing.assert_allclose(one.obsm["sclm_probabilities"], other.obsm["sclm_probabilities"], atol=1e-5)
    assert set(one.obs["sclm_prediction"].cat.categories) == set(LABELS.values())
    assert one.uns["sclm_hf"]["sclm_prediction"]["model"] == adapter


def test_adapter_folder_embeds_with_the_adapter(adapted):
    base, adapter, merged = adapted
    plain, one, other = (embed(make_cells(), model).obsm["X_scgpt"] for model in (base, adapter, merged))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(one - plain).max() > 1e-3
