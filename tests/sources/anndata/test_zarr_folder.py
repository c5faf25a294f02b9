import json
import os
import pickle
import shutil

import anndata
import numcodecs
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from sclm_hf import CellCorpus
from sclm_hf.errors import CorpusError
from sclm_hf.sources.anndata.zarr_folder import AnnDataZarrSource

from ...corpora.conftest import GENES, make_cells

ROWS = np.array([0, 1, 2, 5, 30, 31, 59])


def write(cells, path, version=3):
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        cells.write_zarr(path)
    finally:
        anndata.settings.zarr_write_format = before
    return path


@pytest.fixture
def cells():
    return make_cells(60)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_read_gives_the_rows_as_stored(cells, tmp_path, storage, version):
    counts = cells.X.toarray()
    cells.X = storage(cells.X)
    source = AnnDataZarrSource(write(cells, tmp_path / "cells.zarr", version))
    assert (source.n_cells, source.n_genes, source.name) == (60, 40, "cells")
    assert list(source.genes()[0]) == GENES
    assert source.obs_names().tolist() == list(cells.obs_names)
    for rows in (ROWS, np.arange(60), np.array([], int)):
        np.testing.assert_array_equal(source.read(rows).toarray(), counts[rows])
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(ROWS).toarray(), counts[ROWS])


@pytest.mark.parametrize("version", [2, 3])
def test_layers_raw_and_columns_of_any_type(cells, tmp_path, version):
    cells.raw = cells.copy()
    cells.layers["counts"] = cells.X * 2
    cells.obs["nullable"] = pd.array([None, *[3] * 59], dtype="Int64")
    cells.obs["flag"] = pd.array([None, *[True] * 59], dtype="boolean")
    cells.obs["fraction"] = [np.nan, *[0.5] * 59]
    path = write(cells[:, 5:].copy(), tmp_path / "cells.zarr", version)
    np.testing.assert_array_equal(AnnDataZarrSource(path).read(ROWS).toarray(), cells.X.toarray()[ROWS, 5:] * 2)
    raw = AnnDataZarrSource(path, layer="raw")
    np.testing.assert_array_equal(raw.read(ROWS).toarray(), cells.X.toarray()[ROWS])
    assert list(raw.genes()[0]) == GENES
    for name in ("cell_type", "donor"):
        column = raw.column(name)
        assert [column.categories[code] for code in column.codes] == cells.obs[name].astype(str).tolist()
    for name, value in (("nullable", "3"), ("flag", "True"), ("fraction", "0.5")):
        column = raw.column(name)
        assert column.codes.tolist() == [-1, *[0] * 59] and column.categories == (value,)
    with pytest.raises(CorpusError, match=r"cells\.zarr` has no obs column `kind`"):
        raw.column("kind")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_same_cells_stream_alike_from_h5ad_and_zarr(folder, tmp_path, processor, num_workers):
    for name in ("one", "two", "three"):
        write(anndata.read_h5ad(folder / f"{name}.h5ad"), tmp_path / f"{name}.zarr")
    sizes = {"block_size": 8, "window_size": 48, "group_size": 12, "label_column": "cell_type"}
    expected = CellCorpus(folder, processor, **sizes).batches(12)
    found = CellCorpus(tmp_path, processor, **sizes).loader(12, num_workers=num_workers)
    for want, have in zip(expected, found, strict=True):
        for name, values in want.items():
            np.testing.assert_array_equal(have[name].numpy(), values)


@pytest.mark.parametrize(("version", "chunk"), [(2, "X/data/0"), (3, "X/indices/c/0")])
def test_missing_chunks_are_no_zeros(cells, tmp_path, version, chunk):
    path = write(cells, tmp_path / "cells.zarr", version)
    source = AnnDataZarrSource(path)
    source.read(ROWS)
    (path / chunk).unlink()
    with pytest.raises(CorpusError, match=r"cells\.zarr` changed"):
        source.read(ROWS)
    with pytest.raises(CorpusError, match=r"cells\.zarr.*1 of the 1 chunks of `/X/\w+` are missing"):
        AnnDataZarrSource(path).read(ROWS)


def test_folders_that_change_vanish_or_are_damaged_are_named(cells, tmp_path):
    path = write(cells, tmp_path / "cells.zarr")
    source = AnnDataZarrSource(path)
    os.utime(path / "X" / "zarr.json", ns=(1, 1))
    with pytest.raises(CorpusError, match=r"cells\.zarr` changed"):
        source.read(ROWS)
    chunk = path / "X" / "data" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(CorpusError, match=r"cells\.zarr` is damaged"):
        AnnDataZarrSource(path).read(ROWS)
    (path / "obs" / "zarr.json").write_text("{")
    with pytest.raises(CorpusError, match=r"cells\.zarr` is damaged"):
        AnnDataZarrSource(path).column("donor")
    shutil.rmtree(path)
    with pytest.raises(CorpusError, match=r"cells\.zarr` cannot be read"):
        source.read(ROWS)


def in_shards(path, location="end", skip=None):
    """Write the counts again, in shards of 64 entries with chunks of 8, of which one may be left out."""
    store = zarr.open_group(path, mode="r+", use_consolidated=False)
    counts, kept = store["X/data"][:], store["X/data"].attrs.asdict()
    del store["X/data"]
    shards = {"shape": (64,), "index_location": location}
    array = store.create_array("X/data", shape=counts.shape, dtype=counts.dtype, chunks=(8,), shards=shards)
    for start in range(0, len(counts), 8):
        if start // 8 != skip:
            array[start : start + 8] = counts[start : start + 8]
    array.attrs.update(kept)
    return -(-len(counts) // 8)


@pytest.mark.parametrize("location", ["start", "end"])
def test_chunks_missing_within_a_shard_are_no_zeros(cells, tmp_path, location):
    path = write(cells, tmp_path / "cells.zarr")
    in_shards(path, location)
    np.testing.assert_array_equal(AnnDataZarrSource(path).read(ROWS).toarray(), cells.X.toarray()[ROWS])
    n_chunks = in_shards(path, location, skip=13)
    with pytest.raises(CorpusError, match=rf"1 of the {n_chunks} chunks of `/X/data` are missing"):
        AnnDataZarrSource(path).read(ROWS)


def recoded(cells, path, **codecs):
    """The cells, with the values of their matrix packed otherwise."""
    store = zarr.open_group(write(cells, path), mode="r+", use_consolidated=False)
    counts, kept = store["X/data"][:], store["X/data"].attrs.asdict()
    del store["X/data"]
    array = store.create_array("X/data", shape=counts.shape, dtype=counts.dtype, chunks=(64,), **codecs)
    array[:] = counts
    array.attrs.update(kept)
    return path


def of_zeros(n_blocks):
    """A frame of Zstandard that does not say that it unpacks to `n_blocks` * 128 KiB (RFC 8878)."""
    blocks = [(2**17 << 3 | 1 << 1 | (number == n_blocks - 1)).to_bytes(3, "little") for number in range(n_blocks)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"\0".join(blocks) + b"\0"


SKIPPED = b"\x50\x2a\x4d\x18\x02\0\0\0ab"
BOMBS = {
    "zstd": ("Zstd", numcodecs.Zstd().encode(bytes(2**21))),
    "zstd of unknown size": ("Zstd", of_zeros(16)),
    "several frames": ("Zstd", SKIPPED + of_zeros(1) + SKIPPED + of_zeros(15)),
    "blosc": ("Blosc", numcodecs.Blosc().encode(bytes(2**21))),
    "lz4": ("LZ4", numcodecs.LZ4().encode(bytes(2**21))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_chunk_that_unpacks_to_far_more_than_it_holds_is_refused(cells, tmp_path, name):
    codec, bomb = BOMBS[name]
    assert len(getattr(numcodecs, codec)().decode(bomb)) == 2**21
    path = recoded(cells, tmp_path / "cells.zarr", compressors=getattr(zarr.codecs.numcodecs, codec)())
    np.testing.assert_array_equal(AnnDataZarrSource(path).read(ROWS).toarray(), cells.X.toarray()[ROWS])
    (path / "X/data/c/0").write_bytes(bomb)
    with pytest.raises(CorpusError, match=r"`/X/data` in `.*c/0` claims to unpack to 2,097,152 bytes"):
        AnnDataZarrSource(path).read(ROWS)


def test_sound_frames_of_unknown_size_are_read(cells, tmp_path):
    path = recoded(cells, tmp_path / "cells.zarr", compressors=zarr.codecs.ZstdCodec())
    chunk = numcodecs.Zstd().decode((path / "X/data/c/0").read_bytes())
    stored_as_it_is = (len(chunk) << 3 | 1).to_bytes(3, "little") + chunk
    (path / "X/data/c/0").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + stored_as_it_is)
    np.testing.assert_array_equal(AnnDataZarrSource(path).read(ROWS).toarray(), cells.X.toarray()[ROWS])


def test_a_frame_within_a_shard_is_looked_at_too(cells, tmp_path):
    in_shards(write(cells, tmp_path / "shards.zarr"))
    bomb = numcodecs.Zstd().encode(bytes(2**21))
    index = np.array([[0, len(bomb)]] * 8, "<u8").tobytes()
    (tmp_path / "shards.zarr/X/data/c/0").write_bytes(bomb + index + bytes(4))
    with pytest.raises(CorpusError, match=r"`/X/data` in `.*c/0` claims to unpack to 2,097,152 bytes"):
        AnnDataZarrSource(tmp_path / "shards.zarr").read(ROWS)


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("compressors", [None, zarr.codecs.ZstdCodec()])
def test_shards_within_shards_or_compressed_as_a_whole_are_refused(cells, tmp_path, compressors):
    inner = zarr.codecs.ShardingCodec(chunk_shape=(8,))
    within = [zarr.codecs.BytesCodec()] if compressors else [inner]
    shards = zarr.codecs.ShardingCodec(chunk_shape=(16,), codecs=within)
    path = recoded(cells, tmp_path / "cells.zarr", serializer=shards, compressors=compressors)
    with pytest.raises(CorpusError, match="`/X/data` has shards that hold shards or are compressed as a whole"):
        AnnDataZarrSource(path).read(ROWS)


def test_chunks_that_are_compressed_twice_are_refused(cells, tmp_path):
    twice = [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]
    path = recoded(cells, tmp_path / "cells.zarr", compressors=twice)
    with pytest.raises(CorpusError, match=r"`/X/data` is compressed more than once \(Zstd, Gzip\)"):
        AnnDataZarrSource(path).read(ROWS)


def test_a_chunk_stored_as_more_than_it_holds_is_refused(cells, tmp_path):
    path = write(cells, tmp_path / "cells.zarr")
    (path / "X/data/c/0").write_bytes(bytes(2**20))
    with pytest.raises(CorpusError, match=r"a chunk of `/X/data` is stored as 1,048,576 bytes and holds [\d,]+: it"):
        AnnDataZarrSource(path).read(ROWS)


@pytest.mark.parametrize("place", ["filters", "compressor"])
@pytest.mark.parametrize("array", ["X", "obs/_index"])
def test_pickled_chunks_are_refused_and_never_opened(cells, tmp_path, place, array):
    """numcodecs before 0.16.6 under zarr before 3.1 runs whatever a chunk holds: setup.cfg asks for later ones."""

    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    cells.X = cells.X.toarray()
    folder = write(cells, tmp_path / "cells.zarr", 2) / array
    codec = {"id": "pickle", "protocol": 4}
    edited = {"filters": None, "compressor": None, place: [codec] if place == "filters" else codec}
    metadata = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps(metadata | edited))
    for chunk in folder.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CorpusError, match="is damaged"):
        source = AnnDataZarrSource(tmp_path / "cells.zarr")
        source.obs_names()
        source.read(ROWS)
    assert not (tmp_path / "ran").exists()
