"""The line is cut at every single request of a push; the repository is at the old or the new state each time."""

from itertools import count

import pytest

from sclm_hf.errors import HubError
from sclm_hf.hub.push import push_to_hub

from .hub_folders import contents, model_folder, shards_folder

WHEN = ("before", "half", "after")


@pytest.fixture(scope="module")
def states(model, shards, tmp_path_factory):
    """Repository type -> folder of its old and folder of its new state; no file with weights or cells is in both."""
    folder = tmp_path_factory.mktemp("states")
    return {
        "model": (model, model_folder(folder / "model", max_shard_size="50KB")),
        "dataset": (shards_folder(folder / "shards", shards=4, first=100), shards),
    }


def sweep(hub, new, repo_type, when, before: list) -> int:
    """Cut a push of `new` at request 0, 1, … until there is none left; returns how many there were."""
    expected = contents(new)
    for number in count():
        repo_id = f"me/cut-{number}"
        for folder in before:
            push_to_hub(folder, repo_id, repo_type=repo_type)
        old = contents(before[-1]) if before else {}
        hub.store.large_files.clear()  # or only the first repository would have to be sent them
        with hub.cut(number, when):
            is_cut = push_fails(new, repo_id, repo_type=repo_type)
        repository = hub.store.repository(repo_id, repo_type)
        state = repository.contents() if repository else {}
        assert state in (old, expected), f"cut {when} request {number}: neither the old nor the new state"
        assert is_cut or state == expected

        push_to_hub(new, repo_id, repo_type=repo_type)
        repository = hub.store.repository(repo_id, repo_type)
        assert repository.contents() == expected
        assert len(repository.history()) == 1 + len(before) + 1, "a push is one commit, also when repeated"
        if not is_cut:
            return number


def push_fails(folder, repo_id, **settings) -> bool:
    try:
        push_to_hub(folder, repo_id, **settings)
    except HubError as error:
        assert "either what it held before or all of the folder" in str(error)
        return True
    return False


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_first_push(hub, states, repo_type, when):
    _, new = states[repo_type]
    assert sweep(hub, new, repo_type, when, before=[]) >= 9


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_push_over_an_old_state(hub, states, repo_type, when):
    old, new = states[repo_type]
    assert sweep(hub, new, repo_type, when, before=[old]) >= 8


def test_what_has_arrived_is_not_sent_again(hub, states):
    _, new = states["dataset"]
    with hub.cut(10**6, "before"):
        push_to_hub(new, "me/whole", repo_type="dataset")
        commit = next(number for number, request in enumerate(hub.requests) if "/commit/" in request)
    hub.store.large_files.clear()
    with hub.cut(commit, "before"):
        assert push_fails(new, "me/again", repo_type="dataset")
        assert sum(request.startswith("PUT") for request in hub.requests) == 3
    hub.requests.clear()
    push_to_hub(new, "me/again", repo_type="dataset")
    assert not any(request.startswith("PUT") for request in hub.requests)


def test_a_push_to_a_branch_never_moves_main(hub, states):
    old, new = states["model"]
    main = push_to_hub(old, "me/model").oid
    repository = hub.store.repository("me/model")
    for number in count():
        branch = f"branch-{number}"
        with hub.cut(number, "after"):
            is_cut = push_fails(new, "me/model", revision=branch)
        if branch in repository.branches:
            assert repository.contents(branch) in (contents(old), contents(new))
        push_to_hub(new, "me/model", revision=branch)
        assert repository.contents(branch) == contents(new) and repository.branches["main"] == main
        if not is_cut:
            break
    assert number >= 7
