"""Small language models with words of their own, and cell-text models around tiny encoders."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TokenizersBackend

from sclm_hf.opening.cell_text_models import new_cell_text_model
from sclm_hf.opening.tiny import make_tiny_checkpoint

WORDS = ("which", "type", "is", "this", "cell", "other", "B", "Monocyte", "T", "one", "two", "three")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def small_tokenizer(words=WORDS, **settings):
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | settings
    return TokenizersBackend(tokenizer_object=tokenizer, **names)


def small_llama(words=WORDS, width=32, **settings):
    """A two-layer Llama and its tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        **{"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | settings,
    )
    return LlamaForCausalLM(config), small_tokenizer(words)


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
LANGUAGE_MODELS = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gemma2": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {**_SIZES, "intermediate_size": 64},
    "mixtral": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 64, "num_local_experts": 4},
    "opt": {**_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {**_SIZES, "intermediate_size": 64},
}
"""Language models that differ in positions, heads and layers, by their `model_type`."""


def small_language_model(kind):
    """A two-layer language model and its tokenizer."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=len(SPECIAL) + len(WORDS), **LANGUAGE_MODELS[kind])
    return AutoModelForCausalLM.from_config(config), small_tokenizer()


def small_cell_text_model(folder, family="scgpt", language=small_llama, **settings):
    """A cell-text model without accidental symmetry, and its processor."""
    make_tiny_checkpoint(family, folder / "encoder")
    model, processor = new_cell_text_model(str(folder / "encoder"), language(), **{"num_cell_tokens": 3} | settings)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.cell_text.projector.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for parameter in model.cell_text.language_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, processor


def some_cells(processor, n_cells, seed=0):
    """Counts of the genes that the processor knows, as arguments of its call."""
    genes = [gene for gene in processor.cell_processor.tokenizer.gene_vocabulary if gene[0] not in "<["][:30]
    counts = np.random.default_rng(seed).poisson(1.0, (n_cells, len(genes))).astype(np.float32)
    return {"cells": counts, "gene_names": genes, "cell_ids": np.arange(n_cells)}
