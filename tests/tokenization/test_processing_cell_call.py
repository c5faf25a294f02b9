"""Calling a processor as processors of transformers are called: padding, truncation, tables, rows of shards."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError
from sclm_hf.opening.tiny import make_processor as make_processor_of
from sclm_hf.tokenization.processing_cell import CellProcessor
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
        ({"pad_to_multiple_of": 0}, "`pad_to_multiple_of`"),
        ({"pad_to_multiple_of": -8}, "`pad_to_multiple_of`"),
        ({"pad_to_multiple_of": 2.5}, "`pad_to_multiple_of`"),
        ({"return_tensors": "tf"}, "`return_tensors`"),
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


def test_a_data_frame_of_nullable_numbers_is_read_and_what_is_missing_refused(processor, cells):
    frame = cells.to_df().astype("Int64")
    for name, array in processor(frame).items():
        np.testing.assert_array_equal(array, processor(cells)[name])
    frame.iloc[3, 4] = pd.NA
    with pytest.raises(ExpressionError, match=r"NaN .* \(rows 3\)"):
        processor(frame)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 2], [1]],
        torch.ones(2, 90).bfloat16(),
        torch.ones(2, 90).to_sparse(),
        torch.ones(2, 90, requires_grad=True),
    ],
)
def test_what_numpy_cannot_read_is_refused(processor, matrix):
    with pytest.raises(ExpressionError, match="numpy cannot read"):
        processor(matrix, gene_names=GENES)


def test_coverage_is_judged_by_the_cells_of_each_call(processor):
    names = [*GENES[:45], *(f"NO-GENE-{number}" for number in range(45))]
    known, unknown = np.ones((2, 90)), np.ones((2, 90))
    known[:, 45:], unknown[:, 1:45] = 0, 0
    for _ in range(2):
        processor(known, gene_names=names)
        assert processor.last_coverage.count_share == 1
        with pytest.raises(GeneCoverageError):
            processor(unknown, gene_names=names)
        assert processor.last_coverage.count_share == pytest.approx(1 / 46)


def test_ensembl_ids_beside_an_anndata_are_read():
    processor = make_processor_of("scgpt", ["ACTB"])
    cells = anndata.AnnData(np.ones((2, 1), np.float32), var=pd.DataFrame(index=["my-gene"]))
    assert processor(cells, ensembl_ids=["ENSG00000075624"])["input_ids"].shape == (2, 2)
    assert processor.last_coverage.renamed == (("my-gene", "ACTB"),)


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
        cells.obs_names = [f"{number}-{name}" for name in cells.obs_names]
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


@pytest.fixture
def two_rows():
    return {"dataset": ["a", "a"], "cell_id": [1, 2**64 - 1], "gene_index": [[0, 9], [3]], "counts": [[1, 2], [4]]}


def test_cell_ids_of_shards_may_be_written_unsigned(processor, two_rows):
    ids = processor(two_rows, gene_names=GENES, return_cell_ids=True)["cell_ids"]
    assert ids.tolist() == [1, -1]


@pytest.mark.parametrize("column", ["dataset", "cell_id", "gene_index", "counts"])
def test_rows_of_shards_without_a_column_are_refused(processor, two_rows, column):
    short = two_rows | {column: two_rows[column][:1]}
    with pytest.raises(ExpressionError, match=r"entries of `|cells?: expected one per cell"):
        processor(short, gene_names=GENES)
    del two_rows[column]
    with pytest.raises(ExpressionError, match=f"these lack `{column}`"):
        processor(two_rows, gene_names=GENES)


def test_rows_of_shards_in_another_form_are_refused(processor, two_rows):
    rows = Dataset.from_dict({"gene_index": [[0]], "counts": [[1]]})
    for given in (pd.DataFrame(two_rows), rows, rows.with_format("arrow")[:]):
        with pytest.raises(ExpressionError, match=f"got a {type(given).__name__}: leave out `with_format`"):
            processor(given, gene_names=GENES)
    streamed = Dataset.from_dict({"dataset": ["a"], "gene_index": [0], "gene_name": ["G"]}).to_iterable_dataset()
    with pytest.raises(ExpressionError, match="without `streaming=True`"):
        processor(two_rows, gene_names=streamed)


@pytest.mark.parametrize("settings", [{"cell_ids": [1, 2]}, {"layer": "counts"}, {"ensembl_ids": [""] * 90}])
def test_rows_of_shards_bring_their_own_data(processor, two_rows, settings):
    with pytest.raises(ExpressionError, match=f"leave out `{next(iter(settings))}`"):
        processor(two_rows, gene_names=GENES, **settings)


def test_a_table_of_genes_that_was_mended_is_read_again(processor, two_rows):
    tables = {"b": GENES}
    with pytest.raises(ExpressionError, match="data set `a`"):
        processor(two_rows, gene_names=tables)
    tables["a"] = GENES
    assert len(processor(two_rows, gene_names=tables)["input_ids"]) == 2


def test_genes_are_mapped_once_however_cells_are_cut(two_rows, monkeypatch):
    processor = make_processor()
    calls = []
    resolve = processor.map_genes
    monkeypatch.setattr(
        CellProcessor, "map_genes", lambda _, *genes, **more: calls.append(1) or resolve(*genes, **more)
    )
    for _ in range(2):
        processor(two_rows, gene_names=GENES, max_length=20)
    processor(two_rows, gene_names=GENES)
    assert len(calls) == 1


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


@pytest.mark.parametrize("settings", [{"max_length": 20}, {"truncation": "head"}, {"truncation": True}])
def test_a_sample_is_not_cut_off(settings):
    processor = make_processor_of("cellplm", GENES)
    with pytest.raises(ConfigurationError, match="nothing of it is cut off"):
        processor(make_cells(), **settings)
    assert processor(make_cells(), truncation=False)["expression_values"].shape[0] == 23
