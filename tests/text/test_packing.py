from functools import partial

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    T5Config,
)

from sclm_hf.adapters.lora import add_lora
from sclm_hf.errors import ConfigurationError
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.packing import packed_rows, require_packable
from sclm_hf.training.steps import count_cells, count_items

from .small import make_language_model, open_corpus

TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE_FEED_FORWARD = {**TINY, "intermediate_size": 16, "num_key_value_heads": 2}


def test_conversations_go_into_the_first_row_with_room():
    assert packed_rows([5, 4, 6, 1, 12, 3], 10) == [[0, 1, 3], [2, 5], [4]]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """A batch of conversations, a row each and packed, and the model that reads them."""
    model, tokenizer = make_language_model()
    corpus = open_corpus(tmp_path_factory.mktemp("cells"))
    collator = ConversationCollator(Conversations(corpus, tokenizer=tokenizer), tokenizer)
    packing = partial(ConversationCollator, collator.conversations, tokenizer, pack_tokens=100)
    batch = next(iter(corpus.batches(8)))
    return model, collator(batch), packing()(batch), packing().forward_arguments(0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_and_its_gradient_are_those_of_rows_of_one_conversation(batches, attention):
    model, plain, packed, arguments = batches
    model.set_attn_implementation(attention)
    found = []
    for inputs in (plain, packed | arguments):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        found.append((loss.item(), torch.cat([one.grad.flatten() for one in model.parameters()])))
    (loss, gradient), (packed_loss, packed_gradient) = found
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-3, atol=1e-6)


def test_a_packed_batch_has_fewer_rows_and_as_many_cells_and_labels(batches):
    _, plain, packed, _ = batches
    assert len(packed["input_ids"]) < len(plain["input_ids"]) and packed["input_ids"].shape[1] <= 100
    assert count_cells(packed) == count_cells(plain) == 8
    assert count_items(packed) == count_items(plain)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**LARGE_FEED_FORWARD),
        Qwen2Config(**LARGE_FEED_FORWARD),
        GPTNeoXConfig(**TINY, intermediate_size=16),
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_keep_conversations_apart_are_accepted(config):
    require_packable(AutoModelForCausalLM.from_config(config))


def test_a_model_with_an_adapter_that_learns_new_tokens_is_accepted():
    model = add_lora(LlamaForCausalLM(LlamaConfig(**LARGE_FEED_FORWARD)), trainable_token_indices=[3, 4])
    require_packable(model.get_base_model())


class MixingLlama(LlamaForCausalLM):
    """With a cache, transformers takes a row for one conversation."""

    def forward(self, input_ids=None, position_ids=None, use_cache=None, **inputs):
        return super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=True, **inputs)


def test_others_are_refused():
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for model in (MixingLlama(LlamaConfig(**LARGE_FEED_FORWARD)), AutoModelForSeq2SeqLM.from_config(t5)):
        with pytest.raises(ConfigurationError, match="--pack_tokens"):
            require_packable(model)
