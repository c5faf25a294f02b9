import numpy as np
import pytest
import scipy.stats
import torch

from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.objectives.masked_samples import MaskedSamplesCollator
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_sample import SampleProcessor

N_CELLS, N_GENES, IGNORED = 400, 60, -100


def sample(n_cells=N_CELLS) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "input_ids": np.arange(3, 3 + 2 * N_GENES, 2),
        "expression_values": generator.poisson(2.0, (n_cells, N_GENES)).astype(np.float32),
        "attention_mask": np.ones(n_cells, np.int64),
        "batch_labels": np.arange(n_cells),
        "cell_ids": generator.integers(-(2**62), 2**62, n_cells),
    }


def test_counts_of_some_cells_are_hidden_and_asked_for():
    batch = sample()
    inputs = MaskedSamplesCollator()(batch)
    true, masked = torch.from_numpy(batch["expression_values"]), inputs["masked_positions"]
    assert torch.equal(inputs["expression_values"], true.masked_fill(masked, 0))
    asked_for = masked.any(1)
    assert int(asked_for.sum()) == int(0.75 * N_CELLS)
    assert torch.equal(inputs["labels"][asked_for], true[asked_for])
    assert (inputs["labels"][~asked_for] == IGNORED).all()
    assert set(inputs) == set(batch) - {"cell_ids"} | {"masked_positions", "labels"}


def test_genes_that_no_cell_expresses_are_predicted_as_well():
    genes = [f"G{number}" for number in range(130)]
    tokenizer = GeneTokenizer.from_genes(genes, special_tokens=())
    processor = SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm"), tokenizer)
    batch = sample()
    inputs, fewer = MaskedSamplesCollator.from_processor(processor)(batch), MaskedSamplesCollator()(batch)
    assert torch.equal(inputs["input_ids"], torch.arange(130))
    for name in ("expression_values", "masked_positions", "labels"):
        assert torch.equal(inputs[name][:, batch["input_ids"]], fewer[name])
    unexpressed = np.setdiff1d(np.arange(130), batch["input_ids"])
    asked_for = inputs["masked_positions"].any(1)
    assert (inputs["expression_values"][:, unexpressed] == 0).all()
    assert (inputs["labels"][asked_for][:, unexpressed] == 0).all()
    assert inputs["masked_positions"][:, unexpressed].any()


def test_shares_of_hidden_genes_are_beta_distributed():
    masked = MaskedSamplesCollator()(sample(4000))["masked_positions"].float()
    shares = masked[masked.any(1)].mean(1)
    beta = scipy.stats.beta(5, 13)
    assert abs(shares.mean() - beta.mean()) < 0.01
    binomial = beta.mean() * (1 - beta.mean()) / N_GENES + beta.var() * (1 - 1 / N_GENES)
    assert abs(shares.var() - binomial) < 0.1 * binomial
    fixed = MaskedSamplesCollator(vary_ratio=False)(sample(4000))["masked_positions"].float()
    assert abs(fixed[fixed.any(1)].mean() - 0.25) < 0.01


def test_what_is_drawn_belongs_to_cell_and_gene():
    batch, collator = sample(), MaskedSamplesCollator()
    order, genes = np.random.default_rng(1).permutation(N_CELLS), np.arange(N_GENES)[::-1]
    shuffled = {name: values if name == "input_ids" else values[order] for name, values in batch.items()}
    shuffled |= {
        "input_ids": batch["input_ids"][genes].copy(),
        "expression_values": shuffled["expression_values"][:, genes],
    }
    one, other = collator(batch), collator(shuffled)
    back = other["batch_labels"].argsort()
    assert torch.equal(one["labels"], other["labels"][back].flip(1))
    assert torch.equal(one["masked_positions"], other["masked_positions"][back].flip(1))


def test_seed_and_epoch_change_what_is_drawn():
    batch = sample()
    first = MaskedSamplesCollator()(batch, 0)["labels"]
    assert torch.equal(first, MaskedSamplesCollator()(batch)["labels"])
    assert not torch.equal(first, MaskedSamplesCollator()(batch, 1)["labels"])
    assert not torch.equal(first, MaskedSamplesCollator(seed=1)(batch)["labels"])


def test_a_single_cell_is_asked_for():
    inputs = MaskedSamplesCollator(vary_ratio=False, mask_ratio=0.5)(sample(1))
    assert inputs["masked_positions"].any() and (inputs["labels"] != IGNORED).all()


@pytest.mark.parametrize("settings", [{"cell_ratio": 0}, {"mask_ratio": 1}])
def test_ratios_are_checked(settings):
    with pytest.raises(ConfigurationError, match="must lie between 0 and 1"):
        MaskedSamplesCollator(**settings)


def test_cell_ids_are_needed():
    batch = sample()
    del batch["cell_ids"]
    with pytest.raises(CorpusError, match="no `cell_ids`"):
        MaskedSamplesCollator()(batch)


def test_z_scores_are_asked_for_where_they_are_measured():
    tokenizer = GeneTokenizer.from_genes([f"G{number}" for number in range(130)], special_tokens=())
    processor = SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm", encoding="zscored"), tokenizer)
    inputs = MaskedSamplesCollator.from_processor(processor)(sample())
    assert torch.equal(inputs["input_ids"], torch.from_numpy(sample()["input_ids"]))
