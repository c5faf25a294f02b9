import h5py
import numpy as np
import pytest

from sclm_hf.sources.anndata.hdf5_ranges import RangeReader

VALUES = np.arange(1000, dtype=np.int32)
PLAIN = {"contiguous": {}, "chunked": {"chunks": (64,)}, "growing": {"chunks": (300,), "maxshape": (None,)}}
OTHER = {"compressed": {"chunks": (64,), "compression": "gzip"}, "shuffled": {"chunks": (64,), "shuffle": True}}


@pytest.mark.parametrize("kind", [*PLAIN, *OTHER, "big-endian", "unwritten chunks"])
def test_any_range_of_any_storage_is_read(tmp_path, kind):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        if kind == "unwritten chunks":
            file.create_dataset("x", (1000,), np.int32, chunks=(64,))[500:] = VALUES[500:]
        else:
            data = VALUES.astype(">i4") if kind == "big-endian" else VALUES
            file.create_dataset("x", data=data, **(PLAIN | OTHER).get(kind, {}))
            file.create_dataset("y", data=VALUES, **(PLAIN | OTHER).get(kind, {}))
    with h5py.File(tmp_path / "file.h5") as file:
        reader, expected = RangeReader(file["x"]), file["x"][:]
        for start, stop in 4 * [(0, 1000), (0, 1), (63, 65), (128, 128), (299, 701), (999, 1000)]:
            out = np.empty(stop - start, np.int32)
            reader.read_into(out, start)
            np.testing.assert_array_equal(out, expected[start:stop])
        assert (reader._plain is not None) == (kind in PLAIN)
        np.testing.assert_array_equal(reader.all(), expected)


def test_the_switch_reads_through_h5py(tmp_path, monkeypatch):
    monkeypatch.setenv("SCLM_PLAIN_IO", "1")
    with h5py.File(tmp_path / "file.h5", "w") as file:
        reader = RangeReader(file.create_dataset("x", data=VALUES))
        for _ in range(20):
            reader.read_into(out := np.empty(5, np.int32), 7)
        assert out.tolist() == [7, 8, 9, 10, 11] and reader.stored is None


def test_an_array_is_read_too():
    out = np.empty(5, np.int32)
    for _ in range(20):
        RangeReader(VALUES).read_into(out, 7)
    assert out.tolist() == [7, 8, 9, 10, 11]


def test_a_file_cut_short_after_opening_is_an_error(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(100_000))
    with h5py.File(path) as file:
        reader, out = RangeReader(file["x"]), np.empty(100_000, np.int64)
        for _ in range(20):
            reader.read_into(out[:5], 0)
        with open(path, "r+b") as cut:
            cut.truncate(50_000)
        with pytest.raises(OSError, match="the file ends before"):
            reader.read_into(out, 0)
