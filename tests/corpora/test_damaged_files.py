"""Whatever is wrong with a file, it ends in one of our errors, which names the file; nothing is read as zeros."""

import shutil

import h5py
import numpy as np
import pytest
import zarr

from sclm_hf.corpora.sources import open_source
from sclm_hf.errors import CorpusError

from .conftest import make_cells
from .damaged_files import DAMAGES, N_CELLS
from .test_anndata_zarr import write


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The same cells as .h5ad and as zarr of both formats."""
    folder = tmp_path_factory.mktemp("sound")
    make_cells(N_CELLS).write_h5ad(folder / "cells.h5ad")
    for version in (2, 3):
        write(make_cells(N_CELLS), folder / f"cells{version}.zarr", version)
    return folder


def read_everything(path):
    source = open_source("cells", path)
    source.genes(), source.obs_names()
    for name in source.column_names():
        source.column(name)
    return source.read(np.arange(source.n_cells))


@pytest.mark.parametrize("name", ["cells.h5ad", "cells2.zarr", "cells3.zarr"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_damage_ends_in_an_error_that_names_the_file(sound, tmp_path, damage, name):
    path = tmp_path / name
    if path.suffix == ".h5ad":
        shutil.copy(sound / name, path)
        with h5py.File(path, "r+") as file:
            damage(file)
    else:
        shutil.copytree(sound / name, path)
        damage(zarr.open_group(path, mode="r+", use_consolidated=False))
    with pytest.raises(CorpusError) as caught:
        read_everything(path)
    assert str(path) in str(caught.value)


def test_sound_files_are_read(sound):
    for name in ("cells.h5ad", "cells2.zarr", "cells3.zarr"):
        np.testing.assert_array_equal(read_everything(sound / name).toarray(), make_cells(N_CELLS).X.toarray())
