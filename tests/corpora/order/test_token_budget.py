import numpy as np
import pytest
import torch

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.corpora.order.plan import row_ids
from sclm_hf.corpora.order.token_budget import cuts, pack
from sclm_hf.errors import ConfigurationError

from ..conftest import GENES, make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12}
BUDGET = {"batch_size": 20, "max_tokens_per_batch": 100}


@pytest.fixture
def corpus(folder, processor):
    return CellCorpus(folder, processor, **SMALL)


def ids_of(batches) -> list[list[int]]:
    return [batch["cell_ids"].tolist() if batch else [] for batch in batches]


def test_cuts_fill_batches_up_to_either_limit():
    assert cuts(np.array([2, 2, 2, 2, 5, 1]), 8, 3) == [3, 4, 5]
    assert cuts(np.array([2, 2, 2, 2, 5, 1]), 10, 100) == [4]
    assert cuts(np.array([10]), 10, 1) == [] == cuts(np.array([], int), 10, 1)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_pack_hands_out_every_cell_once(grouped, shuffle):
    ids, lengths = row_ids("a", np.arange(500)), np.random.default_rng(0).integers(1, 100, 500)
    how = {"max_tokens": 400, "max_cells": 30, "grouped": grouped, "shuffle": shuffle}
    batches = pack(ids, lengths, **how, seed=0, epoch=0)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(500))
    assert all(len(batch) <= 30 and len(batch) * lengths[batch].max() <= 400 for batch in batches)
    padding = 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padding < 0.05 if grouped else padding > 0.3
    if not shuffle:
        assert (order == (np.argsort(lengths, kind="stable") if grouped else np.arange(500))).all()
        return
    assert (order != np.concatenate(pack(ids, lengths, **how, seed=0, epoch=1))).any()
    longest = [lengths[batch].max() for batch in batches]
    assert 0.3 < np.mean(np.diff(longest) > 0) < 0.7
    turned = pack(ids[::-1], lengths[::-1], **how, seed=0, epoch=0)
    assert (np.concatenate(turned) == 499 - order).all()


def test_batches_stay_below_the_budget_and_fill_it(corpus):
    batches = list(corpus.batches(**BUDGET))
    sizes = np.array([batch["input_ids"].shape for batch in batches])
    assert (sizes.prod(axis=1) <= 100).all() and (sizes[:, 0] <= 20).all()
    assert len(set(sizes[:, 0])) > 4 and np.median(sizes.prod(axis=1)) > 80
    cells = [cell for batch in ids_of(batches) for cell in batch]
    assert sorted(cells) == sorted(cell for batch in ids_of(corpus.batches(12)) for cell in batch)
    assert cells != [cell for batch in ids_of(corpus.batches(**BUDGET, epoch=1)) for cell in batch]


@pytest.mark.parametrize("world_size", [1, 2, 3, pytest.param(40, marks=pytest.mark.slow)])
def test_an_epoch_resumes_after_any_batch_with_any_number_of_ranks(corpus, world_size):
    whole = ids_of(corpus.batches(**BUDGET))
    for done in range(len(whole) + 1):
        start = sum(map(len, whole[:done]))
        ranks = [
            ids_of(corpus.batches(**BUDGET, start=start, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        assert len({len(rank) for rank in ranks}) == 1
        # round by round, the ranks together go on where the epoch stopped
        assert [batch for batches in zip(*ranks, strict=True) for batch in batches if batch] == whole[done:]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_batches(corpus, num_workers):
    def double(batch, epoch):
        return {name: 2 * torch.from_numpy(values) for name, values in batch.items()}

    share = {"start": 0, "rank": 2, "world_size": 3}
    alone = list(corpus.loader(**BUDGET, collator=double, **share))
    assert {} in alone
    loader = corpus.loader(**BUDGET, collator=double, **share, num_workers=num_workers)
    with pytest.raises(TypeError, match="number of batches"):
        len(loader)
    for want, have in zip(alone, loader, strict=True):
        assert want.keys() == have.keys() and all(torch.equal(want[name], have[name]) for name in want)


def test_reading_leaves_the_generator_of_torch_alone(corpus):
    state = torch.get_rng_state()
    list(corpus.loader(12, num_workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_impossible_budgets_and_starts_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigurationError, match="at least 25, the `max_length`"):
        corpus.batches(8, max_tokens_per_batch=24)
    starts = set(np.cumsum([len(batch) for batch in ids_of(corpus.batches(**BUDGET))]))
    inside = next(cell for cell in range(1, 154) if cell not in starts)
    with pytest.raises(ConfigurationError, match=f"begins at cell {inside}"):
        next(corpus.batches(**BUDGET, start=inside))
    cells = make_cells(30)
    cells.X = cells.X.toarray()
    cells.X[17] = 1
    cells.write_h5ad(tmp_path / "long.h5ad")
    unlimited = CellProcessor(ExpressionFeatureExtractor(), GeneTokenizer.from_genes(GENES))
    with pytest.raises(ConfigurationError, match=r"long\.h5ad`, row 17 .*41 tokens, more than .*40"):
        list(CellCorpus(tmp_path, unlimited, **SMALL).batches(8, max_tokens_per_batch=40))
    assert list(CellCorpus(tmp_path, unlimited, **SMALL).batches(8, max_tokens_per_batch=41))


def test_the_order_id_tells_orders_apart(folder, processor, corpus):
    same = corpus.order_id(12)
    assert same == corpus.order_id(4) == CellCorpus(folder, processor, **SMALL).order_id(6)
    others = [
        corpus.order_id(8),
        corpus.order_id(12, max_tokens_per_batch=100),
        corpus.order_id(20, max_tokens_per_batch=100),
        CellCorpus(folder, processor, **{**SMALL, "window_size": 96}).order_id(12),
        CellCorpus(folder, processor, **SMALL, seed=1).order_id(12),
        CellCorpus(folder, processor, **SMALL, rows={"one": [1, 2, 3]}).order_id(12),
        CellCorpus(folder, processor, **SMALL, rows={"one": [1, 2, 4]}).order_id(12),
        CellCorpus(folder / "one.h5ad", processor, **SMALL).order_id(12),
    ]
    assert len({same, *others}) == 9
