import numpy as np
import pytest
from torch.utils.data import DataLoader

from sclm_hf import CellCorpus

datasets = pytest.importorskip("datasets")


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
            "labels": datasets.Value("int64"),
        }
    )


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
