import pytest
import torch

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.text.annotator import load_text_annotator
from sclm_hf.text.candidates import CandidateScorer
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.rendering import answer_ids, answer_text, padding_id, prompt_ids, prompt_text

from .small import LABELS, make_language_model, open_corpus

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "GENE1 GENE2"}]


def test_without_a_chat_template_messages_follow_each_other():
    _, tokenizer = make_language_model()
    tokenizer.chat_template = None
    assert prompt_text(tokenizer, MESSAGES) == "Be brief.\n\nGENE1 GENE2\n"
    assert answer_text(tokenizer, MESSAGES, "NK") == "NK<|end|>"
    assert answer_ids(tokenizer, MESSAGES, "NK")[-1] == tokenizer.eos_token_id


def test_without_a_chat_template_a_model_is_trained_and_chooses(tmp_path):
    model, tokenizer = make_language_model()
    tokenizer.chat_template = None
    corpus = open_corpus(tmp_path)
    batch = next(corpus.batches(4))
    inputs = ConversationCollator(Conversations(corpus, tokenizer=tokenizer), tokenizer)(batch)
    assert torch.isfinite(model(**inputs).loss)
    found = CandidateScorer(model, tokenizer).log_likelihoods([MESSAGES, MESSAGES[1:]], LABELS)
    assert found.shape == (2, 3) and torch.isfinite(found).all()


def test_without_a_pad_token_the_end_of_a_text_fills_batches_and_changes_nothing(tmp_path):
    model, tokenizer = make_language_model()
    prompts = [MESSAGES, MESSAGES[1:]]
    before = CandidateScorer(model, tokenizer).log_likelihoods(prompts, LABELS)
    tokenizer.pad_token = None
    assert padding_id(tokenizer) == tokenizer.eos_token_id
    after = CandidateScorer(model, tokenizer).log_likelihoods(prompts, LABELS)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_a_tokenizer_that_can_neither_pad_nor_end_is_refused():
    model, tokenizer = make_language_model()
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match=r"set `tokenizer.pad_token`"):
        CandidateScorer(model, tokenizer)


def test_a_chat_template_that_rewrites_answered_prompts_is_refused():
    _, tokenizer = make_language_model()
    tokenizer.chat_template = "{{ messages | length }} {{ messages[-1]['content'] }}"
    with pytest.raises(ConfigurationError, match="writes a prompt differently"):
        answer_ids(tokenizer, MESSAGES, "NK")


def test_an_answer_of_no_token_and_a_prompt_of_too_many_are_refused():
    _, tokenizer = make_language_model()
    tokenizer.chat_template, tokenizer.eos_token = None, None
    with pytest.raises(ConfigurationError, match="has no token"):
        answer_ids(tokenizer, MESSAGES, "")
    with pytest.raises(ConfigurationError, match="the model reads 2, the answer included"):
        prompt_ids(tokenizer, [MESSAGES], most=2)


def test_an_adapter_of_a_text_model_says_what_to_annotate_with(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "candidates.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is an adapter of a language model: annotate with"):
        load_text_annotator(str(tmp_path))


def test_a_batch_without_questions_is_empty(tmp_path):
    _, tokenizer = make_language_model()
    collator = ConversationCollator(Conversations(open_corpus(tmp_path), tokenizer=tokenizer), tokenizer)
    assert {name: tuple(values.shape) for name, values in collator.collate_rows([]).items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (0, 0)
    )
