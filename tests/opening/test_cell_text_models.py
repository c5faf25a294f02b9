"""A language model that reads cells, of a saved encoder and a saved language model."""

import warnings

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.objectives.cell_text import CellTextCollator
from sclm_hf.opening.cell_text_models import new_cell_text_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.opening.weights import open_model

from ..modeling.cell_text.tiny import small_llama, small_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_tiny_checkpoint("scgpt", folder / "cells")
    for part in small_llama():
        part.save_pretrained(folder / "words")
    return str(folder / "cells"), str(folder / "words")


def test_both_models_keep_their_weights(folders):
    model, processor = new_cell_text_model(*folders, num_cell_tokens=2, projector="resampler")
    for part, saved in (
        (model.cell_text.cell_model, open_model(folders[0], "AutoModel")),
        (model.cell_text.language_model, small_llama()[0]),
    ):
        for name, tensor in saved.state_dict().items():
            assert torch.equal(part.state_dict()[name][: len(tensor)], tensor), name
    assert processor.num_cell_tokens == model.config.num_cell_tokens == 2
    assert model.config.cell_config.pooling_includes_padding is False
    assert processor.tokenizer.model_max_length == 64


def test_what_cannot_be_joined_is_refused(folders, tmp_path):
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2))
    with pytest.raises(ConfigurationError, match="causal language model"):
        new_cell_text_model(folders[0], (t5, small_tokenizer()))
    with pytest.raises(CheckpointError, match="does not exist"):
        new_cell_text_model(folders[0], str(tmp_path / "none"))


@pytest.mark.slow
def test_it_learns_to_name_the_types_of_real_cells(tmp_path):
    scanpy = pytest.importorskip("scanpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = scanpy.datasets.pbmc68k_reduced()
    cells = cells.raw.to_adata()[:, ~cells.raw.var_names.duplicated()].copy()
    cells.X = np.expm1(cells.X.toarray()).round()
    cells = cells[cells.X.sum(axis=1) > 0].copy()
    held_out = np.arange(cells.n_obs) % 5 == 0
    cells[~held_out].copy().write_h5ad(tmp_path / "train.h5ad")
    make_tiny_checkpoint("scgpt", tmp_path / "cells", genes=cells.var_names)
    labels = sorted(cells.obs["bulk_labels"].unique())
    words = sorted({word for label in labels for word in label.split()} | {"which", "type"})
    model, processor = new_cell_text_model(str(tmp_path / "cells"), small_llama(words), num_cell_tokens=4)
    corpus = CellCorpus(tmp_path / "train.h5ad", processor.cell_processor, label_column="bulk_labels")
    collator = CellTextCollator.from_processor(processor, ["which type"], corpus.label_names)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for epoch in range(12):
        for batch in corpus.loader(32, collator=collator, epoch=epoch):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    asked = [{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": " which type"}]}]
    test = cells[held_out].copy()
    batch = processor.apply_chat_template(
        [asked] * test.n_obs, cells=test, tokenize=True, add_generation_prompt=True, return_tensors="pt"
    )
    said = model.eval().generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    answers = processor.tokenizer.batch_decode(said, skip_special_tokens=True)
    truth = test.obs["bulk_labels"].to_numpy()
    most = test.obs["bulk_labels"].value_counts(normalize=True).iloc[0]
    assert np.mean(np.array(answers) == truth) > most + 0.05
