import json
import shutil

import pytest

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.hub.base_model import name_base
from sclm_hf.opening.files import ADAPTER_CONFIG
from sclm_hf.opening.names import is_repo_id


def test_paths_are_told_from_repositories():
    assert all(map(is_repo_id, ("me/base", "gpt2", "a-b/c_d.e")))
    assert not any(map(is_repo_id, ("/tmp/base", "./base", "../base", "~/base", "a/b/c", "me/ba se", "")))


def test_an_adapter_gets_the_name_of_its_base_and_nothing_else_changes(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    path = folder / ADAPTER_CONFIG
    before = json.loads(path.read_text()) | {"base_model_name_or_path": "/old/place", "revision": "abc"}
    path.write_text(json.dumps(before))
    name_base(folder, "me/new-base")
    after = json.loads(path.read_text())
    assert after == before | {"base_model_name_or_path": "me/new-base", "revision": None}


def test_a_pinned_revision_stays_with_the_base_it_belongs_to(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps({"base_model_name_or_path": "me/base", "revision": "abc"}))
    name_base(folder, "me/base")
    assert json.loads(path.read_text())["revision"] == "abc"


def test_paths_and_broken_adapters_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="got `/tmp/base`"):
        name_base(tmp_path, "/tmp/base")
    name_base(tmp_path, "me/base")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ADAPTER_CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        name_base(tmp_path, "me/base")
