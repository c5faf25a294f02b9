"""Calling a processor as processors of transformers are called: padding, truncation, tables, rows of shards."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding

from sclm_hf import CellCorpus
from sclm_hf.corpora.build import build_corpus
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.hub.tiny import make_processor as make_processor_of
from sclm_hf.tokenization.processing_sample import SampleProcessor

from ..tasks.tiny import GENES, make_cells, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture
def cells():
    return make_cells()


def lengths_of(batch):
    return [len(ids) for ids in batch["input_ids"]]


def test_without_padding_cells_keep_their_lengths(processor, cells):
    padded, ragged = processor(cells), processor(cells, padding=False)
    assert lengths_of(ragged) == padded["attention_mask"].sum(axis=1).tolist()
    for name, rows in ragged.items():
        for row, length, whole in zip(rows, lengths_of(ragged), padded[name], strict=True):
            np.testing.assert_array_equal(row, whole[:length])


def test_padding_to_a_length_and_to_a_multiple(processor, cells):
    longest = processor(cells)["input_ids"].shape[1]
    batch = processor(cells, padding="max_length", max_length=60, return_tensors="pt")
    assert {name: array.shape for name, array in batch.items()} == dict.fromkeys(batch, (23, 60))
    assert (batch["expression_values"][:, longest:][batch["attention_mask"][:, longest:] == 0] == -2).all()
    assert processor(cells, pad_to_multiple_of=32)["input_ids"].shape[1] % 32 == 0


def test_a_call_cuts_cells_otherwise_than_the_processor(processor, cells):
    assert max(lengths_of(processor(cells, padding=False, max_length=7))) == 7
    assert max(lengths_of(processor(cells, padding=False, truncation=False))) > 48
    first = processor(cells, padding=False, truncation="head", max_length=7)["input_ids"]
    whole = processor(cells, padding=False, truncation=False)["input_ids"]
    assert all(np.array_equal(a, b[:7]) for a, b in zip(first, whole, strict=True))
    assert processor.feature_extractor.max_length == 48


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"padding": "nonsense"}, "`padding` must be"),
        ({"padding": False, "return_tensors": "pt"}, "no tensor"),
        ({"truncation": "tail"}, "`truncation`"),
        ({"truncation": False, "max_length": 9}, "cuts nothing off"),
        ({"max_length": 0}, "`max_length`"),
    ],
)
def test_settings_that_contradict_are_refused(processor, cells, settings, told):
    with pytest.raises(ConfigurationError, match=told):
        processor(cells, **settings)


def test_a_data_frame_is_read_as_the_anndata_it_came_from(processor, cells):
    frame = cells.to_df()
    sparse = frame.astype(pd.SparseDtype("float32", 0))
    for given in (frame, sparse):
        for name, array in processor(given).items():
            np.testing.assert_array_equal(array, processor(cells)[name])


def test_labels_in_a_data_frame_are_named(processor, cells):
    frame = cells.to_df().assign(cell_type="B cell")
    with pytest.raises(ExpressionError, match="`cell_type`"):
        processor(frame)


def test_cell_ids_are_returned_on_request(processor, cells):
    ids = processor(cells, return_cell_ids=True)["cell_ids"]
    assert ids.dtype == np.int64 and len(set(ids.tolist())) == 23
    again = processor(cells[5:7].copy(), return_cell_ids=True, return_tensors="pt")["cell_ids"]
    assert torch.equal(again, torch.from_numpy(ids[5:7]))


@pytest.mark.parametrize("family", ["scgpt", "geneformer", "tgpt", "scbert", "scfoundation", "uce"])
def test_stock_collators_pad_what_a_processor_returns(family, tmp_path):
    processor = make_processor_of(family, GENES)
    cells = make_cells()[:, :-1].copy()
    expected = processor(cells, return_tensors="pt")
    ragged = processor(cells, padding=False)
    rows = [{name: ragged[name][i].tolist() for name in ragged} for i in range(23)]
    processor.save_pretrained(tmp_path)
    for padding_class in (processor, processor.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        batch = DataCollatorWithPadding(padding_class)(rows)
        assert set(batch) == set(expected)
        for name in expected:
            torch.testing.assert_close(batch[name], expected[name], check_dtype=False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        cells = make_cells(seed=number)
        # data sets number their genes each in its own way
        cells[:, :: 1 - 2 * number].copy().write_h5ad(folder / f"set{number}.h5ad")
    build_corpus([folder / "set0.h5ad", folder / "set1.h5ad"], folder / "shards", shard_size=16)
    return folder / "shards"


def test_a_processor_maps_rows_of_shards(processor, shards, tmp_path):
    from datasets import concatenate_datasets, load_dataset

    tables = load_dataset(str(shards), "genes", split="train", cache_dir=str(tmp_path))
    parts = [load_dataset(str(shards), name, split="train", cache_dir=str(tmp_path)) for name in ("set0", "set1")]
    rows = concatenate_datasets(parts).shuffle(seed=0)
    mapped = rows.map(
        processor, batched=True, batch_size=7, fn_kwargs={"gene_names": tables}, load_from_cache_file=False
    )
    corpus = CellCorpus(shards, processor)
    expected = {row["cell_ids"]: row for row in corpus.to_dataset()}
    assert len(mapped) == len(expected) == 46
    for row in mapped:
        assert row["input_ids"] == expected[row["cell_id"]]["input_ids"]
        assert row["expression_values"] == expected[row["cell_id"]]["expression_values"]


def test_one_row_of_a_shard_is_one_cell(processor, shards, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(shards), "set0", split="train", cache_dir=str(tmp_path))
    names = {"set0": make_cells().var_names}
    one = processor(rows[3], gene_names=names)
    assert one["input_ids"].ndim == 1
    np.testing.assert_array_equal(one["input_ids"], processor(rows[:5], gene_names=names)["input_ids"][3])


def test_rows_of_shards_without_their_genes_are_refused(processor):
    row = {"dataset": ["a"], "cell_id": [1], "gene_index": [[0, 95]], "counts": [[1, 2]]}
    with pytest.raises(ExpressionError, match="load_dataset"):
        processor(row)
    with pytest.raises(ExpressionError, match="data set `a`"):
        processor(row, gene_names={"b": GENES})
    with pytest.raises(ExpressionError, match="beyond the 90 genes"):
        processor(row, gene_names=GENES)


def test_a_fingerprint_does_not_hang_on_earlier_calls(cells):
    from datasets.fingerprint import Hasher

    processor = make_processor()
    before = Hasher.hash(processor)
    processor(cells)
    assert Hasher.hash(processor) == before


def test_a_sample_is_not_padded():
    processor = make_processor_of("cellplm", GENES)
    assert isinstance(processor, SampleProcessor)
    with pytest.raises(ConfigurationError, match="nothing of it is padded"):
        processor(make_cells(), padding=False)
