import numpy as np
import pytest
import torch

from sclm_hf.errors import ConfigurationError
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import add_gene_tokens
from sclm_hf.text.rendering import prompt_text

from .small import GENES, LABELS, make_language_model, open_corpus


def test_every_word_of_every_wording_is_one_token(tmp_path):
    _, tokenizer = make_language_model()
    conversations = Conversations(open_corpus(tmp_path), templates="all", tokenizer=tokenizer)
    for row in conversations.to_dataset():
        ids = tokenizer(prompt_text(tokenizer, row["prompt"]))["input_ids"]
        assert tokenizer.unk_token_id not in ids
    for word in (*GENES, *LABELS):
        assert len(tokenizer(word)["input_ids"]) == 1


def test_the_same_seed_gives_the_same_weights():
    first, second, other = (make_language_model(seed=seed)[0] for seed in (0, 0, 1))
    weights = [model.get_input_embeddings().weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("tied", [True, False])
def test_new_gene_tokens_start_from_the_mean_of_what_they_were_written_with(tied):
    model, tokenizer = make_language_model(tie_word_embeddings=tied)
    before = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    pieces = tokenizer("GENE3!", add_special_tokens=False)["input_ids"]
    [new] = add_gene_tokens(model, tokenizer, ["GENE1", "GENE3!"])
    assert tokenizer("of GENE3! .")["input_ids"][1] == new
    weights = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    for weight, old in zip(weights, before, strict=True):
        np.testing.assert_allclose(weight[new].detach(), old[pieces].mean(dim=0).detach(), rtol=1e-6)
        assert torch.equal(weight[: len(old)], old)


def test_genes_with_white_space_are_refused():
    with pytest.raises(ConfigurationError, match="one word, got 'A B'"):
        add_gene_tokens(*make_language_model(), ["A B"])
