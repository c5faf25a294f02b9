import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from sclm_hf.errors import ConfigurationError
from sclm_hf.text.candidates import CandidateScorer, fit_temperature
from sclm_hf.text.closed_set import answers_of
from sclm_hf.text.language_models import small_language_model
from sclm_hf.text.rendering import answer_ids, prompt_ids

GENES = ["CD3D", "MS4A1", "NKG7", "LYZ"]
LABELS = ["T cell", "B cell", "naive T cell"]
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = [[{"role": "user", "content": text}] for text in ("CD3D NKG7", "LYZ", "MS4A1 CD3D LYZ NKG7")]


@pytest.fixture(scope="module")
def small():
    model, tokenizer = small_language_model(GENES, LABELS, **TINY)
    return model, tokenizer


def one_by_one(model, tokenizer, answer: str) -> list[float]:
    """Mean log-likelihoods of an answer, each read alone and whole."""
    found = []
    for prompt in PROMPTS:
        [asked], said = prompt_ids(tokenizer, [prompt]), answer_ids(tokenizer, prompt, answer)[:-1]
        logits = model(torch.tensor([asked + said])).logits[0].log_softmax(dim=-1)
        steps = [logits[len(asked) + place - 1, token].item() for place, token in enumerate(said)]
        found.append(float(np.mean(steps)))
    return found


def test_likelihoods_are_those_of_each_answer_read_alone(small):
    model, tokenizer = small
    # three words of the tokenizer, so that answers share their beginnings
    answers = ["CD3D MS4A1 LYZ", "CD3D MS4A1 NKG7", "LYZ"]
    found = CandidateScorer(model, tokenizer).log_likelihoods(PROMPTS, answers)
    expected = np.array([one_by_one(model, tokenizer, answer) for answer in answers]).T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_answer_that_begins_another_is_told_by_its_end(small):
    found = CandidateScorer(*small).log_likelihoods(PROMPTS, ["CD3D", "CD3D LYZ"])
    assert torch.isfinite(found).all() and (found[:, 0] != found[:, 1]).all()


def test_the_same_tokens_are_no_choice(small):
    with pytest.raises(ConfigurationError, match="same tokens"):
        CandidateScorer(*small).log_likelihoods(PROMPTS, ["unheard", "unknown"])
    # one character is one object in Python, whatever it was made of
    with pytest.raises(ConfigurationError, match="same tokens"):
        CandidateScorer(*small).log_likelihoods(PROMPTS, answers_of(["B", " B"], None))
    with pytest.raises(ConfigurationError, match="at least two"):
        CandidateScorer(*small).log_likelihoods(PROMPTS, ["T cell"])


def test_a_prompt_longer_than_the_context_is_refused():
    model, tokenizer = small_language_model(GENES, LABELS, max_position_embeddings=7, **TINY)
    with pytest.raises(ConfigurationError, match="n_genes"):
        CandidateScorer(model, tokenizer).log_likelihoods(PROMPTS, LABELS)


def test_a_sequence_to_sequence_model_answers_alike_in_any_batch(small):
    _, tokenizer = small
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer)}
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, pad_token_id=0, **sizes)).eval()
    scorer = CandidateScorer(model, tokenizer)
    whole = scorer.log_likelihoods(PROMPTS, LABELS)
    alone = torch.cat([scorer.log_likelihoods([prompt], LABELS) for prompt in PROMPTS])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_the_temperature_calibrates():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(4000, 3)) * 2
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = [generator.choice(3, p=row) for row in probabilities]
    assert fit_temperature(scores * 5, labels) == pytest.approx(5, rel=0.1)
    with pytest.raises(ConfigurationError, match="held out"):
        fit_temperature(np.zeros((0, 3)), [])
