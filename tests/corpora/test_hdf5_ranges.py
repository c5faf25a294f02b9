import h5py
import numpy as np
import pytest

from sclm_hf.corpora.hdf5_ranges import PlainRanges, fill, range_reader

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
        reader = range_reader(file["x"])
        assert isinstance(reader, PlainRanges) == (kind in PLAIN)
        expected = file["x"][:]
        for start, stop in [(0, 1000), (0, 1), (63, 65), (128, 128), (299, 701), (999, 1000)]:
            out = np.empty(stop - start, np.int32)
            fill(out, reader, start)
            np.testing.assert_array_equal(out, expected[start:stop])
            np.testing.assert_array_equal(reader[start:stop], expected[start:stop])


def test_a_file_cut_short_after_opening_is_an_error(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(100_000))
    with h5py.File(path) as file:
        reader = range_reader(file["x"])
        with open(path, "r+b") as cut:
            cut.truncate(50_000)
        with pytest.raises(OSError, match="the file ends before"):
            reader[0:100_000]
