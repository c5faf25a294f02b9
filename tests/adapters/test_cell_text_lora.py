"""The second stage of a cell-text model: a LoRA on its language model, whatever encoder reads the cells."""

import pytest
import torch
from torch.testing import assert_close

from sclm_hf.adapters.lora import add_lora, load_adapter, merge_adapter, save_adapter
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.cell_text import CellTextCollator
from sclm_hf.opening.tiny import LABELS
from sclm_hf.opening.weights import open_model
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train

from ..modeling.cell_text.tiny import small_cell_text_model, some_cells

KIND = "AutoModelForMultimodalLM"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a saved model, and its processor."""
    folder = tmp_path_factory.mktemp("base")
    model, processor = small_cell_text_model(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, processor


def batch_of(processor):
    return processor(["<cell> which type", "is <cell> cell one two"], **some_cells(processor, 2), return_tensors="pt")


def test_it_adapts_the_language_model_alone_and_trains_the_projector(base):
    adapted = add_lora(open_model(str(base[0]), KIND), r=2)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert {"projector" if "projector" in name else "lora" for name in names} == {"projector", "lora"}
    assert all("language_model" in name for name in names if "lora_" in name)
    assert sum("lora_" in name for name in names) == 2 * 2 * 2


@pytest.mark.slow
def test_it_is_saved_loaded_merged_and_generates(base, tmp_path):
    folder, processor = base
    adapted = add_lora(open_model(str(folder), KIND), r=2)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = batch_of(processor)
    expected = adapted.eval()(**batch).logits
    save_adapter(adapted, tmp_path / "adapter", processor=processor)
    assert torch.equal(load_adapter(tmp_path / "adapter")(**batch).logits, expected)
    merge_adapter(adapted).save_pretrained(tmp_path / "merged")
    merged = open_model(str(tmp_path / "merged"), KIND)
    assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    settings = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(adapted.generate(**batch, **settings), merged.generate(**batch, **settings))


def test_layers_that_the_language_model_lacks_are_refused(base):
    with pytest.raises(ConfigurationError, match="linear1"):
        add_lora(open_model(str(base[0]), KIND), target_modules=["linear1"])


def test_our_loop_trains_it(base, tmp_path):
    anndata = pytest.importorskip("anndata")
    folder, processor = base
    counts = some_cells(processor, 12)
    cells = anndata.AnnData(counts["cells"])
    cells.var_names, cells.obs["type"] = counts["gene_names"], [LABELS[i % 3] for i in range(12)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = CellCorpus(tmp_path / "cells.h5ad", processor.cell_processor, label_column="type")
    collator = CellTextCollator.from_processor(processor, ["which type"], ["B", "Monocyte", "T"])
    model = add_lora(open_model(str(folder), KIND), r=2)
    config = TrainingConfig(str(tmp_path / "trained"), max_steps=2, logging_steps=1, use_cpu=True)
    result = train(model, corpus, collator, config, processor=processor)
    trained = open_model(str(result.output_dir), KIND)
    assert not torch.equal(
        trained.cell_text.projector.out.weight, open_model(str(folder), KIND).cell_text.projector.out.weight
    )
