import json

import numpy as np
import pytest

from sclm_hf import cell_index
from sclm_hf.cell_index import CellIndex, directions, read_cells, read_facts
from sclm_hf.errors import CheckpointError, ConfigurationError


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
