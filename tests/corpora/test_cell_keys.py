"""One cell draws the same wherever it is encoded."""

import anndata
import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.opening.loading import load_model
from sclm_hf.tasks.running.prepared_cells import prepare_cells
from sclm_hf.tokenization.encodings.keys import hash_names

from ..tasks.tiny import make_cells, make_model, make_processor

SEED, LONGEST = 5, 12


@pytest.fixture(scope="module")
def processor():
    return make_processor(max_length=LONGEST)


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """30 cells of which the model reads a drawn part of the genes."""
    cells = make_cells(200)
    return cells[(cells.X[:, :-1] > 0).sum(axis=1).A1 >= LONGEST][:30].copy()


def drawn_by_embed(cells, processor) -> dict[int, list[int]]:
    prepared = prepare_cells(cells, load_model(make_model(), "AutoModel", processor=processor))
    batch = processor.padded(prepared.tokens(processor, np.arange(cells.n_obs), SEED))
    return dict(zip(hash_names(cells.obs_names).view(np.int64).tolist(), batch["input_ids"].tolist(), strict=True))


def drawn_by_a_corpus(path, processor, **settings) -> dict[int, list[int]]:
    corpus = CellCorpus(path, processor, seed=SEED, **settings)
    batches = list(corpus.batches(7))
    assert all(batch["attention_mask"].sum() == batch["input_ids"].size for batch in batches)
    return {
        cell: tokens
        for batch in batches
        for cell, tokens in zip(batch["cell_ids"].tolist(), batch["input_ids"].tolist(), strict=True)
    }


@pytest.mark.parametrize("kind", ["h5ad", "compressed", "zarr", "shards", "part", "several"])
def test_the_verbs_and_corpora_draw_the_same_for_a_cell(cells, processor, tmp_path, kind):
    expected = drawn_by_embed(cells, processor)
    path = tmp_path / "cells.h5ad"
    if kind == "zarr":
        cells.write_zarr(path := tmp_path / "cells.zarr")
    elif kind == "part":
        cells[[9, 3, 4]].write_h5ad(tmp_path / "another_name.h5ad")
        expected = {cell: expected[cell] for cell in hash_names(cells.obs_names[[9, 3, 4]]).view(np.int64).tolist()}
        path = tmp_path
    elif kind == "several":
        cells[::2].write_h5ad(tmp_path / "b.h5ad")
        cells[1::2].write_h5ad(tmp_path / "a.h5ad")
        path = tmp_path
    else:
        cells.write_h5ad(path, compression="gzip" if kind == "compressed" else None)
    if kind == "shards":
        build_corpus(path, tmp_path / "shards")
        path = tmp_path / "shards"
    assert drawn_by_a_corpus(path, processor) == expected
    assert drawn_by_a_corpus(path, processor, shuffle=False) == expected


def test_cells_of_one_name_share_their_draws_and_not_their_place(cells, processor, tmp_path):
    """Many files call their cells 0, 1, 2, …"""
    names = [f"{number}" for number in range(30)]
    order = {}
    for kind in ("one", "different"):
        (tmp_path / kind).mkdir()
        for file in "ab":
            cells.obs_names = names if kind == "one" else [f"{file}{name}" for name in names]
            cells.obs["row"] = [f"{file}{number}" for number in range(30)]
            cells.write_h5ad(tmp_path / kind / f"{file}.h5ad")
        corpus = CellCorpus(tmp_path / kind, processor, label_column="row", window_size=60, group_size=5)
        batches = list(corpus.batches(5))
        order[kind] = [corpus.label_names[label] for batch in batches for label in batch["labels"]]
        ids = {cell for batch in batches for cell in batch["cell_ids"].tolist()}
        assert len(ids) == (30 if kind == "one" else 60)
    assert order["one"] == order["different"]


def test_names_are_hashed_some_thousand_at_a_time(tmp_path, monkeypatch):
    import h5py

    from sclm_hf.sources import stored_arrays
    from sclm_hf.sources.opening import open_source

    cells, read = make_cells(50), []
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr", chunks=(7, 91))
    monkeypatch.setattr(stored_arrays, "_LEAST_STRINGS", 7)
    monkeypatch.setattr(stored_arrays, "_MOST_STRINGS", 7)
    monkeypatch.setattr(stored_arrays, "_MOST_ENTRIES", 7)
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: read.append(key) or original(self, key))
    for name in ("cells.h5ad", "cells.zarr"):
        source = open_source("cells", tmp_path / name)
        np.testing.assert_array_equal(source.cell_ids(), hash_names(cells.obs_names))
        np.testing.assert_array_equal(source.cell_ids(np.array([3, 8])), hash_names(cells.obs_names[[3, 8]]))
    assert slice(42, 49) in read
    read.clear()
    few = open_source("cells", tmp_path / "cells.h5ad").cell_ids(np.array([3, 8]))
    np.testing.assert_array_equal(few, hash_names(cells.obs_names[[3, 8]]))
    assert slice(3, 9) in read and slice(42, 49) not in read
