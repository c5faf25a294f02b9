import numpy as np
import pytest

from sclm_hf import CellCorpus, mix
from sclm_hf.corpora.order.balance import Balance, shared_out
from sclm_hf.errors import ConfigurationError

from ..conftest import make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12, "label_column": "cell_type"}


@pytest.fixture
def files(tmp_path):
    """A file of 80 B and 8 T cells, another of 22 NK cells."""
    large, small = make_cells(88, 1), make_cells(22, 2)
    large.obs["cell_type"] = ["T" if number % 11 == 0 else "B" for number in range(88)]
    small.obs["cell_type"] = "NK"
    large.write_h5ad(tmp_path / "large.h5ad")
    small.write_h5ad(tmp_path / "small.h5ad")
    return tmp_path


def epoch_of(corpus, epoch=0, **share):
    batches = list(corpus.batches(12, epoch=epoch, **share))
    return [np.concatenate([batch[name] for batch in batches]) for name in ("cell_ids", "labels")]


@pytest.mark.parametrize(("power", "n_cells"), [(-1.0, [37, 37, 37]), (-0.5, [56, 37, 18]), (0.0, [67, 37, 7])])
def test_labels_come_as_often_as_their_power_says(files, processor, power, n_cells):
    corpus = CellCorpus(files, processor, balance_labels=power, **SMALL)
    _, labels = epoch_of(corpus)
    assert len(labels) == len(corpus) == 110 and corpus.label_names == ["B", "NK", "T"]
    np.testing.assert_allclose(np.bincount(labels), n_cells, atol=3)


def test_all_cells_of_a_label_take_turns(files, processor):
    corpus = CellCorpus(files, processor, balance_labels=-0.5, **SMALL)
    drawn = [epoch_of(corpus, epoch) for epoch in range(6)]
    seen = {cell for cells, labels in drawn for cell, label in zip(cells, labels, strict=True) if label == 0}
    assert len({*seen}) >= 78
    assert drawn[0][0].tolist() != drawn[1][0].tolist()


def test_a_cell_that_comes_again_draws_anew(files, processor):
    cells, labels = epoch_of(CellCorpus(files, processor, balance_labels=-1.0, **SMALL))
    assert len(set(cells)) == len(cells)
    once = set(epoch_of(CellCorpus(files, processor, **SMALL))[0])
    # the first time each is keyed by its name, as everywhere
    assert (labels == 2).sum() > 30 and sum(cell in once for cell in cells[labels == 2]) == 8


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_balanced_epochs_resume_anywhere_with_any_number_of_ranks_and_workers(files, processor, workers):
    corpus = CellCorpus(files, processor, balance_labels=-0.5, **SMALL)
    whole = [batch["cell_ids"].tolist() for batch in corpus.batches(12, epoch=3)]
    parts = [corpus.loader(12, epoch=3, start=36, rank=rank, world_size=2, num_workers=workers) for rank in (0, 1)]
    for rank, part in enumerate(parts):
        assert [batch["cell_ids"].tolist() for batch in part] == whole[3 + rank :: 2]


def test_balanced_cells_are_those_of_the_file(files, processor):
    plain = CellCorpus(files, processor, **SMALL)
    known = {cell: tokens for batch in plain.batches(12) for cell, tokens in tokens_of(batch)}
    found = [
        pair
        for batch in CellCorpus(files, processor, balance_labels=-1, **SMALL).batches(12)
        for pair in tokens_of(batch)
    ]
    again = [pair for pair in found if pair[0] in known]
    assert len(again) > 50 and all(tokens == known[cell] for cell, tokens in again)
    genes = {tuple(sorted(tokens[0])) for tokens in known.values() if len(tokens[0]) < 25}
    assert all(tuple(sorted(tokens[0])) in genes for _, tokens in found if len(tokens[0]) < 25)


def tokens_of(batch):
    rows = zip(batch["input_ids"], batch["expression_values"], batch["attention_mask"].astype(bool), strict=True)
    for cell, (ids, values, real) in zip(batch["cell_ids"].tolist(), rows, strict=True):
        yield cell, (ids[real].tolist(), values[real].tolist())


def test_other_orders_cannot_be_taken_for_it(files, processor):
    orders = {CellCorpus(files, processor, balance_labels=power, **SMALL).order_id(12) for power in (None, 0, -0.5)}
    assert len(orders) == 3


def test_what_cannot_be_balanced_is_refused(files, processor):
    with pytest.raises(ConfigurationError, match="between -1"):
        Balance(0.5, [])
    with pytest.raises(ConfigurationError, match="needs labels"):
        CellCorpus(files, processor, balance_labels=-0.5)
    with pytest.raises(ConfigurationError, match="shuffle"):
        CellCorpus(files, processor, balance_labels=-0.5, shuffle=False, **SMALL)
    with pytest.raises(ConfigurationError, match="cannot be mixed"):
        mix([CellCorpus(files, processor, balance_labels=-0.5, **SMALL)])


def test_shares_are_whole_and_complete():
    assert shared_out(10, np.array([1.0, 1.0, 2.0, 0.0])).tolist() == [3, 2, 5, 0]
    assert shared_out(3, np.ones(9), 0.1).sum() == 3
