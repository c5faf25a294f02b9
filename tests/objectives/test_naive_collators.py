"""Every collator against its naive twin: the same masks, targets and values, whatever the types of the batch."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.objectives.masked_genes import MaskedGenesCollator
from sclm_hf.objectives.masked_samples import MaskedSamplesCollator
from sclm_hf.objectives.next_gene import NextGeneCollator
from sclm_hf.objectives.read_depth import ReadDepthCollator

from . import naive_collators as naive
from .objective_cells import CLS, PAD, cells
from .test_masked_samples import sample

SPECIAL = {"pad_token_id": PAD, "special_token_ids": (CLS, PAD)}
GENES = {**SPECIAL, "mask_token_id": 97, "vocab_size": 100}
NARROW = {"input_ids": np.uint16, "expression_values": np.int16, "attention_mask": np.uint8}
WIDE = {torch.uint16: torch.int64, torch.int32: torch.int64, torch.int16: torch.float32, torch.uint8: torch.int64}


def twins():
    for settings in (
        {},
        {"mask_ratio": (0.2, 0.7), "ratio_per": "cell"},
        {"mask_ratio": (0.2, 0.7), "mask_zeros": False, "seed": 5},
        {"mask_ratio": 0.15, "replace_ratio": 0.9, "rounding": "up"},
    ):
        yield pytest.param(MaskedExpressionCollator(**SPECIAL, **settings), naive.masked_expression)
    for settings in ({}, {"mask_ratio": 0.5}, {"ratio_per": "cell", "seed": 5}):
        yield pytest.param(GenerativeExpressionCollator(**SPECIAL, **settings), naive.generative_expression)
    for settings in ({}, {"mask_ratio": (0.1, 0.9), "ratio_per": "cell"}, {"mask_special_tokens": True, "seed": 5}):
        yield pytest.param(MaskedGenesCollator(**GENES, **settings), naive.masked_genes)
    yield pytest.param(NextGeneCollator(**SPECIAL), naive.next_gene)


def assert_twins(collator, twin, batch, epoch, types=None):
    found = collator(
        {name: values.astype((types or {}).get(name, values.dtype)) for name, values in batch.items()}, epoch
    )
    expected = twin(collator, {name: torch.as_tensor(values) for name, values in batch.items()}, epoch)
    assert list(found) == list(expected)
    for name, values in expected.items():
        have = found[name].to(WIDE.get(found[name].dtype, found[name].dtype)) if types else found[name]
        assert have.dtype == values.dtype, name
        assert torch.equal(have, values), name


@pytest.mark.parametrize(
    "types", [pytest.param(None, id="wide", marks=pytest.mark.slow), pytest.param(NARROW, id="narrow")]
)
@pytest.mark.parametrize(("collator", "twin"), list(twins()))
def test_masks_are_those_of_the_twin(collator, twin, types):
    for epoch in range(5):
        assert_twins(collator, twin, cells(seed=epoch), epoch, types)


def test_a_gene_that_comes_twice_is_drawn_as_by_the_twin():
    batch = cells()
    batch["input_ids"][:, 3:6] = batch["input_ids"][:, 2:3]
    for epoch in range(5):
        assert_twins(MaskedExpressionCollator(**SPECIAL), naive.masked_expression, batch, epoch)


@pytest.mark.parametrize("settings", [{}, {"vary_ratio": False}, {"vocab_size": 130, "seed": 5}])
def test_masks_of_samples_are_those_of_the_twin(settings):
    for epoch in range(3):
        assert_twins(MaskedSamplesCollator(**settings), naive.masked_samples, sample(), epoch)


@pytest.mark.parametrize("thin_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("types", [None, {"input_ids": np.uint16, "attention_mask": np.uint8}], ids=["wide", "narrow"])
def test_shallower_cells_are_those_of_the_twin(thin_ratio, types):
    special, names = ("<T>", "<S>", "<pad>"), [f"GENE{number}" for number in range(200)]
    tokenizer = GeneTokenizer.from_genes(
        {name: i for i, name in enumerate([*names, *special])}, special_tokens=special
    )
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("scfoundation"), tokenizer)
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(0.3, 10.0, (60, 200))) + np.eye(60, 200, dtype=int) * 900
    cell_ids = np.arange(60)
    batch = processor.encode(sp.csr_matrix(counts), np.arange(200), cell_ids=cell_ids) | {"cell_ids": cell_ids}
    for epoch in range(3):
        collator = ReadDepthCollator.from_processor(processor, thin_ratio=thin_ratio)
        assert_twins(collator, naive.read_depth, batch, epoch, types)
