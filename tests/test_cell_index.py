import json
import os

import numpy as np
import pytest
from safetensors import SafetensorError

from sclm_hf import cell_index, cell_lists
from sclm_hf.cell_index import CellIndex, directions, read_cells, read_facts
from sclm_hf.cell_lists import read_lists
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmWarning


@pytest.fixture
def index():
    embeddings = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    names = np.array([f"cell {row}" for row in range(50)], object)
    return CellIndex(directions(embeddings), np.array(["a", "b"] * 25, object), names)


def test_comparing_in_parts_finds_the_same(index, monkeypatch):
    queries = np.random.default_rng(1).normal(size=(9, 6))
    rows, cosines = index.nearest(queries, 7)
    monkeypatch.setattr(cell_index, "_CELLS", 4)
    monkeypatch.setattr(cell_index, "_QUERIES", 2)
    in_parts = index.nearest(queries, 7)
    np.testing.assert_array_equal(in_parts[0], rows)
    np.testing.assert_allclose(in_parts[1], cosines, atol=1e-6)


def test_more_neighbours_than_cells_are_filled_up(index):
    index.groups = np.array(["x"] * 48 + ["y"] * 2, object)
    rows, cosines = index.nearest(index.embeddings[:2], 5, groups=["x", "none"])
    assert set(rows[0, :2]) == {48, 49} and np.isinf(cosines[0, 2:]).all() and np.isfinite(cosines[1]).all()


def test_what_is_written_is_read_again(index, tmp_path):
    pytest.importorskip("pyarrow")
    index.write(tmp_path, {"format": "f 1", "model": "m"}, more=range(50))
    embeddings, columns = read_cells(tmp_path)
    np.testing.assert_array_equal(embeddings, index.embeddings)
    assert columns["label"].tolist() == index.labels.tolist() and columns["more"].tolist() == list(range(50))
    assert read_facts(tmp_path, "f 1")["model"] == "m"


def test_another_format_and_damaged_files_are_refused(index, tmp_path):
    pytest.importorskip("pyarrow")
    index.write(tmp_path, {"format": "f 1"})
    with pytest.raises(CheckpointError, match="no index of the format 'f 2'"):
        read_facts(tmp_path, "f 2")
    (tmp_path / "cells.parquet").write_bytes(b"no table")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_cells(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps([]))
    with pytest.raises(CheckpointError, match="JSON object"):
        read_facts(tmp_path, "f 1")


def test_queries_of_another_size_are_refused(index):
    with pytest.raises(ConfigurationError, match="6 numbers"):
        index.nearest(np.ones((1, 5)), 3)


@pytest.mark.parametrize("backend", ["exact", "faiss"])
@pytest.mark.parametrize("n_at_once", [3, 17, 2**15])
def test_of_equally_near_cells_the_lower_rows_are_kept(monkeypatch, backend, n_at_once):
    if backend == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(cell_index, "_CELLS", n_at_once)
    different = directions(np.random.default_rng(0).normal(size=(3, 33)).astype(np.float32))
    embeddings, names = different[np.arange(301) % 3], np.arange(301).astype(str)
    rows, cosines = CellIndex(embeddings, names, names, backend=backend).nearest(different, 7)
    np.testing.assert_array_equal(rows, np.arange(3)[:, None] + 3 * np.arange(7))
    assert (cosines == cosines[:, :1]).all()


@pytest.mark.parametrize("backend", ["exact", "faiss"])
@pytest.mark.parametrize("noise", [1e-4, 0.1, 1])
def test_cells_are_ruled_out_by_few_axes_without_changing_what_is_found(monkeypatch, backend, noise):
    if backend == "faiss":
        pytest.importorskip("faiss")
    for name, value in {"_SAMPLE": 100, "_CELLS": 64, "_MORE": 3}.items():
        monkeypatch.setattr(cell_index, name, value)
    generator = np.random.default_rng(0)
    kinds = np.repeat(generator.normal(size=(5, 3)), 80, axis=0) + 0.1 * generator.normal(size=(400, 3))
    cells = kinds @ generator.normal(size=(3, 40)) + noise * generator.normal(size=(400, 40)) + 1
    names, groups = np.arange(400).astype(str), (np.arange(400) % 3).astype(str).astype(object)
    index = CellIndex(directions(cells.astype(np.float32)), names, names, groups, backend)
    assert (index._fronts.axes is None) == (noise == 1)
    queries = index.embeddings[::7]
    for asked in (None, groups[::7]):
        rows, cosines = index.nearest(queries, 9, asked)
        expected = (queries.astype(np.float64) @ index.embeddings.T).astype(np.float32)
        expected[np.equal.outer(asked, groups) if asked is not None else np.zeros(expected.shape, bool)] = -np.inf
        order = np.argsort(-expected, axis=1, kind="stable")[:, :9]
        np.testing.assert_allclose(cosines, np.take_along_axis(expected, order, axis=1), atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), cosines, atol=1e-6)


def test_lists_hold_most_of_the_nearest_cells_and_those_of_other_groups_alone(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(cell_index, "_LISTED", 100)
    monkeypatch.setattr(cell_lists, "_PROBED", 5)
    generator = np.random.default_rng(0)
    kinds = np.repeat(generator.normal(size=(20, 8)), 50, axis=0)
    cells = directions((kinds + 0.3 * generator.normal(size=kinds.shape)).astype(np.float32))
    names, groups = np.arange(1000).astype(str), (np.arange(1000) % 3).astype(str).astype(object)
    exact, lists = (CellIndex(cells, names, names, groups, backend) for backend in ("exact", "approximate"))
    for asked in (None, groups[::7]):
        expected, found = (one.nearest(cells[::7], 9, asked) for one in (exact, lists))
        same = [
            np.isin(one, other).mean() for one, other in zip(*(rows for rows, _ in (found, expected)), strict=True)
        ]
        assert np.mean(same) > 0.9
        assert asked is None or (groups[found[0]] != asked[:, None]).all()
        np.testing.assert_allclose(found[1][found[0] == expected[0]], expected[1][found[0] == expected[0]], atol=1e-6)
    # more than the lists hold
    rows, cosines = lists.nearest(cells[:2], 900)
    np.testing.assert_array_equal(rows, exact.nearest(cells[:2], 900)[0])
    assert np.isfinite(cosines).all()


def _many_cells(monkeypatch, folder=None, **how):
    monkeypatch.setattr(cell_index, "_LISTED", 100)
    cells = directions(np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32))
    names = np.arange(1000).astype(str).astype(object)
    return CellIndex(cells, names, names, None, "approximate", folder=folder, **how)


@pytest.mark.parametrize("way", ["written with the index", "kept at the first query"])
def test_lists_are_made_once(monkeypatch, tmp_path, way):
    pytest.importorskip("faiss")
    pytest.importorskip("pyarrow")
    made = _many_cells(monkeypatch)
    expected = made.nearest(made.embeddings[::9], 5)
    if way == "written with the index":
        made.write(tmp_path, {})
    else:
        _many_cells(monkeypatch, tmp_path).nearest(made.embeddings[:1], 5)
        assert not list(tmp_path.iterdir())
        _many_cells(monkeypatch, tmp_path, keeps=True).nearest(made.embeddings[:1], 5)
        assert [path.name for path in tmp_path.iterdir()] == ["lists.safetensors"]
    monkeypatch.setattr(cell_lists.CellLists, "of_cells", None)
    found = _many_cells(monkeypatch, tmp_path).nearest(made.embeddings[::9], 5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_lists_are_written_where_none_are_asked_for(index, tmp_path):
    pytest.importorskip("pyarrow")
    index.write(tmp_path, {})
    assert not (tmp_path / "lists.safetensors").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_search_goes_on_where_lists_cannot_be_kept(monkeypatch, tmp_path, error):
    pytest.importorskip("faiss")
    index = _many_cells(monkeypatch, tmp_path, keeps=True)

    def fail(*given):
        raise error

    monkeypatch.setattr(cell_lists.CellLists, "write", fail)
    with pytest.warns(SclmWarning, match="No space left.*are made anew by each run"):
        rows, _ = index.nearest(index.embeddings[:3], 1)
    assert rows.ravel().tolist() == [0, 1, 2]
    assert not list(tmp_path.iterdir())


def test_lists_of_other_cells_and_damaged_ones_are_refused(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    index = _many_cells(monkeypatch, tmp_path)
    centres, list_of = lists = cell_lists.CellLists.of_cells(index.embeddings)
    path = tmp_path / "lists.safetensors"

    def refused(why, lists=lists, cells=index.embeddings):
        lists.write(path, cells)
        with pytest.raises(CheckpointError, match=rf"{why}.*: remove `.*lists.safetensors`, and it is made anew"):
            _many_cells(monkeypatch, tmp_path).nearest(index.embeddings[:1], 5)

    refused("keeps lists of other cells", cells=index.embeddings[::-1])
    refused("do not fit", cell_lists.CellLists(centres, list_of + 1))
    refused("do not fit", cell_lists.CellLists(np.ascontiguousarray(centres[:, 1:]), list_of))
    refused("do not fit", cell_lists.CellLists(centres * np.nan, list_of))
    lists.write(path, index.embeddings)
    content = bytearray(path.read_bytes())
    # a bit of the last number, which stays a number
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"are damaged: remove `.*lists.safetensors`"):
        read_lists(tmp_path, index.embeddings)
    path.write_bytes(b"no lists")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_lists(tmp_path, index.embeddings)


def _fewer(index, folder):
    cell_index.write_table(folder / "cells.parquet", cell=["a"] * 51, label=["b"] * 51)


def _no_text(index, folder):
    cell_index.write_table(folder / "cells.parquet", cell=index.cells, label=[None] * 50)


def _nan(index, folder):
    index.embeddings[3] = np.nan
    index.write(folder, {"format": "f 1"})


def _not_normal(index, folder):
    index.embeddings *= 2
    index.write(folder, {"format": "f 1"})


def _pipe(index, folder):
    os.mkfifo(folder / "pipe")
    for name in ("embeddings.safetensors", "cells.parquet"):
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "pipe")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_fewer, "one finite embedding"),
        (_no_text, "'label' of `cells.parquet` must hold text"),
        (_nan, "one finite embedding"),
        (_not_normal, "of length 1"),
        (_pipe, "is a pipe"),
    ],
)
def test_files_that_do_not_fit_one_another_are_refused(index, tmp_path, damage, told):
    pytest.importorskip("pyarrow")
    index.write(tmp_path, {"format": "f 1"})
    damage(index, tmp_path)
    with pytest.raises(CheckpointError, match=told):
        read_cells(tmp_path)
