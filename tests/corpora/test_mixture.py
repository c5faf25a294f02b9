from collections import Counter

import pytest

from sclm_hf import CellCorpus, mix
from sclm_hf.errors import ConfigurationError

from .conftest import make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12, "label_column": "cell_type"}


@pytest.fixture
def corpora(tmp_path, processor):
    for name, size in (("a", 40), ("b", 150), ("c", 70)):
        make_cells(size, size).write_h5ad(tmp_path / f"{name}.h5ad")
    return [
        CellCorpus(tmp_path / "a.h5ad", processor, **SMALL),
        CellCorpus([tmp_path / "b.h5ad", tmp_path / "c.h5ad"], processor, **SMALL),
    ]


def ids_of(batches) -> list[list[int]]:
    return [batch["cell_ids"].tolist() for batch in batches]


def flat(batches) -> list[int]:
    return [cell for batch in batches for cell in batch]


def labels_of(corpus) -> dict[int, int]:
    return {
        cell: label
        for batch in corpus.batches(12)
        for cell, label in zip(batch["cell_ids"].tolist(), batch["labels"].tolist(), strict=True)
    }


def test_an_epoch_holds_the_shares_that_weights_say(corpora):
    mixture = mix(corpora, weights=[1, 3])
    assert (len(mixture), mixture.shares) == (160, [40, 120])
    known = [labels_of(corpus) for corpus in corpora]
    for epoch in range(3):
        cells = flat(ids_of(mixture.batches(12, epoch=epoch)))
        assert len(cells) == len(set(cells)) == 160
        assert [len(set(cells) & set(part)) for part in known] == [40, 120]
    assert labels_of(mixture).items() <= (known[0] | known[1]).items()


def test_without_weights_every_cell_comes_once(corpora):
    mixture = mix(corpora)
    cells = flat(ids_of(mixture.batches(12)))
    assert len(cells) == len(mixture) == 260
    assert set(cells) == {cell for corpus in corpora for cell in labels_of(corpus)}
    assert cells != flat(ids_of(mixture.batches(12, epoch=1)))


def test_later_epochs_go_on_with_cells_not_seen_yet(corpora):
    mixture = mix(corpora, weights=[1, 2])
    assert mixture.shares == [40, 80]
    epochs = [Counter(flat(ids_of(mixture.batches(12, epoch=epoch)))) for epoch in range(4)]
    large = set(labels_of(corpora[1]))
    first, second = (set(epochs[epoch]) & large for epoch in (0, 1))
    assert not first & second and len(first | second) == 160
    assert set(epochs[2]) & large not in (first, second)


def test_windows_mix_the_corpora(corpora):
    windows = ids_of(mix(corpora).batches(48))
    small = set(labels_of(corpora[0]))
    assert sum(bool(set(window) & small) for window in windows) > 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mixture_resumes_anywhere_with_any_number_of_ranks_and_workers(corpora, num_workers):
    mixture = mix(corpora, weights=[1, 3])
    whole = ids_of(mixture.batches(12, epoch=5))
    for start in (0, 36, 156, 160) if num_workers else range(0, 160, 12):
        start = min(start, 160)
        if start % 12 and start < 160:
            continue
        rest = whole[-(-start // 12) :]
        for world_size in (1, 3):
            ranks = [
                ids_of(
                    mixture.loader(12, epoch=5, start=start, rank=rank, world_size=world_size, num_workers=num_workers)
                )
                for rank in range(world_size)
            ]
            assert ranks == [rest[rank::world_size] for rank in range(world_size)]


def test_tokens_can_be_limited(corpora):
    mixture = mix(corpora, weights=[1, 3])
    batches = list(mixture.batches(12, max_tokens_per_batch=200))
    assert all(batch["input_ids"].size <= 200 for batch in batches)
    assert len(flat(ids_of(batches))) == 160


def test_order_id_tells_mixtures_apart(corpora):
    ids = {mix(corpora, weights).order_id(12) for weights in (None, [1, 3], [1, 2])}
    assert len(ids) == 3
    assert mix(corpora, [2, 6]).order_id(12) == mix(corpora, [1, 3]).order_id(12)


def test_coverage_and_datasets_know_all_sources(corpora):
    mixture = mix(corpora)
    assert list(mixture.coverage) == ["a", "b", "c"]
    datasets = pytest.importorskip("datasets")
    assert isinstance(mixture.to_dataset(), datasets.IterableDataset)
    assert [cell["cell_ids"] for cell in mixture.to_dataset()] == flat(ids_of(mixture.batches(12)))


def test_what_cannot_be_mixed_is_refused(corpora, tmp_path, processor):
    path = tmp_path / "a.h5ad"
    with pytest.raises(ConfigurationError, match="no corpus"):
        mix([])
    for weights in ([1], [1, 0], [1, float("nan")], [1, -2]):
        with pytest.raises(ConfigurationError, match="2 positive `weights`"):
            mix(corpora, weights)
    with pytest.raises(ConfigurationError, match="leave corpus 0 no cell"):
        mix(corpora, [1e-9, 1])
    with pytest.raises(ConfigurationError, match=r"share the source names \['a'\]"):
        mix([corpora[0], corpora[0]])
    with pytest.raises(ConfigurationError, match="not shuffled"):
        mix([corpora[1], CellCorpus(path, processor, shuffle=False, **SMALL)])
    with pytest.raises(ConfigurationError, match="same `seed`"):
        mix([corpora[1], CellCorpus(path, processor, seed=1, **SMALL)])
    with pytest.raises(ConfigurationError, match="same `label_names`"):
        mix([corpora[1], CellCorpus(path, processor, **{**SMALL, "label_column": None})])
    with pytest.raises(ConfigurationError, match="only shuffled corpora of files"):
        mix([mix(corpora)])
