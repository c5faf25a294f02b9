"""Arrays of `obsm` of every kind of source."""

import h5py
import numpy as np
import pandas as pd
import pytest

from sclm_hf.errors import CorpusError
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.sources.opening import open_source

from ..tasks.tiny import make_cells


@pytest.fixture
def cells():
    cells = make_cells()
    cells.obsm["spatial"] = np.random.default_rng(0).random((23, 2))
    cells.obsm["X_whole"] = np.arange(69).reshape(23, 3)
    cells.obsm["frame"] = pd.DataFrame({"x": np.arange(23.0)}, index=cells.obs_names)
    return cells


def test_arrays_are_the_same_in_memory_and_in_files(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    files = [open_source("cells", tmp_path / name) for name in ("cells.h5ad", "cells.zarr")]
    for source in (InMemorySource(cells), *files):
        assert source.obsm_names() == ["X_whole", "frame", "spatial"]
        for name in ("spatial", "X_whole"):
            np.testing.assert_array_equal(source.obsm(name), cells.obsm[name])
    for source in files:
        with pytest.raises(CorpusError, match="`obsm/frame` is no array of numbers with one row for each of the 23"):
            source.obsm("frame")


def test_a_file_without_obsm_has_none(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "a") as file:
        del file["obsm"]
    assert open_source("cells", tmp_path / "cells.h5ad").obsm_names() == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda arrays: arrays.create_dataset("spatial", (23, 2**30), "f4", chunks=(23, 2**26)), "are missing"),
        (lambda arrays: arrays.create_dataset("spatial", data=np.ones((22, 2))), "one row for each of the 23 cells"),
        (lambda arrays: arrays.create_dataset("spatial", data=[[b"a", b"b"]] * 23), "no array of numbers"),
        (lambda arrays: arrays.create_dataset("spatial", data=3.0), "no array of numbers"),
    ],
)
def test_damaged_arrays_are_named(cells, tmp_path, damage, told):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "a") as file:
        del file["obsm/spatial"]
        damage(file["obsm"])
    with pytest.raises(CorpusError, match=told):
        open_source("cells", tmp_path / "cells.h5ad").obsm("spatial")
