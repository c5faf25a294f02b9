import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.testing import assert_close

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.read_depth import ReadDepthCollator

GENES = 50
TARGET, SOURCE, PAD = GENES, GENES + 1, GENES + 2


@pytest.fixture(scope="module")
def processor():
    special = ("<T>", "<S>", "<pad>")
    names = [*(f"GENE{number}" for number in range(GENES)), *special]
    tokenizer = GeneTokenizer.from_genes({name: i for i, name in enumerate(names)}, special_tokens=special)
    return CellProcessor(ExpressionFeatureExtractor.for_family("scfoundation"), tokenizer)


@pytest.fixture(scope="module")
def counts():
    random = np.random.default_rng(0)
    return random.poisson(3.0, (30, GENES)) * (random.random((30, GENES)) < 0.6)


@pytest.fixture(scope="module")
def batch(processor, counts):
    cell_ids = np.arange(100, 130)
    return processor.encode(sp.csr_matrix(counts), np.arange(GENES), cell_ids=cell_ids) | {"cell_ids": cell_ids}


def log_normalised(counts):
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def test_values_of_the_cell_are_asked_for_where_drawn(processor, batch, counts):
    inputs = ReadDepthCollator.from_processor(processor, thin_ratio=0.0)(batch)
    labels = inputs["labels"].numpy()
    drawn = labels != -100
    np.testing.assert_allclose(labels[drawn], log_normalised(counts)[drawn], rtol=1e-5)
    share = drawn[counts > 0].mean(), drawn[counts == 0].mean()
    assert 0.25 < share[0] < 0.35 and 0.01 < share[1] < 0.06
    told = inputs["decoder_expression_values"].numpy()[:, :GENES]
    hidden = told == 102
    assert not (hidden & ~drawn).any()
    assert 0.7 < hidden.sum() / drawn.sum() < 0.9
    untouched = ~drawn
    np.testing.assert_allclose(told[untouched], log_normalised(counts)[untouched], rtol=1e-5)
    changed = drawn & ~hidden & ~np.isclose(told, log_normalised(counts), rtol=1e-4)
    assert changed.any()


def test_the_encoder_sees_what_is_not_hidden(processor, batch):
    inputs = ReadDepthCollator.from_processor(processor, thin_ratio=0.0)(batch)
    told = inputs["decoder_expression_values"]
    for ids, values, mask, cell in zip(
        inputs["input_ids"], inputs["expression_values"], inputs["attention_mask"], told, strict=True
    ):
        real = mask.bool()
        assert ids[real][-2:].tolist() == [TARGET, SOURCE]
        assert (ids[~real] == PAD).all() and (values[~real] == 103).all()
        expected = ((cell > 0) & (cell != 102)).nonzero()[:, 0]
        assert torch.equal(ids[real], expected)
        assert_close(values[real], cell[expected])


def test_thinned_cells_tell_both_depths(processor, batch, counts):
    inputs = ReadDepthCollator.from_processor(processor, thin_ratio=1.0, value_ratio=0.0, zero_ratio=0.0)(batch)
    target, source = 10 ** inputs["decoder_expression_values"][:, GENES:].double().T
    totals = torch.from_numpy(counts.sum(1)).double()
    assert_close(target, totals, rtol=1e-5, atol=0.0)
    share = source / totals
    assert (source <= target + 1e-3).all() and 0.3 < share.mean() < 0.7 and share.std() > 0.1
    assert_close(source.round(), source, rtol=1e-5, atol=0.0)
    seen = inputs["decoder_expression_values"][:, :GENES].double()
    left = seen.expm1() * source[:, None] / 1e4
    assert_close(left.round(), left, atol=1e-3, rtol=0.0)
    assert (left.numpy() <= counts + 1e-3).all()
    assert_close(left.sum(1), source, rtol=1e-4, atol=0.0)


def test_what_is_drawn_belongs_to_the_cell(processor, batch):
    collator = ReadDepthCollator.from_processor(processor)
    together = collator(batch, 3)
    rows = [7, 2]
    alone = collator({name: values[rows] for name, values in batch.items()}, 3)
    for name in ("labels", "decoder_expression_values"):
        assert torch.equal(alone[name], together[name][rows])
    assert not torch.equal(collator(batch, 4)["labels"], together["labels"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"value_ratio": 1.5}, "value_ratio"), ({"replace_ratio": 0.8, "random_ratio": 0.3}, "add up")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        ReadDepthCollator(**settings)


def test_other_encodings_are_refused(processor):
    other = CellProcessor(ExpressionFeatureExtractor(encoding="continuous"), processor.tokenizer)
    with pytest.raises(ConfigurationError, match="depth"):
        ReadDepthCollator.from_processor(other)
