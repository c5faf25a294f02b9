"""Whatever is wrong with a file, it ends in one of our errors, which names the file; nothing is read as zeros."""

import errno
import json
import shutil
import sys
import zlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import CorpusError
from sclm_hf.sources.opening import open_source
from sclm_hf.sources.survey import survey_cells

from ..corpora.conftest import make_cells
from .anndata.test_zarr_folder import write
from .damaged_files import DAMAGES, N_CELLS


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


def survey(path, processor):
    """What `embed` does before it runs a model."""
    source = open_source("cells", path)
    source.check_columns()
    survey_cells(source, processor)


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


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_damage_ends_so_wherever_the_file_is_read(sound, tmp_path, processor, damage):
    path = Path(shutil.copy(sound / "cells.h5ad", tmp_path))
    with h5py.File(path, "r+") as file:
        damage(file)
    for read in (
        lambda: list(CellCorpus(path, processor, label_column="cell_type").batches(16)),
        lambda: build_corpus(path, tmp_path / "shards", obs_columns=["cell_type"]),
        lambda: survey(path, processor),
    ):
        with pytest.raises(CorpusError) as caught:
            read()
        assert str(path) in str(caught.value)
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_sound_files_are_read(sound):
    for name in ("cells.h5ad", "cells2.zarr", "cells3.zarr"):
        np.testing.assert_array_equal(read_everything(sound / name).toarray(), make_cells(N_CELLS).X.toarray())


MISSING = ["a", None, "b", np.nan, "a"]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize(
    "values",
    [
        np.array(MISSING, object),
        np.array([None, "b", "c", "d", "e"], object),
        pd.Categorical(MISSING),
        pd.array(MISSING, dtype="string"),
        pd.array([1, None, 2, None, 3], dtype="Int64"),
        np.array([1.5, np.nan, 2, np.nan, 3]),
    ],
    ids=["text", "different texts", "categories", "nullable text", "nullable numbers", "numbers"],
)
def test_what_is_missing_has_no_value_in_any_encoding(tmp_path, values, suffix):
    cells = make_cells(5)
    cells.obs["kind"] = values
    path, categorical = tmp_path / f"cells.{suffix}", isinstance(values, (np.ndarray, pd.Categorical))
    with anndata.settings.override(allow_write_nullable_strings=True):
        write_cells = cells.write_h5ad if suffix == "h5ad" else cells.write_zarr
        write_cells(path, convert_strings_to_categoricals=categorical)
    column = open_source("cells", path).column("kind")
    np.testing.assert_array_equal(column.codes < 0, pd.isna(values))
    assert not {"nan", "None", "<NA>", ""} & set(column.categories)


def test_a_filter_that_is_not_installed_is_no_damage(sound, tmp_path):
    path = shutil.copy(sound / "cells.h5ad", tmp_path)
    with h5py.File(path, "r+") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        properties.set_filter(32026, h5py.h5z.FLAG_OPTIONAL, ())
        del file["X/data"]
        space, kind = h5py.h5s.create_simple((file["X/indices"].size,)), h5py.h5t.IEEE_F32LE
        h5py.h5d.create(file["X"].id, b"data", kind, space, properties)
    with pytest.raises(CorpusError, match=r"`/X/data` is compressed with the HDF5 filter 32026 .*install hdf5plugin"):
        read_everything(Path(path))


def test_filters_that_hdf5plugin_brings_are_found(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: "hdf5plugin" in sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hdf5plugin.py").touch()
    make_cells(N_CELLS).write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    try:
        assert read_everything(tmp_path / "cells.h5ad").nnz
    finally:
        del sys.modules["hdf5plugin"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_codec_that_is_not_installed_is_no_damage(sound, tmp_path, version):
    path = shutil.copytree(sound / f"cells{version}.zarr", tmp_path / "cells.zarr")
    file = path / "X" / "data" / (".zarray" if version == 2 else "zarr.json")
    content = json.loads(file.read_text())
    if version == 2:
        content["compressor"] = {"id": "unheard_of"}
    else:
        content["codecs"][-1] = {"name": "unheard_of", "configuration": {}}
    file.write_text(json.dumps(content))
    with pytest.raises(CorpusError, match=r"cells\.zarr` .*codec 'unheard_of', which is not installed"):
        read_everything(path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "cannot be read: Permission denied: ask its owner"),
        (errno.EMFILE, "cannot be read: Too many open files: raise the limit"),
        (errno.EAGAIN, "another process is writing it"),
        (errno.EIO, "cannot be read: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_no_damage(sound, monkeypatch, number, message):
    def refuse(*args, **kwargs):
        raise OSError(number, f"[Errno {number}] Unable to synchronously open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(CorpusError, match=rf"cells\.h5ad` .*{message}"):
        open_source("cells", sound / "cells.h5ad")


def test_texts_that_share_their_bytes_are_not_copied_without_end(sound, tmp_path):
    """In HDF5 any number of entries may refer to the same text, which a small file then claims to hold many times."""
    path = Path(shutil.copy(sound / "cells.h5ad", tmp_path))
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        kind = h5py.string_dtype()
        names = file["obs"].create_dataset("_index", (N_CELLS,), kind, chunks=(N_CELLS,))
        names[:] = ["x" * 100_000] + ["y"] * (N_CELLS - 1)
        _, chunk = names.id.read_direct_chunk((0,))
        names.id.write_direct_chunk((0,), chunk[:16] * N_CELLS)
    with pytest.raises(CorpusError, match="holds more text than there are bytes in the file"):
        open_source("cells", path).obs_names()


def test_what_unpacks_to_far_more_than_is_stored_is_refused(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.sources.stored_arrays._MOST_UNPACKED", 2**20)
    path = Path(shutil.copy(sound / "cells.h5ad", tmp_path))
    with h5py.File(path, "r+") as file:
        for name, kind in (("data", "f4"), ("indices", "i4")):
            del file["X"][name]
            packed = file["X"].create_dataset(name, (2**22,), kind, chunks=(2**22,), compression="gzip")
            packed.id.write_direct_chunk((0,), zlib.compress(zlib.compress(bytes(2**24))))
    with pytest.raises(
        CorpusError, match=r"`/X/(indices|data)` claims to hold 16,777,216 bytes, of which \d+ are stored"
    ):
        open_source("cells", path)


def test_a_chunk_stored_as_more_than_it_holds_is_refused(sound, tmp_path):
    path = Path(shutil.copy(sound / "cells.h5ad", tmp_path))
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        packed = file["X"].create_dataset("data", data=values, chunks=values.shape, compression="gzip")
        packed.id.write_direct_chunk((0,), np.random.default_rng(0).bytes(2**20))
    with pytest.raises(CorpusError, match=r"a chunk of `/X/data` is stored as 1,048,576 bytes and holds"):
        open_source("cells", path)
