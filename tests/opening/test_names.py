import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from sclm_hf import FAMILIES
from sclm_hf.errors import CheckpointError, HubError
from sclm_hf.opening.names import is_repo_id, resolve_name


@pytest.fixture
def asked(monkeypatch):
    """What the Hub is asked for; it cannot be reached."""
    asked = []

    def no_connection(self, name, **settings):
        asked.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.resolve_revision", no_connection)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", no_connection)
    return asked


def test_paths_are_told_from_repositories():
    assert all(map(is_repo_id, ("me/base", "gpt2", "a-b/c_d.e")))
    assert not any(map(is_repo_id, ("/tmp/base", "./base", "../base", "~/base", "a/b/c", "me/ba se", "")))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_no_checkpoint_and_nobody_is_asked(asked, family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"`{family}` is a family, not a checkpoint.*sclm-hf convert {family}"):
        resolve_name(family)
    (tmp_path / family).mkdir()
    assert resolve_name(family) is None and asked == []


@pytest.mark.parametrize("name", ["./absent", "/absent", "a/b/c", "~/absent", "..", "two words", ""])
def test_what_can_be_no_repository_is_never_asked_for(asked, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    if name != "..":
        with pytest.raises(CheckpointError, match="is not a checkpoint folder or repository"):
            resolve_name(name)
    assert asked == []


def test_a_file_is_no_checkpoint(asked, tmp_path):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(CheckpointError, match=r"weights.bin.*it is no folder"):
        resolve_name(str(tmp_path / "weights.bin"))
    assert asked == []


def test_without_a_connection_the_hub_is_asked_once_more_and_no_longer(asked):
    with pytest.raises(HubError, match=r"`me/model` is no folder here.*Name or service not known.*check the name"):
        resolve_name("me/model")
    assert asked == ["me/model"] * 2


def test_an_unknown_repository_is_named(asked, monkeypatch):
    class Answer:
        headers, request = {}, None

    def unknown(self, name, **settings):
        raise RepositoryNotFoundError("404", response=Answer())

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unknown)
    with pytest.raises(CheckpointError, match="no such repository on the Hub"):
        resolve_name("me/model")
