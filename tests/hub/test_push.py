import shutil

import pytest

from sclm_hf.errors import ConfigurationError, HubError
from sclm_hf.hub.push import push_to_hub

from .hub_folders import contents, shards_folder
from .hub_server import HubServer


def test_all_of_the_folder_arrives_in_one_commit(hub, model):
    info = push_to_hub(model, "me/model", commit_message="First")
    repository = hub.store.repository("me/model")
    assert repository.contents() == contents(model)
    assert repository.history() == ["First", "initial commit"]
    assert info.oid == repository.branches["main"] and info.commit_url == f"{hub.url}/me/model/commit/{info.oid}"


def test_more_files_than_one_request_holds_are_still_one_commit(hub, shards, tmp_path):
    """`upload_folder` of huggingface_hub would make several."""
    folder = shutil.copytree(shards, tmp_path / "many")
    for number in range(300):
        (folder / f"{number}.txt").write_text(str(number))
    push_to_hub(folder, "me/cells", repo_type="dataset")
    assert sum("/preupload/" in request for request in hub.requests) == 2
    repository = hub.store.repository("me/cells", "dataset")
    assert repository.contents() == contents(folder) and len(repository.history()) == 2


def test_pushing_again_sends_nothing_and_makes_no_commit(hub, model):
    first = push_to_hub(model, "me/model")
    hub.requests.clear()
    assert push_to_hub(model, "me/model").oid == first.oid
    assert not any("PUT" in request or "/commit/" in request for request in hub.requests)
    assert len(hub.store.repository("me/model").history()) == 2


def test_old_shards_go_in_the_same_commit_and_other_files_stay(hub, shards, tmp_path):
    old = shards_folder(tmp_path / "old", shards=5)
    (old / "figure.svg").write_text("<svg/>")
    push_to_hub(old, "me/cells", repo_type="dataset")
    push_to_hub(shards, "me/cells", repo_type="dataset")
    repository = hub.store.repository("me/cells", "dataset")
    assert repository.contents() == contents(shards) | {"figure.svg": b"<svg/>"}
    assert len(repository.history()) == 1 + 2


def test_an_adapter_takes_the_place_of_a_model(hub, model, adapter):
    push_to_hub(model, "me/model")
    push_to_hub(model, "me/adapter")
    push_to_hub(adapter, "me/adapter")
    there = hub.store.repository("me/adapter").contents()
    assert {path: there[path] for path in contents(adapter)} == contents(adapter)
    assert not {"model.safetensors", "config.json"} & set(there)


def test_weights_of_other_folders_of_the_repository_stay(hub, model, tmp_path):
    with_subfolder = shutil.copytree(model, tmp_path / "model")
    shutil.copytree(model, with_subfolder / "gene")
    push_to_hub(with_subfolder, "me/model")
    push_to_hub(model, "me/model")
    assert "gene/model.safetensors" in hub.store.repository("me/model").contents()


def test_branches_and_pull_requests_leave_main_alone(hub, model, tmp_path):
    first = push_to_hub(model, "me/model")
    changed = shutil.copytree(model, tmp_path / "changed")
    (changed / "notes.txt").write_text("new")
    push_to_hub(changed, "me/model", revision="v2")
    pull_request = push_to_hub(changed, "me/model", create_pr=True)
    repository = hub.store.repository("me/model")
    assert repository.branches["main"] == first.oid
    assert repository.contents("v2") == contents(changed)
    assert pull_request.pr_revision == "refs/pr/1" and repository.contents("refs/pr/1") == contents(changed)


def test_private_holds_for_a_new_repository_and_is_refused_for_a_public_one(hub, model):
    push_to_hub(model, "me/secret", private=True)
    assert hub.store.repository("me/secret").private
    push_to_hub(model, "me/secret", private=True)
    push_to_hub(model, "me/open")
    hub.requests.clear()
    with pytest.raises(ConfigurationError, match="exists and is public"):
        push_to_hub(model, "me/open", private=True)
    assert not any(request.startswith(("POST", "PUT")) for request in hub.requests)


def test_a_base_that_nobody_can_load_is_refused_before_anything_is_sent(hub, adapter):
    with pytest.raises(ConfigurationError, match=r"`me/model` as its base, which is no repository.*--base-model"):
        push_to_hub(adapter, "me/adapter")
    assert hub.store.repositories == {}


def test_a_folder_that_is_refused_makes_no_request(hub, tmp_path):
    with pytest.raises(ConfigurationError):
        push_to_hub(tmp_path / "nowhere", "me/model")
    assert hub.requests == []


def test_a_commit_in_between_is_not_overwritten(hub, model, tmp_path, monkeypatch):
    push_to_hub(model, "me/model")
    changed = shutil.copytree(model, tmp_path / "changed")
    (changed / "notes.txt").write_text("ours")
    announce = HubServer.announce

    def commit_first(server, request):
        if "/preupload/" in request:
            monkeypatch.setattr(HubServer, "announce", announce)
            theirs = {"key": "file", "value": {"path": "theirs.txt", "content": b"theirs"}}
            header = {"key": "header", "value": {"summary": "Theirs"}}
            server.store.commit(server.store.repository("me/model"), "main", [header, theirs])
        return announce(server, request)

    monkeypatch.setattr(HubServer, "announce", commit_first)
    with pytest.raises(HubError, match="push again"):
        push_to_hub(changed, "me/model")
    repository = hub.store.repository("me/model")
    assert repository.history()[0] == "Theirs" and "notes.txt" not in repository.contents()
    push_to_hub(changed, "me/model")
    assert repository.contents() == contents(changed) | {"theirs.txt": b"theirs"}


def test_a_wrong_token_is_one_clear_error(hub, model):
    with pytest.raises(HubError, match=r"Pushing to `me/model`.*401"):
        push_to_hub(model, "me/model", token="hf_wrong")
    assert hub.store.repositories == {}
