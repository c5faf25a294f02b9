import os
from pathlib import Path

import anndata as ad
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.dual_encoders import new_dual_encoder, open_dual_encoder, open_text_encoder, small_text_encoder
from sclm_hf.opening.tiny import make_tiny_checkpoint

from ..dual_encoders import TEXTS, tiny_dual_encoder
from ..training.h5ad_files import GENES, write_h5ad


def test_a_new_text_encoder_knows_the_words_it_was_given_and_no_others():
    _, tokenizer = small_text_encoder(["A T-cell, of blood"])
    ids = tokenizer(["a t-cell of bone"])["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "t", "-", "cell", "of", "[UNK]", "[SEP]"]
    with pytest.raises(ConfigurationError, match="have none"):
        small_text_encoder([" "])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_causal_language_model_encodes_texts_by_its_last_word(tmp_path, side):
    _, tokenizer = small_text_encoder(TEXTS.values())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.padding_side = side
    tokenizer.save_pretrained(tmp_path / "llama")
    make_tiny_checkpoint("scgpt", tmp_path / "cells", genes=GENES)
    model, processor = new_dual_encoder(
        str(tmp_path / "cells"), str(tmp_path / "llama"), text_pooling="last", projection_dim=8
    )
    model.eval()
    together = model(**processor(text=list(TEXTS.values()), return_tensors="pt")).text_embedding
    alone = model(**processor(text=TEXTS["B cell"], return_tensors="pt")).text_embedding
    torch.testing.assert_close(together[:1], alone)


def test_what_is_no_dual_encoder_is_refused(tmp_path):
    model, processor = tiny_dual_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="is a `scgpt` model"):
        open_dual_encoder(tmp_path / "cells")
    with pytest.raises(ConfigurationError, match="Pass the `processor`"):
        open_dual_encoder(model)
    assert open_dual_encoder(model, processor)[0].processor is processor.cell_processor


@pytest.mark.slow
def test_minilm_encodes_the_texts(tmp_path):
    """With the text encoder that the folder in SCLM_MINILM holds, all-MiniLM-L6-v2."""
    if "SCLM_MINILM" not in os.environ:
        pytest.skip("SCLM_MINILM names no folder")
    name = str(Path(os.environ["SCLM_MINILM"]))
    texts, _ = open_text_encoder(name)
    make_tiny_checkpoint("scgpt", tmp_path / "cells", genes=GENES)
    model, processor = new_dual_encoder(str(tmp_path / "cells"), name, projection_dim=16)
    cells = ad.read_h5ad(write_h5ad(tmp_path / "a.h5ad", 6))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    model(**processor(cells, list(TEXTS.values()), return_tensors="pt"), labels=labels).loss.backward()
    assert texts.config.hidden_size == 384
    assert all(one.grad is not None for one in model.text_model.parameters())
