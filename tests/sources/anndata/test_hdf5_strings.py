"""Strings read straight from HDF5's heaps, beside what h5py reads."""

import h5py
import numpy as np
import pytest

from sclm_hf.sources.anndata.elements import read_index
from sclm_hf.sources.anndata.hdf5_strings import joined_strings


def write(path, strings, **options):
    with h5py.File(
        path, "w", libver=options.pop("libver", None), userblock_size=options.pop("userblock", None)
    ) as file:
        file.create_dataset("names", data=strings, dtype=options.pop("dtype", h5py.string_dtype()), **options)
    return path


def random_names(n, longest, alphabet="abcXYZ019-.é⚕"):
    random = np.random.default_rng(n)
    return ["".join(random.choice(list(alphabet), random.integers(0, longest))) for _ in range(n)]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "strings",
    [
        ["A1BG"],
        ["", "A", ""],
        ["", ""],
        random_names(5_000, 20),
        random_names(50, 6_000),
        [f"gene{number}" for number in range(3_000)] * 2,
    ],
    ids=["one", "empty among others", "empty", "many heaps", "longer than a heap", "twice"],
)
def test_strings_are_those_that_h5py_reads(tmp_path, strings, libver):
    with h5py.File(write(tmp_path / "file.h5", strings, libver=libver)) as file:
        assert joined_strings(file["names"]) == b"\0".join(file["names"][:])


def test_entries_that_jump_between_heaps(tmp_path):
    names = np.array(random_names(4_000, 15), dtype=object)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = file.create_dataset("names", (names.size,), h5py.string_dtype())
        for start in np.random.default_rng(0).permutation(40) * 100:
            dataset[start : start + 100] = names[start : start + 100]
    with h5py.File(tmp_path / "file.h5") as file:
        assert joined_strings(file["names"]).decode().split("\0") == names.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (10,)},
        {"chunks": (10,), "compression": "gzip"},
        {"dtype": "S8"},
        {"dtype": h5py.string_dtype(length=8)},
        {"userblock": 512},
    ],
    ids=str,
)
def test_what_lies_there_in_another_way_is_left_to_h5py(tmp_path, options):
    with h5py.File(write(tmp_path / "file.h5", [b"abc"] * 30, **options)) as file:
        assert joined_strings(file["names"]) is None


def test_numbers_and_strings_larger_than_a_heap_are_left_to_h5py(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["numbers"], file["text"], file["table"] = np.arange(10), ["a" * 2_000_000], [["a", "b"], ["c", "d"]]
    with h5py.File(tmp_path / "file.h5") as file:
        assert joined_strings(file["numbers"]) is None
        assert joined_strings(file["text"]) is None
        assert joined_strings(file["table"]) is None
    assert joined_strings(np.arange(3)) is None


def test_damaged_tables_and_heaps_are_left_to_h5py(tmp_path):
    """A byte is changed at a time: nothing is returned, or what the changed bytes of the strings say."""
    names = ["one", "three", "five"]
    path = write(tmp_path / "file.h5", names)
    sound = path.read_bytes()
    with h5py.File(path) as file:
        table = file["names"].id.get_offset()
    heap, refused = sound.index(b"GCOL"), 0
    for place in [*range(table, table + 48), *range(heap, heap + 4096)]:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        with h5py.File(path) as file:
            found = joined_strings(file["names"])
        refused += found is None
        if found is not None:
            spelt = bytes([sound[place] ^ 0x55])
            assert len(found) == len("one three five")
            assert found == b"one\0three\0five" or spelt in found
    assert refused > 48


def test_a_file_that_ends_too_soon(tmp_path):
    path = write(tmp_path / "file.h5", random_names(500, 30))
    with h5py.File(path) as file:
        path.write_bytes(path.read_bytes()[:6_000])
        assert joined_strings(file["names"]) is None


def test_an_index_of_many_names_is_read_as_h5py_would(tmp_path):
    names = random_names(3_000, 12)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("var/_index", data=names, dtype=h5py.string_dtype())
        file["var"].attrs["_index"] = "_index"
    with h5py.File(tmp_path / "file.h5") as file:
        assert read_index(file["var"]).tolist() == names
