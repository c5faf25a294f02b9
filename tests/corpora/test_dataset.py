import numpy as np
import pytest
from torch.utils.data import DataLoader

from sclm_hf import CellCorpus

datasets = pytest.importorskip("datasets")
split_dataset_by_node = pytest.importorskip("datasets.distributed").split_dataset_by_node


@pytest.fixture
def corpus(folder, processor):
    return CellCorpus(folder, processor, label_column="cell_type", block_size=8, window_size=24, group_size=12)


def test_dataset_holds_the_cells_of_the_batches_one_by_one(corpus):
    dataset = corpus.to_dataset(epoch=1)
    assert isinstance(dataset, datasets.IterableDataset)
    cells = iter(dataset)
    for batch in corpus.batches(12, epoch=1):
        for place, length in enumerate(batch["attention_mask"].sum(axis=1)):
            cell = next(cells)
            assert set(cell) == set(batch)
            assert (cell["cell_ids"], cell["labels"]) == (batch["cell_ids"][place], batch["labels"][place])
            for name in ("input_ids", "expression_values", "attention_mask"):
                np.testing.assert_array_equal(cell[name], batch[name][place, :length])
    assert next(cells, None) is None


def test_features_are_declared(corpus):
    assert corpus.to_dataset().features == datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int64")),
            "expression_values": datasets.List(datasets.Value("float32")),
            "attention_mask": datasets.List(datasets.Value("int64")),
            "cell_ids": datasets.Value("int64"),
            "labels": datasets.ClassLabel(names=corpus.label_names),
        }
    )


def test_every_column_of_labels_names_its_classes(folder, processor):
    corpus = CellCorpus(folder, processor, batch_column="donor", task_columns={"cell_type": ["T", "B", "NK"]})
    features = corpus.to_dataset().features
    assert features["batch_labels"].names == corpus.batch_names
    assert features["labels_cell_type"].names == ["T", "B", "NK"]


def ids(dataset) -> list[int]:
    return [int(cell["cell_ids"]) for cell in dataset]


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.with_format("torch"), lambda d: d.map(lambda cell: cell)])
def test_set_epoch_gives_the_order_of_that_epoch(corpus, change):
    dataset = change(corpus.to_dataset())
    orders = [ids(corpus.to_dataset(epoch)) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    for epoch in (2, 0, 1):
        dataset.set_epoch(epoch)
        assert ids(dataset) == orders[epoch]
    later = change(corpus.to_dataset(epoch=1))
    later.set_epoch(1)
    assert ids(later) == orders[2]


@pytest.mark.parametrize("epoch", [0, 1])
def test_workers_and_processes_share_the_cells_of_any_epoch(corpus, epoch):
    expected = ids(corpus.to_dataset(epoch))
    dataset = corpus.to_dataset()
    dataset.set_epoch(epoch)
    found = ids(DataLoader(dataset, batch_size=None, num_workers=2))
    assert found != expected and sorted(found) == sorted(expected)
    parts = [split_dataset_by_node(corpus.to_dataset(), rank, 2) for rank in range(2)]
    parts += [corpus.to_dataset().shard(2, index) for index in range(2)]
    for part in parts:
        part.set_epoch(epoch)
    for pair in (parts[:2], parts[2:]):
        assert sorted(cell for part in pair for cell in ids(part)) == sorted(expected)
    assert sorted(ids(DataLoader(parts[2], batch_size=None, num_workers=2))) == sorted(ids(parts[2]))


def test_workers_read_a_dataset_that_was_looked_at(corpus):
    dataset = corpus.to_dataset()
    next(iter(dataset))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, timeout=60)
    assert sorted(ids(loader)) == sorted(ids(corpus.to_dataset()))


def test_a_later_epoch_resumes_where_it_stopped(corpus):
    everything = ids(corpus.to_dataset(epoch=2))
    dataset = corpus.to_dataset()
    dataset.set_epoch(2)
    cells = iter(dataset)
    first = [int(next(cells)["cell_ids"]) for _ in range(61)]
    resumed = corpus.to_dataset()
    resumed.set_epoch(2)
    resumed.load_state_dict(dataset.state_dict())
    assert first + ids(resumed) == everything


def test_a_shuffle_buffer_comes_on_top_of_the_order(corpus):
    dataset = corpus.to_dataset().shuffle(seed=0, buffer_size=8)
    dataset.set_epoch(1)
    first = ids(dataset)
    assert first != ids(corpus.to_dataset(1)) and sorted(first) == sorted(ids(corpus.to_dataset()))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_of_a_data_loader_share_the_cells(corpus, num_workers):
    loader = DataLoader(corpus.to_dataset().with_format("torch"), batch_size=None, num_workers=num_workers)
    found = [int(cell["cell_ids"]) for cell in loader]
    assert len(found) == len(set(found)) == 154


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_dataset_resumes_where_it_stopped(corpus, kind):
    everything = [int(cell["cell_ids"]) for cell in corpus.to_dataset()]
    dataset = corpus.to_dataset().with_format(kind)
    cells = iter(dataset)
    first = [int(next(cells)["cell_ids"]) for _ in range(61)]
    resumed = corpus.to_dataset().with_format(kind)
    resumed.load_state_dict(dataset.state_dict())
    assert first + [int(cell["cell_ids"]) for cell in resumed] == everything


def test_formats_give_arrays(corpus):
    plain, formatted = next(iter(corpus.to_dataset())), next(iter(corpus.to_dataset().with_format("numpy")))
    assert (formatted["input_ids"].dtype, formatted["expression_values"].dtype) == (np.int64, np.float32)
    for name, values in plain.items():
        np.testing.assert_array_equal(formatted[name], values)
