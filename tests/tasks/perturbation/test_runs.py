"""Which perturbed cells are run together."""

import weakref

import numpy as np
import pytest
import torch

from sclm_hf import perturb
from sclm_hf.logging import progress_bar
from sclm_hf.tasks.perturb import States
from sclm_hf.tasks.perturbation import perturbing, sharing
from sclm_hf.tasks.perturbation.runs import PerturbationRunner, _first_of_one_length
from sclm_hf.tasks.running import batches

from ..tiny import make_cells, make_model, make_processor


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([9, 8, 8, 8], 1),
        ([8, 8, 8, 7], 3),
        ([8, 8], 2),
        ([9, 8, 7, 6, 5], 5),
        ([5], 1),
        ([9, 9, 8, 8, 8, 8, 5], 2),
    ],
)
def test_cells_of_one_length_are_run_without_others_where_they_are_half(lengths, expected):
    assert _first_of_one_length(np.array(lengths)) == expected


@pytest.mark.parametrize("pooling", ["cls", "avg-pool"])
def test_deletions_that_share_a_layer_give_what_each_gives_alone(pooling, monkeypatch):
    cells, processor = make_cells(), make_processor()
    model = make_model(pooling=pooling)
    states = States("kind", "a", "b")
    cells.obs["kind"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    settings = {"similarity": "cell", "states": states}
    calls = []
    embed = type(model).embed_without_one
    monkeypatch.setattr(type(model), "embed_without_one", lambda *given: calls.append(1) or embed(*given))
    shared = perturb(cells, model, processor, batch_size=24, **settings)
    assert calls
    monkeypatch.delattr(type(model), "embed_without_one")
    alone = perturb(cells, model, processor, **settings)
    assert shared.obs_names.tolist() == alone.obs_names.tolist()
    assert shared.var_names.tolist() == alone.var_names.tolist()
    np.testing.assert_allclose(shared.X, alone.X, atol=1e-5)
    for column in shared.var.columns[shared.var.columns.str.contains("shift")]:
        np.testing.assert_allclose(shared.var[column], alone.var[column], atol=1e-5)


def test_deletions_go_on_one_by_one_where_memory_ran_out(monkeypatch):
    cells, processor, model = make_cells(), make_processor(), make_model()
    expected = perturb(cells, model, processor, similarity="cell")

    held = []

    def fail(*given):
        filled = torch.ones(1)
        held.append(weakref.ref(filled))
        raise torch.OutOfMemoryError("out of memory")

    def check_freed(*given):
        assert held and held[-1]() is None
        return encode_each(*given)

    encode_each = PerturbationRunner._encode_each
    monkeypatch.setattr(PerturbationRunner, "_encode_each", check_freed)

    monkeypatch.setattr(type(model), "embed_without_one", fail)
    np.testing.assert_allclose(perturb(cells, model, processor, similarity="cell").X, expected.X, atol=1e-5)


def test_one_bar_counts_the_cells_of_states_and_the_perturbed_ones(monkeypatch):
    bars = []

    def bar(**settings):
        bars.append(progress_bar(**settings))
        return bars[-1]

    for module in (perturbing, batches):
        monkeypatch.setattr(module, "progress_bar", bar)
    cells = make_cells()
    cells.obs["kind"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    result = perturb(cells, make_model(), make_processor(), states=States("kind", "a", "b"), max_cells=4)
    (shown,) = bars
    assert shown.n == shown.total == cells.n_obs + int(np.isfinite(result.X).sum())


@pytest.mark.parametrize("name", ["_MOST_WEIGHTS", "_TOKENS_PER_RUN"])
def test_long_cells_share_nothing_where_that_costs_more_than_it_saves(monkeypatch, name):
    cells, processor, model = make_cells(), make_processor(), make_model()
    expected = perturb(cells, model, processor, similarity="cell")
    monkeypatch.setattr(sharing, name, 1)
    monkeypatch.setattr(type(model), "share_first_layer", lambda *_, **__: pytest.fail("shared"))
    np.testing.assert_allclose(perturb(cells, model, processor, similarity="cell").X, expected.X, atol=1e-5)
