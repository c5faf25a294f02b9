import numpy as np
import pytest
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.masked_genes import MaskedGenesCollator
from sclm_hf.tokenization.encodings.masks import Draws, mask_genes

from .objective_cells import CLS, IGNORED, PAD, cells, rows

MASK, VOCAB = 97, 100


def collator(**settings):
    settings = {"mask_token_id": MASK, "vocab_size": VOCAB, "special_token_ids": (CLS, PAD), **settings}
    return MaskedGenesCollator(pad_token_id=PAD, **settings)


def many_draws(epochs=400, **settings):
    """Original tokens, inputs and labels of one batch in many epochs, (epochs, cells, genes)."""
    batch, ours = cells(), collator(**settings)
    outputs = [ours(batch, epoch) for epoch in range(epochs)]
    ids = torch.as_tensor(batch["input_ids"]).expand(epochs, -1, -1)
    return ids, *(torch.stack([output[name] for output in outputs]) for name in ("input_ids", "labels"))


def test_shares_of_masked_random_and_kept_tokens():
    ids, inputs, labels = many_draws()
    chosen = labels != IGNORED
    genes = (ids != PAD) & (ids != CLS)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert not (chosen & ~genes).any()
    n = int(chosen.sum())
    assert abs(n / int(genes.sum()) - 0.15) < 0.003
    masked, kept = (inputs == MASK) & chosen, (inputs == ids) & chosen
    assert abs(int(masked.sum()) / n - 0.8) < 0.01
    # a random token is the right one, or `<mask>`, once in VOCAB draws
    assert abs(int(kept.sum()) / n - 0.1) < 0.01
    others = inputs[chosen & ~masked & ~kept]
    assert others.unique().tolist() == [token for token in range(VOCAB) if token != MASK]


def test_draws_belong_to_the_cell_and_its_genes():
    batch = cells()
    together = collator()(batch)
    for i in range(40):
        alone = collator()(rows(batch, [i]))
        assert torch.equal(alone["input_ids"][0], together["input_ids"][i])
    flipped = {name: values[:, ::-1].copy() if values.ndim == 2 else values for name, values in batch.items()}
    assert torch.equal(collator()(flipped)["input_ids"].flip(1), together["input_ids"])
    assert not torch.equal(collator()(batch, 1)["labels"], together["labels"])
    assert not torch.equal(collator(seed=1)(batch)["labels"], together["labels"])


def test_given_draws_are_followed():
    draws = ([0.14, 0.0, 0.1, 0.15, 0.0], [0.79, 0.8, 0.9, 0.0, 0.0], [0.0, 0.49, 0.5, 0.0, 0.0], [0.5] * 5)
    inputs, labels = mask_genes(
        np.array([[10, 11, 12, 13, 14]]),
        np.array([[True, True, True, True, False]]),
        Draws(np.zeros(1, np.uint64), np.array(draws)[:, None]),
        np.array([0.15]),
        hidden_ratio=0.8,
        changed_ratio=0.5,
        mask_id=MASK,
        n_tokens=VOCAB,
    )
    assert inputs.tolist() == [[MASK, 50, 12, 13, 14]]
    assert labels.tolist() == [[10, 11, 12, IGNORED, IGNORED]]


def test_share_that_was_asked_for():
    ids, _, labels = many_draws(100, mask_ratio=0.4)
    share = (labels != IGNORED).sum() / ((ids != PAD) & (ids != CLS)).sum()
    assert abs(float(share) - 0.4) < 0.01


def test_one_of_several_shares_is_drawn_for_each_cell():
    settings = {"mask_ratio": (0.1, 0.9), "ratio_per": "cell"}
    batch = cells()
    together = collator(**settings)(batch)
    for i in range(5):
        assert torch.equal(collator(**settings)(rows(batch, [i]))["labels"][0], together["labels"][i])
    genes = (torch.as_tensor(batch["input_ids"]) != PAD) & (torch.as_tensor(batch["input_ids"]) != CLS)
    shares = (together["labels"] != IGNORED).sum(1) / genes.sum(1)
    assert (shares < 0.5).any() and (shares > 0.5).any()


def test_special_tokens_may_be_masked_as_geneformer_does():
    ids, _, labels = many_draws(mask_special_tokens=True)
    chosen = labels != IGNORED
    assert abs(chosen[ids == CLS].double().mean() - 0.15) < 0.02
    assert not chosen[ids == PAD].any()


@pytest.mark.parametrize(("family", "expected"), [("geneformer", True), (None, False)])
def test_settings_of_a_processor(family, expected):
    tokens = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "A": 4, "B": 9}
    tokenizer = GeneTokenizer.from_genes(tokens, special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"))
    extractor = ExpressionFeatureExtractor(family=family, encoding="rank", truncation="head")
    ours = MaskedGenesCollator.from_processor(CellProcessor(extractor, tokenizer), mask_ratio=0.5)
    assert (ours.mask_token_id, ours.vocab_size, ours.mask_ratio) == (1, 10, 0.5)
    assert ours.mask_special_tokens is expected
    unmasked = GeneTokenizer.from_genes(["A"], special_tokens=("<pad>",))
    with pytest.raises(ConfigurationError, match="mask_token"):
        MaskedGenesCollator.from_processor(CellProcessor(extractor, unmasked))


def test_values_and_cell_ids():
    inputs = collator()(cells())
    assert set(inputs) == {"input_ids", "expression_values", "attention_mask", "labels"}
    assert inputs["labels"].dtype == torch.int64
    np.testing.assert_array_equal(inputs["expression_values"], cells()["expression_values"])


@pytest.mark.parametrize(
    "wrong", [{"mask_ratio": 0.0}, {"ratio_per": "gene"}, {"replace_ratio": 1.1}, {"vocab_size": 5}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        collator(**wrong)
