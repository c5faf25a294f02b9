import os
from pathlib import Path

import pytest

from sclm_hf.errors import ConfigurationError, CorpusError, SclmError
from sclm_hf.tasks.files.h5ad import check_output, read_h5ad, write_h5ad

from ..tiny import make_cells


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(CorpusError, match="There is no file"):
        read_h5ad(tmp_path / "absent.h5ad")
    (tmp_path / "empty.h5ad").touch()
    (tmp_path / "text.h5ad").write_text("not HDF5")
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "cut.h5ad").write_bytes((tmp_path / "cells.h5ad").read_bytes()[:3000])
    for name, message in (("empty", r"is empty \(0 bytes\)"), ("text", "no HDF5 file"), ("cut", "truncated")):
        with pytest.raises(CorpusError, match=rf"{name}\.h5ad` .*{message}"):
            read_h5ad(tmp_path / f"{name}.h5ad")


def test_existing_files_are_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "out.h5ad").touch()
    with pytest.raises(ConfigurationError, match="--overwrite"):
        check_output(tmp_path / "out.h5ad", source="in.h5ad", overwrite=False)
    check_output(tmp_path / "out.h5ad", source="in.h5ad", overwrite=True)
    with pytest.raises(ConfigurationError, match="folder is missing"):
        check_output(tmp_path / "absent" / "out.h5ad", source="in.h5ad", overwrite=False)
    with pytest.raises(ConfigurationError, match="is a folder"):
        check_output(tmp_path, source="in.h5ad", overwrite=True)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_h5ad(make_cells(3), tmp_path / "out.h5ad")

    def no_space(self, content):
        with open(self, "wb") as file:
            file.write(content[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(SclmError, match=r"No space left.*make room"):
        write_h5ad(make_cells(5), tmp_path / "out.h5ad")
    assert os.listdir(tmp_path) == ["out.h5ad"]
    assert read_h5ad(tmp_path / "out.h5ad").n_obs == 3
