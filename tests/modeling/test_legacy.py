"""Pickles are read as data: what a file asks to be run is refused, and nothing runs."""

import os
import pickle

import numpy as np
import pytest

from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.common.legacy import read_pickle


class Runs:
    """Pickled as a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def write(folder, content, protocol=pickle.HIGHEST_PROTOCOL):
    path = folder / "dictionary.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_dictionaries_with_numpy_numbers(tmp_path, protocol):
    tokens = {"<pad>": 0, "ENSG00000000003": np.int16(7), "ENSG00000000005": np.int64(-2)}
    other = {"medians": [np.float64(0.0947), np.float32(2.5), 1.5], "nested": ({"a": None}, True, np.bool_(True))}
    loaded = read_pickle(write(tmp_path, [tokens, other], protocol))
    assert loaded == [tokens, other]
    assert {type(value) for value in loaded[0].values()} == {int}
    assert {type(value) for value in loaded[1]["medians"]} == {float}


def test_numpy_numbers_as_older_numpy_wrote_them(tmp_path):
    content = pickle.dumps(np.int16(258), protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_pickle(write(tmp_path, content)) == 258


def test_numpy_numbers_of_the_other_byte_order(tmp_path):
    content = pickle.dumps(np.int16(258), protocol=3)
    assert content.count(b"X\x01\x00\x00\x00<") == 1
    swapped = content.replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>").replace(b"\x02\x01", b"\x01\x02")
    assert read_pickle(write(tmp_path, swapped)) == 258


@pytest.mark.parametrize(
    "harmful",
    [
        Runs(os.system, "touch ran"),
        Runs(os.mkdir, "ran"),
        Runs(eval, "open('ran', 'w')"),
        {"ENSG1": Runs(os.mkdir, "ran")},
        Runs(pickle.loads, pickle.dumps(Runs(os.mkdir, "ran"))),
    ],
)
def test_what_would_run_is_refused_and_does_not_run(tmp_path, monkeypatch, harmful):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, harmful)
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_pickle(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["dictionary.pkl"]
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the file is harmful to an ordinary reader"


@pytest.mark.parametrize(
    "other", [np.arange(3), np.dtype("int16"), np.array(["a"])[0], 1 + 2j, b"bytes", bytearray(b"b"), pickle.loads]
)
def test_other_things_are_refused(tmp_path, other):
    with pytest.raises(CheckpointError, match="refused"):
        read_pickle(write(tmp_path, {"ENSG1": other}))


def test_readers_cannot_be_tampered_with(tmp_path):
    # `numpy.dtype` with its attribute `__defaults__` set, then thrown away for a 0
    tampered = b"\x80\x02cnumpy\ndtype\nN}U\x0c__defaults__K\x01\x85s\x86b0K\x00."
    assert read_pickle(write(tmp_path, tampered)) == 0
    assert read_pickle(write(tmp_path, np.int16(3))) == 3


def test_data_that_hold_themselves_are_read(tmp_path):
    circle = []
    circle.append(circle)
    loaded = read_pickle(write(tmp_path, circle))
    assert loaded[0] is loaded


@pytest.mark.parametrize("damaged", [b"", b"\x80\x04", b"not a pickle", pickle.dumps({"a": 1})[:-4]])
def test_damaged_files(tmp_path, damaged):
    with pytest.raises(CheckpointError, match=r"dictionary\.pkl"):
        read_pickle(write(tmp_path, damaged))


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        read_pickle(tmp_path / "absent.pkl")
