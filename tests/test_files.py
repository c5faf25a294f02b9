"""Files: JSON of strangers, whole or not at all, one writer at a time."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sclm_hf.errors import CheckpointError, ConfigurationError, CorpusError, SclmError
from sclm_hf.files import (
    check_apart,
    check_output_file,
    model_replaced,
    new_folder,
    read_json_object,
    sole_writer,
    write_text,
    written_whole,
)


def test_a_json_object_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[1]", "must hold a JSON object"),
        ("{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        ('{"a": ' + "1" * 10_000 + "}", "not valid JSON"),
    ],
    ids=["deep", "list", "cut off", "no text", "huge number"],
)
def test_other_json_is_refused(tmp_path, content, told):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=told):
        read_json_object(path, CorpusError)


def test_large_and_missing_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json_object(path)
    path.write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="at most 4"):
        read_json_object(path, max_bytes=4)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="pipe"):
        read_json_object(tmp_path / "a.json")


def test_what_fails_halfway_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(SclmError, match="No space"), written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_second_writer_is_told_who_holds_the_output(tmp_path):
    output = tmp_path / "out.h5ad"
    code = (
        "import sys; from pathlib import Path; from sclm_hf.files import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): pass"
    )
    with sole_writer(output):
        owner = json.loads((tmp_path / ".out.h5ad.lock").read_text())
        assert owner["pid"] == os.getpid()
        second = subprocess.run([sys.executable, "-c", code, str(output)], capture_output=True, text=True)
    assert f"process {os.getpid()}" in second.stderr
    assert owner["since"] in second.stderr
    assert not list(tmp_path.iterdir())
    with sole_writer(output):
        pass


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    output = tmp_path / "out.h5ad"
    code = (
        "import os, signal, sys; from pathlib import Path; from sclm_hf.files import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(output)])
    assert list(tmp_path.iterdir())
    with sole_writer(output):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ValueError), sole_writer(tmp_path / "out"):
        raise ValueError
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="cannot be written"), sole_writer(tmp_path / "out"):
        pass


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(SclmError, match="No space"), new_folder(tmp_path / "out") as folder:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        folder.mkdir()
        (folder / "a").write_text("a")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["out", "a"]


def test_a_model_is_replaced_whole_or_not_at_all(tmp_path):
    out, unfinished = tmp_path / "out", tmp_path / "out" / ".model.tmp"
    for text in ("first", "second"):
        with model_replaced(out, unfinished) as folder:
            for name in ("config.json", "model.safetensors"):
                (folder / name).write_text(text)
        (out / "log").write_text("stays")
        with pytest.raises(OSError, match="No space"), model_replaced(out, unfinished) as folder:
            (folder / "config.json").write_text("half")
            raise OSError(28, "No space left on device")
        assert {path.name: path.read_text() for path in out.iterdir()} == {
            "config.json": text,
            "model.safetensors": text,
            "log": "stays",
        }


def test_a_model_is_replaced_with_the_folders_within_it(tmp_path):
    for text in ("first", "second"):
        with model_replaced(tmp_path / "out", tmp_path / "unfinished") as folder:
            (folder / "cells").mkdir()
            (folder / "cells" / "config.json").write_text(text)
        assert (tmp_path / "out" / "cells" / "config.json").read_text() == text
        (tmp_path / "out" / "cells" / "log").write_text("stays")
    assert (tmp_path / "out" / "cells" / "log").exists() and not (tmp_path / "unfinished").exists()


def test_whoever_may_read_the_folder_may_read_the_weights(tmp_path):
    def save(folder):
        save_file({"a": np.ones(2)}, folder / "model.safetensors")
        return folder

    with model_replaced(tmp_path / "a", tmp_path / ".a.tmp") as folder:
        save(folder)
    with new_folder(tmp_path / "b") as folder:
        folder.mkdir()
        save(folder)
    for name in ("a", "b"):
        readers = (tmp_path / name).stat().st_mode & 0o444
        assert (tmp_path / name / "model.safetensors").stat().st_mode & 0o444 == readers


def test_shards_of_two_saves_are_never_taken_for_one_model(tmp_path, monkeypatch):
    replace, seen = os.replace, []

    def note(source, target):
        replace(source, target)
        texts = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
        seen.append("model.safetensors.index.json" in texts and len(set(texts.values())) > 1)

    monkeypatch.setattr("os.replace", note)
    for text in ("first", "second"):
        with model_replaced(tmp_path, tmp_path / ".model.tmp") as folder:
            for name in ("model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"):
                (folder / name).write_text(text)
    assert len(seen) == 6 and not any(seen)


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "precious").write_text("precious")
    for path in (tmp_path, tmp_path / "precious"):
        with pytest.raises(ConfigurationError, match="not an empty folder"), new_folder(path):
            pass
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="not an empty folder"), new_folder(tmp_path / "link"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_files_that_could_not_be_written_later_are_refused_now(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    told = {
        "link": "is a link to",
        "pipe": "is a pipe",
        "absent/a": "folder is missing",
        "file/a": "folder is missing",
    }
    for name, message in told.items():
        with pytest.raises(ConfigurationError, match=message):
            check_output_file(tmp_path / name)
    with pytest.raises(ConfigurationError, match="is a folder"):
        check_output_file(tmp_path)
    check_output_file(tmp_path / "file")
    check_output_file(str(tmp_path / "new"))


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".out.tmp").symlink_to(tmp_path / "victim")
    with written_whole(tmp_path / "out") as path:
        path.write_text("new")
    assert (tmp_path / "victim").read_text() == "precious" and (tmp_path / "out").read_text() == "new"


def test_a_text_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_text(tmp_path / "a" / "b.txt", "old\n")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigurationError, match=r"No space left on device. What was there stays: go away"):
        write_text(tmp_path / "a" / "b.txt", "new\n", ConfigurationError, mend="go away")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"old\n" and os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_full_disk_is_told_where_safetensors_meets_it(tmp_path):
    with pytest.raises(SclmError, match="cannot be written: no space"), new_folder(tmp_path / "out"):
        raise SafetensorError("no space")
    with pytest.raises(RuntimeError, match="a bug"), new_folder(tmp_path / "out"):
        raise RuntimeError("a bug")


def test_what_is_written_is_neither_read_nor_written_twice(tmp_path):
    read, link, hard = (tmp_path / name for name in ("read", "link", "hard"))
    read.write_text("cells")
    link.symlink_to(read)
    hard.hardlink_to(read)
    for other in (read, link, hard, tmp_path / "." / "read"):
        with pytest.raises(ConfigurationError, match="named for something else too"):
            check_apart([other], [None, read])
    with pytest.raises(ConfigurationError, match="named for something else too"):
        check_apart([tmp_path / "new", None, tmp_path / "a" / ".." / "new"])
    check_apart([tmp_path / "new", None], [read, link])


def test_two_runs_do_not_make_one_folder(tmp_path):
    with new_folder(tmp_path / "index") as first:
        with pytest.raises(ConfigurationError, match="is being written by process"), new_folder(tmp_path / "index"):
            pass
        first.mkdir()
        write_text(first / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index" / "a.txt").read_text() == "whole"
