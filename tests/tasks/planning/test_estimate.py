"""Tokens, memory and hours before a run."""

import json

import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, CorpusError, GeneCoverageError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.running.prepared_cells import prepare_cells

from ..tiny import make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


def test_tokens_parameters_and_coverage_are_counted(model):
    found = sclm_hf.estimate(make_cells(), model, batch_size=4)
    loaded = sclm_hf.tasks.embed.EMBED.load(model, None, sclm_hf.tasks.embed.EmbedSettings())
    prepared = prepare_cells(make_cells(), loaded)
    assert (found.n_cells, found.n_tokens) == (23, prepared.lengths.sum()) and found.longest == prepared.lengths.max()
    assert found.n_parameters == sum(one.numel() for one in loaded.model.parameters())
    assert found.coverage.count_share == prepared.coverage.count_share and found.n_measured == 12
    assert set(found.costs) == {"embed", "perturb", "finetune full", "finetune lora", "integrate fine_tune"}


def test_times_of_other_verbs_follow_from_how_often_they_run_the_model(model):
    found = sclm_hf.estimate(make_cells(), model, batch_size=4)
    loaded = sclm_hf.tasks.embed.EMBED.load(model, None, sclm_hf.tasks.embed.EmbedSettings())
    # each of a cell's genes is deleted once, and what is left is run; <cls> is no gene
    tokens = sum(length + (length - 1) ** 2 for length in prepare_cells(make_cells(), loaded).lengths.tolist())
    once, lora = found.costs["embed"].seconds, found.costs["finetune lora"].seconds
    assert found.costs["perturb"].seconds == pytest.approx(once * tokens / found.n_tokens)
    assert found.costs["integrate fine_tune"].seconds == pytest.approx(lora * 300 * 64 / 23 + once)
    assert found.memory("perturb", "float32") == found.memory("embed", "float32")


def test_memory_is_that_of_weights_gradients_moments_and_activations(model):
    found = sclm_hf.estimate(make_cells(), model, batch_size=4)
    full, lora, embed = (found.costs[use] for use in ("finetune full", "finetune lora", "embed"))
    assert full.n_trained == found.n_parameters > lora.n_trained > embed.n_trained == 0
    assert full.activation_bytes > embed.activation_bytes > 4 * 4 * found.longest * 32
    weights = 4 * found.n_parameters
    assert (
        found.memory("embed", "float32") == weights + embed.activation_bytes == 2 * found.memory("embed", "bfloat16")
    )
    assert found.memory("finetune full", "float32") == 4 * weights + full.activation_bytes
    assert all(cost.seconds > 0 for cost in found.costs.values())


def test_a_model_in_memory_stays_as_it_is():
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sclm_hf.estimate(make_cells(), model, make_processor(), batch_size=4)
    assert list(before) == list(model.state_dict()) and not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_embed_refuses_is_refused(model, tmp_path):
    unknown = make_cells()
    unknown.var_names = [f"UNKNOWN{number}" for number in range(91)]
    with pytest.raises(GeneCoverageError):
        sclm_hf.estimate(unknown, model)
    with pytest.raises(CorpusError, match="does not exist"):
        sclm_hf.estimate(tmp_path / "none.h5ad", model)
    with pytest.raises(ConfigurationError, match=r"`bath_size` of `embed`"):
        sclm_hf.estimate(make_cells(), model, bath_size=3)


def test_models_of_whole_samples_are_refused(tmp_path):
    model = make_tiny_checkpoint("cellplm", tmp_path / "model", genes=list(make_cells().var_names[:90]))
    with pytest.raises(ConfigurationError, match="reads whole samples of cells: there is no estimate"):
        sclm_hf.estimate(make_cells(), model)


def test_the_command_says_what_it_measured(model, tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    arguments = ["estimate", str(tmp_path / "in.h5ad"), "--model", model, "--batch-size", "4"]
    result = CliRunner().invoke(make_app(), arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for text in ("23 cells", "finetune full", "extrapolated from 12 cells run in float32 on cpu"):
        assert text in result.output
    told = json.loads(CliRunner().invoke(make_app(), [*arguments, "--json"]).stdout)
    assert told["n_cells"] == 23 and told["costs"]["embed"]["bytes"]["float32"] > told["n_parameters"] * 4
    few = CliRunner().invoke(make_app(), [*arguments, "--genes", ",".join(make_cells().var_names[:4]), "--json"])
    assert json.loads(few.stdout)["longest"] <= 5 < told["longest"]
