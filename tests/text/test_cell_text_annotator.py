"""Cells labelled by the probability of answers of a language model that reads them as soft tokens."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import sclm_hf
from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.errors import CheckpointError
from sclm_hf.opening.weights import open_model
from sclm_hf.text.cell_text_annotator import CellTextAnnotator, save_cell_text_annotator
from sclm_hf.text.closed_set import Candidates

from ..modeling.cell_text.tiny import small_cell_text_model, some_cells

anndata = pytest.importorskip("anndata")

LABELS = ["B", "T", "T cell", "Monocyte"]


def made(folder, family):
    model, processor = small_cell_text_model(folder, family)
    save_cell_text_annotator(folder / "saved", model, processor, LABELS, "which type", temperature=0.5)
    return model, processor, folder / "saved"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return made(tmp_path_factory.mktemp("model"), "scgpt")


def cells_for(processor, n_cells=5):
    made_up = some_cells(processor, n_cells)
    cells = anndata.AnnData(made_up["cells"])
    cells.var_names, cells.obs_names = made_up["gene_names"], [f"cell {number}" for number in range(n_cells)]
    return cells


def test_logits_are_mean_log_probabilities_of_the_tokens_of_answers(found):
    model, processor, _ = found
    batch = processor.cell_processor(**some_cells(processor, 2), return_tensors="pt")
    annotator = CellTextAnnotator(model, processor, Candidates(labels=LABELS, prompt="which type", temperature=0.5))
    logits = annotator(**batch).logits
    messages = [{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": " which type"}]}]
    prompt = processor.prompt_ids(messages)
    cells = processor.arranged({name: values.numpy() for name, values in batch.items()}, np.ones(2, np.int64))
    cells = {name: torch.from_numpy(values) for name, values in cells.items()}
    for column, label in enumerate(LABELS):
        answer = processor.answer_ids(messages, label)
        ids = torch.tensor([prompt + answer] * 2)
        steps = model(input_ids=ids, **cells).logits[:, len(prompt) - 1 : -1].log_softmax(dim=-1)
        expected = steps.gather(-1, ids[:, len(prompt) :, None])[..., 0].mean(dim=1) / 0.5
        assert_close(logits[:, column], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["scgpt", "geneformer", "cellplm"])
def test_annotate_labels_each_cell_alone(tmp_path, family):
    _, processor, folder = made(tmp_path, family)
    cells = cells_for(processor)
    cells.obs["batch"] = "one"
    together = sclm_hf.annotate(cells, folder, device="cpu").obsm["sclm_probabilities"]
    alone = [sclm_hf.annotate(cells[[row]].copy(), folder, device="cpu").obsm["sclm_probabilities"] for row in (0, 3)]
    np.testing.assert_allclose(together[[0, 3]], np.concatenate(alone), atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)


def test_annotate_says_what_it_says_of_encoders(found):
    _, processor, folder = found
    labelled = sclm_hf.annotate(cells_for(processor), folder, device="cpu")
    assert list(labelled.obs.columns) == ["sclm_prediction", "sclm_confidence"]
    assert list(labelled.uns["sclm_hf"]["sclm_prediction"]["label_names"]) == LABELS


def test_an_adapter_labels_as_its_model_in_memory(found, tmp_path):
    _, processor, folder = found
    adapted = add_lora(open_model(str(folder), "AutoModelForMultimodalLM"), r=2)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(adapted, tmp_path, processor=processor)
    candidates = Candidates(labels=LABELS, prompt="which type")
    candidates.save(tmp_path)
    in_memory = CellTextAnnotator(adapted.eval().get_base_model(), processor, candidates)
    first, second = (
        sclm_hf.annotate(cells_for(processor), model, device="cpu").obsm["sclm_probabilities"]
        for model in (tmp_path, in_memory)
    )
    np.testing.assert_array_equal(first, second)


def test_damaged_candidates_are_refused(found, tmp_path):
    model, processor, _ = found
    save_cell_text_annotator(tmp_path, model, processor, LABELS, "which type")
    (tmp_path / "candidates.json").write_text(json.dumps({"labels": ["B"], "prompt": "which type"}))
    with pytest.raises(CheckpointError, match=r"candidates\.json"):
        sclm_hf.annotate(cells_for(processor), tmp_path, device="cpu")


def test_embed_says_what_to_do_instead(found):
    with pytest.raises(CheckpointError, match=r"is a cell-text model, .*`annotate`.*`--cell_model`"):
        sclm_hf.embed(cells_for(found[1]), found[2])
