import os
import pickle
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer, GeneVocabulary
from sclm_hf.errors import ConfigurationError, CorpusError, ExpressionError, GeneCoverageError
from sclm_hf.tokenization.encodings.keys import hash_names

from .conftest import GENES, make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12}
NAMES = ("one", "three", "two")


@pytest.fixture
def corpus(folder, processor):
    return CellCorpus(folder, processor, label_column="cell_type", batch_column="donor", **SMALL)


def ids_of(batches) -> list[list[int]]:
    return [batch["cell_ids"].tolist() for batch in batches]


def flat(batches) -> list[int]:
    return [cell for batch in batches for cell in batch]


def expected_ids(folder) -> dict[int, tuple[anndata.AnnData, int]]:
    """cell id -> (its AnnData, its row)"""
    known = {}
    for name in NAMES:
        cells = anndata.read_h5ad(folder / f"{name}.h5ad")
        ids = hash_names(cells.obs_names).view(np.int64).tolist()
        known.update({cell: (cells, row) for row, cell in enumerate(ids)})
    return known


def test_every_cell_comes_once_and_as_the_processor_encodes_it(corpus, folder, processor):
    known = expected_ids(folder)
    seen = []
    for batch in corpus.batches(12, epoch=3):
        for place, cell in enumerate(batch["cell_ids"].tolist()):
            cells, row = known[cell]
            alone = processor.encode(
                cells.X[[row]],
                processor.map_genes(list(cells.var_names)).gene_ids,
                cell_ids=np.array([cell]),
                seed=0,
                epoch=3,
            )
            length = alone["input_ids"].shape[1]
            for name, values in alone.items():
                assert batch[name].dtype == values.dtype
                np.testing.assert_array_equal(batch[name][place, :length], values[0])
            assert (batch["input_ids"][place, length:] == processor.tokenizer.pad_token_id).all()
            assert (batch["expression_values"][place, length:] == -2).all()
            assert batch["attention_mask"][place].sum() == length
            assert corpus.label_names[batch["labels"][place]] == cells.obs["cell_type"].iloc[row]
            assert corpus.batch_names[batch["batch_labels"][place]] == cells.obs["donor"].iloc[row]
            seen.append(cell)
        assert batch["attention_mask"].sum(axis=1).max() == batch["attention_mask"].shape[1]
    assert len(seen) == len(corpus) == 154
    assert set(seen) == set(known)


def test_epochs_and_seeds_differ_and_files_may_come_in_any_order(corpus, folder, processor):
    order = flat(ids_of(corpus.batches(12)))
    assert order != flat(ids_of(corpus.batches(12, epoch=1)))
    assert order != flat(ids_of(CellCorpus(folder, processor, seed=1, **SMALL).batches(12)))
    files = [folder / f"{name}.h5ad" for name in NAMES[::-1]]
    assert order == flat(ids_of(CellCorpus(files, processor, **SMALL).batches(12)))


def test_batch_sizes_that_divide_a_group_read_the_same_order(corpus):
    order = flat(ids_of(corpus.batches(12)))
    for batch_size in (1, 3, 6):
        batches = ids_of(corpus.batches(batch_size))
        assert flat(batches) == order
        assert {len(batch) for batch in batches[:-1]} == {batch_size}


@pytest.mark.parametrize("batch_size", [4, 5, 100])
def test_an_epoch_resumes_anywhere_with_any_number_of_ranks(corpus, batch_size):
    whole = ids_of(corpus.batches(batch_size))
    for done in range(len(whole) + 1):
        start = min(done * batch_size, len(corpus))
        for world_size in (1, 3):
            ranks = [
                ids_of(corpus.batches(batch_size, start=start, rank=rank, world_size=world_size))
                for rank in range(world_size)
            ]
            rest = whole[done:]
            assert ranks == [rest[rank::world_size] for rank in range(world_size)]


def test_resuming_reads_no_more_than_a_window_again(corpus, monkeypatch):
    rows = []

    def counted(read):
        return lambda wanted, *scratch: rows.append(len(wanted)) or read(wanted, *scratch)

    for source in corpus.sources:
        monkeypatch.setattr(source, "read", counted(source.read))
    list(corpus.batches(12, start=144))
    assert sum(rows) == 154 - 144


def test_batches_hold_cells_of_similar_length(folder, processor):
    grouped = CellCorpus(folder, processor, **{**SMALL, "window_size": 154})
    mixed = CellCorpus(folder, processor, group_by_length=False, **{**SMALL, "window_size": 154})
    share = [np.mean([batch["attention_mask"].mean() for batch in c.batches(12)]) for c in (grouped, mixed)]
    assert share[0] > 0.85 > share[1]


@pytest.mark.parametrize("window_size", [48, 154])
def test_without_shuffling_cells_come_in_the_order_of_sources(folder, processor, window_size):
    sizes = {**SMALL, "window_size": window_size}
    corpus = CellCorpus(folder, processor, shuffle=False, group_by_length=False, **sizes)
    assert flat(ids_of(corpus.batches(11))) == list(expected_ids(folder))


def test_rows_choose_cells(folder, processor):
    rows = {"one": [3, 60, 4], folder / "two.h5ad": np.arange(33) < 5, "three": []}
    corpus = CellCorpus(folder, processor, rows=rows, label_column="cell_type", **SMALL)
    known = expected_ids(folder)
    seen = {}
    for batch in corpus.batches(3):
        seen.update(zip(batch["cell_ids"].tolist(), batch["labels"].tolist(), strict=True))
    assert len(corpus) == len(seen) == 8
    assert {(known[cell][0].obs_names[known[cell][1]]) for cell in seen} == {
        *(f"cell1_{row}" for row in (3, 4, 60)),
        *(f"cell2_{row}" for row in range(5)),
    }
    for cell, label in seen.items():
        cells, row = known[cell]
        assert corpus.label_names[label] == cells.obs["cell_type"].iloc[row]
    with pytest.raises(CorpusError, match="leaves no cell"):
        CellCorpus(folder / "one.h5ad", processor, rows={"one": []})


def test_few_files_are_open_at_a_time(folder, processor, monkeypatch):
    monkeypatch.setattr("sclm_hf.corpora.contents._MAX_OPEN_FILES", 1)
    corpus = CellCorpus(folder, processor, **SMALL)
    order = ids_of(corpus.batches(12))
    assert sum(source._open is not None for source in corpus.sources) == 1
    monkeypatch.undo()
    assert order == ids_of(CellCorpus(folder, processor, **SMALL).batches(12))


def test_corpus_is_pickled(corpus):
    order = ids_of(corpus.batches(12))
    assert ids_of(pickle.loads(pickle.dumps(corpus)).batches(12)) == order


def test_coverage_names_every_source(corpus):
    assert {name: len(coverage.missing) for name, coverage in corpus.coverage.items()} == {
        "one": 0,
        "two": 0,
        "three": 2,
    }


def test_encodings_without_values(folder):
    extractor = ExpressionFeatureExtractor(encoding="rank", truncation="head", max_length=25)
    corpus = CellCorpus(folder, CellProcessor(extractor, GeneTokenizer.from_genes(GENES)), **SMALL)
    for batch in corpus.batches(12):
        assert set(batch) == {"input_ids", "attention_mask", "cell_ids"}
        assert (batch["input_ids"] == 0).sum() == (batch["attention_mask"] == 0).sum()


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "negative"), (np.nan, "NaN"), (np.inf, "infinite"), (0.0, "no expressed gene")]
)
def test_cells_that_cannot_be_encoded_are_located(tmp_path, processor, value, message):
    make_cells(30).write_h5ad(tmp_path / "good.h5ad")
    cells = make_cells(30, 1)
    counts = cells.X.toarray()
    counts[17] = 0
    counts[17, 3] = value
    cells.X = counts
    cells.write_h5ad(tmp_path / "bad.h5ad")
    for group_by_length in (True, False):
        with pytest.raises(
            ExpressionError, match=rf"bad\.h5ad`.*({message}).*rows 17\)|bad\.h5ad`, row 17 .*{message}"
        ):
            list(CellCorpus(tmp_path, processor, group_by_length=group_by_length, **SMALL).batches(12))


def test_normalised_values_are_refused_with_the_file(tmp_path, processor):
    cells = make_cells(30)
    cells.X = cells.X.log1p()
    cells.write_h5ad(tmp_path / "normalised.h5ad")
    with pytest.raises(ExpressionError, match=r"normalised\.h5ad"):
        list(CellCorpus(tmp_path, processor, **SMALL).batches(12))


def test_genes_that_the_model_does_not_know_are_refused_at_once_or_when_lazy_at_the_first_read(tmp_path, processor):
    make_cells(30, 0, [f"other{number}" for number in range(40)]).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(GeneCoverageError, match=r"other\.h5ad"):
        CellCorpus(tmp_path, processor)
    corpus = CellCorpus(tmp_path, processor, lazy=True)
    with pytest.raises(GeneCoverageError, match=r"other\.h5ad"):
        next(corpus.batches(4))


def test_damaged_files_are_named_at_once_or_when_lazy_at_the_first_read(tmp_path, processor):
    make_cells(30).write_h5ad(tmp_path / "damaged.h5ad")
    with h5py.File(tmp_path / "damaged.h5ad", "r+") as file:
        del file["X/indices"]
    with pytest.raises(CorpusError, match=r"damaged\.h5ad`: `/X/indices` is missing"):
        CellCorpus(tmp_path, processor)
    corpus = CellCorpus(tmp_path, processor, lazy=True)
    with pytest.raises(CorpusError, match=r"damaged\.h5ad`: `/X/indices` is missing"):
        next(corpus.batches(12))


def test_start_must_be_the_end_of_a_batch(corpus):
    with pytest.raises(ConfigurationError, match="multiple of the batch size 12"):
        corpus.batches(12, start=7)


def test_names_without_a_column_are_refused(folder, processor):
    with pytest.raises(ConfigurationError, match="no column of `obs`"):
        CellCorpus(folder, processor, label_names=["B", "T"])


@pytest.mark.slow
def test_real_files_stream_as_one_corpus():
    data = Path(os.environ.get("SCLM_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not data.exists():
        pytest.skip(f"`{data}` (SCLM_DATA) does not exist")
    names = ("covid_balf_liao", "heart_san_multiome_1k", "retina_multiome_1k", "pbmc68k_reduced_counts")
    vocabulary = GeneVocabulary.from_file(data / "vocab" / "scgpt_census_vocab.json")
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("scgpt"), GeneTokenizer.from_genes(vocabulary))
    corpus = CellCorpus([data / "h5ad" / f"{name}.h5ad" for name in names], processor, label_column="cell_type")
    assert len(corpus) == 3724 + 1000 + 1000 + 700
    assert min(coverage.count_share for coverage in corpus.coverage.values()) > 0.9
    cells = [cell for batch in corpus.loader(64, num_workers=2) for cell in batch["cell_ids"].tolist()]
    assert len(cells) == len(corpus)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("shuffle", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("encoding", ["bins", "rank"])
def test_cells_read_through_h5py_alone_are_the_same(tmp_path, encoding, shuffle, num_workers, monkeypatch):
    make_cells(900, 4).write_h5ad(tmp_path / "large.h5ad")
    ranks = {"truncation": "head"} if encoding == "rank" else {}
    extractor = ExpressionFeatureExtractor(encoding=encoding, max_length=20, **ranks)
    processor = CellProcessor(extractor, GeneTokenizer.from_genes(GENES))
    calls, encode = [], CellProcessor.encode_stored
    monkeypatch.setattr(CellProcessor, "encode_stored", lambda *args, **how: calls.append(1) or encode(*args, **how))

    def read():
        corpus = CellCorpus(tmp_path / "large.h5ad", processor, block_size=10, window_size=100, shuffle=shuffle)
        return list(corpus.loader(16, num_workers=num_workers, epoch=1))

    fast, n_calls = read(), len(calls)
    assert n_calls or num_workers
    monkeypatch.setenv("SCLM_PLAIN_IO", "1")
    plain = read()
    assert len(calls) == n_calls and len(fast) == len(plain)
    for batch, expected in zip(fast, plain, strict=True):
        assert batch.keys() == expected.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_a_bad_cell_is_located_where_cells_are_read_straight_from_the_file(tmp_path, processor):
    cells = make_cells(900, 4)
    cells.X.data[cells.X.indptr[870]] = np.nan
    cells.write_h5ad(tmp_path / "large.h5ad")
    corpus = CellCorpus(tmp_path / "large.h5ad", processor, block_size=10, window_size=100, shuffle=False)
    with pytest.raises(ExpressionError, match=r"large.h5ad`: 1 of \d+ cells have NaN.*rows 870\)"):
        list(corpus.batches(10))
