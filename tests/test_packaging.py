"""What a wheel holds beside modules."""

from pathlib import Path

import pytest

import sclm_hf

setuptools = pytest.importorskip("setuptools")


def test_a_wheel_holds_the_mark_of_types_and_the_files_of_data(monkeypatch, tmp_path):
    monkeypatch.chdir(Path(sclm_hf.__file__).parents[1])
    distribution = setuptools.Distribution({"script_name": "setup.py"})
    distribution.parse_config_files()
    build = distribution.get_command_obj("build_py")
    build.build_lib = str(tmp_path)
    build.ensure_finalized()
    files = {Path(name).relative_to(tmp_path).as_posix() for name in build.get_outputs(include_bytecode=False)}
    assert {"sclm_hf/py.typed", "sclm_hf/__init__.py"} <= files
    assert {f"sclm_hf/templates/{kind}_card.md" for kind in ("adapter", "dataset", "model")} <= files
    assert any(name.startswith("sclm_hf/tokenization/genes/data/") for name in files)
