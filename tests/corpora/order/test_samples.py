"""Whole samples as batches."""

import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest

from sclm_hf import CellCorpus, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.corpora.mixture import mix
from sclm_hf.errors import ConfigurationError, CorpusError, SclmWarning
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.tokenization.processing_sample import SampleProcessor

from ..conftest import GENES, make_cells

pytestmark = pytest.mark.filterwarnings("ignore:.*are taken for one sample")

ALL = 1000
"""A batch size that no sample reaches."""


@pytest.fixture(scope="module")
def processor() -> SampleProcessor:
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=())
    return SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm"), tokenizer)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, dict[str, anndata.AnnData]]:
    """A folder of two files with interleaved samples, and one without the column; and what they hold."""
    rng = np.random.default_rng(0)
    folder, cells = tmp_path_factory.mktemp("samples"), {}
    for name, n_cells, batches in (("one", 70, "abc"), ("two", 33, "ab"), ("three", 21, "")):
        cells[name] = make_cells(n_cells, len(cells))
        if batches:
            cells[name].obs["batch"] = rng.choice(list(batches), n_cells)
        cells[name].write_h5ad(folder / f"{name}.h5ad")
    return folder, cells


@pytest.fixture
def corpus(files, processor):
    return CellCorpus(files[0], processor, label_column="cell_type", seed=5)


def cells_of(batches) -> list[list[int]]:
    return [np.asarray(batch["cell_ids"]).tolist() for batch in batches]


def test_a_batch_is_a_sample_as_the_processor_encodes_it(files, processor, corpus):
    expected = {}
    for name, cells in files[1].items():
        batches = cells.obs["batch"].to_numpy() if "batch" in cells.obs else np.full(cells.n_obs, "")
        for batch in np.unique(batches):
            part = cells[batches == batch]
            gene_ids = processor.map_genes(list(part.var_names)).gene_ids
            sample = processor.encode(part.X, gene_ids, cell_ids=np.arange(part.n_obs))
            expected[name, batch] = sample | {"cell_type": part.obs["cell_type"].tolist()}
    assert len(corpus.samples) == len(expected) == 6
    seen = 0
    for batch in corpus.batches(ALL):
        labels = [corpus.label_names[label] for label in batch["labels"]]
        (sample,) = [one for one in expected.values() if one["cell_type"] == labels]
        for name in ("input_ids", "expression_values", "attention_mask"):
            np.testing.assert_array_equal(batch[name], sample[name])
            assert batch[name].dtype == sample[name].dtype
        seen += 1
    assert seen == corpus.n_batches(ALL) == 6


def test_order_depends_on_seed_and_epoch_alone(files, processor, corpus):
    order = cells_of(corpus.batches(ALL))
    assert order == cells_of(CellCorpus(files[0], processor, seed=5).batches(ALL))
    paths = [files[0] / f"{name}.h5ad" for name in ("two", "three", "one")]
    assert order == cells_of(CellCorpus(paths, processor, seed=5).batches(ALL))
    for other in (corpus.batches(ALL, epoch=1), CellCorpus(files[0], processor, seed=6).batches(ALL)):
        other = cells_of(other)
        assert other != order and sorted(other) == sorted(order)


def test_without_shuffling_samples_come_sorted(files, processor):
    corpus = CellCorpus(files[0], processor, shuffle=False)
    assert [len(cells) for cells in cells_of(corpus.batches(ALL))] == corpus.samples.sizes.tolist()
    assert cells_of(corpus.batches(ALL, epoch=1)) == cells_of(corpus.batches(ALL))


@pytest.mark.parametrize("batch_size", [10, ALL])
def test_an_epoch_resumes_after_any_sample_with_any_number_of_ranks(corpus, batch_size):
    if batch_size < ALL:
        corpus.samples.warn_of_larger = lambda most_cells: None
    whole = cells_of(corpus.batches(batch_size, epoch=2))
    for done in range(len(whole) + 1):
        start = sum(map(len, whole[:done]))
        for world_size in (1, 4):
            share = {"epoch": 2, "start": start, "world_size": world_size}
            ranks = [cells_of(corpus.batches(batch_size, rank=rank, **share)) for rank in range(world_size)]
            assert ranks == [whole[done:][rank::world_size] for rank in range(world_size)]
    with pytest.raises(ConfigurationError, match="No sample begins at cell 1 "):
        corpus.batches(batch_size, start=1)


@pytest.mark.parametrize("collator", [None, CellClassificationCollator(num_labels=3)])
def test_workers_change_nothing(corpus, collator):
    batches = list(corpus.loader(ALL, collator=collator))
    assert len(batches) == len(corpus.loader(ALL, num_workers=2)) == 6
    for mine, theirs in zip(batches, corpus.loader(ALL, collator=collator, num_workers=2), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(values.equal(theirs[name]) for name, values in mine.items())


def test_large_samples_give_a_subset_that_changes_with_the_epoch(corpus):
    whole = {cells[0]: set(cells) for cells in cells_of(corpus.batches(ALL))}
    with pytest.warns(SclmWarning, match=r"of 6 samples have more than 12 cells.*one.h5ad.*raise the batch size"):
        first = cells_of(corpus.batches(12))
    assert first == cells_of(corpus.batches(12))
    assert sorted(map(len, first)) == sorted(min(12, len(cells)) for cells in whole.values())
    assert all(any(set(cells) <= sample for sample in whole.values()) for cells in first)
    second = cells_of(corpus.batches(12, epoch=1))
    assert not {tuple(cells) for cells in first} & {tuple(cells) for cells in second if len(cells) == 12}


@pytest.mark.parametrize("shuffle", [True, False])
def test_split_samples_give_every_cell_once_an_epoch_in_batches_of_one_sample(files, processor, corpus, shuffle):
    whole = [set(cells) for cells in cells_of(corpus.batches(ALL))]
    split = CellCorpus(files[0], processor, seed=5, split_samples=True, shuffle=shuffle)
    first, second = cells_of(split.batches(12)), cells_of(split.batches(12, epoch=1))
    assert len(first) == split.n_batches(12) == sum(-(-len(sample) // 12) for sample in whole)
    assert sorted(cell for cells in first for cell in cells) == sorted(cell for sample in whole for cell in sample)
    assert all(len(cells) <= 12 and any(set(cells) <= sample for sample in whole) for cells in first)
    assert (first == second) is not shuffle
    assert cells_of(split.batches(12, start=sum(map(len, first[:3])), rank=1, world_size=2)) == first[4::2]
    assert split.order_id(ALL) != corpus.order_id(ALL)


def test_an_epoch_may_take_a_share_of_each_sample(files, processor, corpus):
    whole = {frozenset(cells) for cells in cells_of(corpus.batches(ALL))}
    part = CellCorpus(files[0], processor, seed=5, sample_share=0.7)
    first, second = cells_of(part.batches(ALL)), cells_of(part.batches(ALL, epoch=1))
    for cells in (*first, *second):
        (sample,) = [one for one in whole if one >= set(cells)]
        assert len(cells) == int(0.7 * len(sample))
    assert not {tuple(cells) for cells in first} & {tuple(cells) for cells in second}
    assert cells_of(part.batches(ALL, start=len(first[0]))) == first[1:]
    assert part.order_id(ALL) != CellCorpus(files[0], processor, seed=5).order_id(ALL)
    with pytest.raises(ConfigurationError, match="`sample_share` must be above 0"):
        CellCorpus(files[0], processor, sample_share=0)


def test_batch_column_names_the_samples_and_labels_them(files, processor):
    corpus = CellCorpus(files[0], processor, batch_column="donor")
    assert len(corpus.samples) == 6 and corpus.batch_names == ["d1", "d2"]
    for batch in corpus.batches(ALL):
        assert len(set(batch["batch_labels"])) == 1


def test_rows_leave_samples_with_what_is_left_of_them(files, processor):
    rows = {"one": np.arange(0, 70, 2), "two": np.arange(5), "three": []}
    corpus = CellCorpus(files[0], processor, rows=rows)
    whole = CellCorpus(files[0], processor)
    kept = {tuple(cells) for cells in cells_of(corpus.batches(ALL))}
    assert sum(map(len, kept)) == len(corpus) == 40
    parts = [set(cells) for cells in cells_of(whole.batches(ALL))]
    assert all(any(set(cells) <= part for part in parts) for cells in kept)


def test_one_sample_where_nothing_tells_them_apart_is_said_once(files, processor):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", SclmWarning)
        corpus = CellCorpus(files[0] / "three.h5ad", processor)
        part = CellCorpus(files[0] / "three.h5ad", processor, rows={"three": np.arange(3)})
    assert len(corpus.samples) == len(part.samples) == 1
    assert [str(one.message).split(": ")[1][:38] for one in caught] == ["its cells are taken for one sample; na"]


def test_order_id_tells_samples_apart(files, processor, corpus):
    by_donor = CellCorpus(files[0], processor, seed=5, batch_column="donor")
    ids = {corpus.order_id(ALL), by_donor.order_id(ALL), corpus.order_id(ALL + 1)}
    assert len(ids) == 3 and corpus.order_id(ALL) == CellCorpus(files[0], processor, seed=5).order_id(ALL)


def test_what_makes_no_samples_is_refused(files, processor, corpus, tmp_path):
    with pytest.raises(CorpusError, match="no obs column `site`"):
        CellCorpus(files[0], processor, batch_column="site")
    cells = make_cells(9)
    cells.obs["barcode"] = cells.obs_names
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"another value for each of the 9 cells.*`batch_column`"):
        CellCorpus(tmp_path, processor, batch_column="barcode")
    with pytest.raises(ConfigurationError, match="`max_tokens_per_batch` is for models of single cells"):
        corpus.batches(ALL, max_tokens_per_batch=100)
    with pytest.raises(ConfigurationError, match="cannot learn from single cells"):
        corpus.to_dataset()
    with pytest.raises(ConfigurationError, match="whole samples cannot be mixed"):
        mix([corpus])


def test_balanced_samples_take_cells_of_rare_labels_more_often(files, processor):
    options = {"label_column": "cell_type", "seed": 5, "balance_labels": -1.0}
    corpus = CellCorpus(files[0], processor, **options)
    batches = [list(corpus.batches(20, epoch=epoch)) for epoch in range(3)]
    assert [len(epoch) for epoch in batches] == [corpus.n_batches(20)] * 3
    for batch in (batch for epoch in batches for batch in epoch):
        numbers = np.unique(batch["labels"], return_counts=True)[1]
        assert len(batch["labels"]) <= 20 and len(set(batch["cell_ids"].tolist())) == len(batch["labels"])
        assert numbers.max() - numbers.min() <= 5
    rest = corpus.loader(20, epoch=2, start=sum(len(batch["labels"]) for batch in batches[2][:3]))
    assert cells_of(rest) == cells_of(batches[2][3:])
