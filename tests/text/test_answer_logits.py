from functools import partial

import pytest
import torch
from torch.nn.functional import pad
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
from sclm_hf.text.answer_logits import answers_alone
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations

from .small import make_language_model, open_corpus

TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**TINY, "intermediate_size": 16, "num_key_value_heads": 2}


class Padding:
    """Prompts of different lengths with answers of different lengths, padded on one side; the last has no answer."""

    def __init__(self, side: str) -> None:
        self.side = side

    def __call__(self, batch, epoch=0):
        draw = torch.Generator().manual_seed(0)
        rows = [
            (torch.randint(50, (length,), generator=draw), said) for length, said in ((9, 2), (5, 1), (12, 3), (7, 0))
        ]
        padded = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=self.side)
        return {
            "input_ids": padded([ids for ids, _ in rows]),
            "attention_mask": padded([torch.ones_like(ids) for ids, _ in rows]),
            "labels": padded(
                [pad(ids[len(ids) - said :], (len(ids) - said, 0), value=-100) for ids, said in rows],
                padding_value=-100,
            ),
        }

    def forward_arguments(self, step):
        return {}


def learned(model, batch, **arguments):
    """The loss of a batch, and its gradients."""
    model.zero_grad()
    loss = model(**batch, **arguments).loss
    loss.backward()
    return loss, [one.grad for one in model.parameters() if one.requires_grad]


def check_equal(model, collator, batch=None):
    """Loss and gradients are those of all logits, as a mean and as a share of more labels."""
    alone = answers_alone(collator, model)
    assert alone is not collator
    plain, asked = collator(batch), alone(batch)
    for items in ({}, {"num_items_in_batch": 11}):
        arguments = alone.forward_arguments(0) | items
        torch.testing.assert_close(
            learned(model, asked, **arguments), learned(model, plain, **arguments), rtol=1e-4, atol=1e-6
        )
    assert model(**asked, **arguments).logits.shape[0] == int((plain["labels"] != -100).sum())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**LLAMA, tie_word_embeddings=True),
        Qwen2Config(**LLAMA),
        GPTNeoXConfig(**TINY, intermediate_size=16),
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
    ],
    ids=lambda config: config.model_type,
)
def test_the_loss_and_its_gradients_are_those_of_all_logits(config, side):
    torch.manual_seed(0)
    check_equal(AutoModelForCausalLM.from_config(config), Padding(side))


@pytest.mark.parametrize("pack_tokens", [0, 100])
def test_of_conversations_too_whether_they_are_packed_or_not(tmp_path, pack_tokens):
    model, tokenizer = make_language_model()
    corpus = open_corpus(tmp_path)
    collator = ConversationCollator(Conversations(corpus, tokenizer=tokenizer), tokenizer, pack_tokens=pack_tokens)
    check_equal(model, collator, next(iter(corpus.batches(8))))


def test_an_adapter_learns_the_same():
    torch.manual_seed(0)
    model = add_lora(LlamaForCausalLM(LlamaConfig(**LLAMA)), trainable_token_indices=[3, 4])
    plain, alone = Padding("right"), answers_alone(Padding("right"), model.get_base_model())
    torch.testing.assert_close(learned(model, alone(None)), learned(model, plain(None)), rtol=1e-4, atol=1e-6)


def test_a_batch_without_any_label_teaches_nothing():
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    collator = Padding("right")
    batch = collator(None)
    collator.__class__ = type(
        "Unlabelled", (Padding,), {"__call__": lambda *_: batch | {"labels": batch["labels"] * 0 - 100}}
    )
    loss, gradients = learned(model, answers_alone(collator, model)(None), num_items_in_batch=11)
    assert loss == 0 and all((one == 0).all() for one in gradients)


class LastOnes(LlamaForCausalLM):
    """A model that knows no positions to keep, but how many of the last."""

    def forward(self, input_ids=None, labels=None, logits_to_keep=0, **inputs):
        return super().forward(input_ids=input_ids, labels=labels, logits_to_keep=int(logits_to_keep), **inputs)


class Unasked(LlamaForCausalLM):
    """A model that knows nothing of it."""

    def forward(self, input_ids=None, labels=None, attention_mask=None):
        return super().forward(input_ids=input_ids, labels=labels, attention_mask=attention_mask)


def test_models_that_cannot_be_asked_get_what_they_got():
    t5 = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1))
    collator = Padding("right")
    for model in (t5, LastOnes(LlamaConfig(**LLAMA)), Unasked(LlamaConfig(**LLAMA))):
        model.train()
        assert answers_alone(collator, model) is collator
        assert model.training
