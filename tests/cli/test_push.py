# ruff: noqa: F811 (the arguments are the imported fixtures)
import json
import shutil

from typer.testing import CliRunner

from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.cli.main import app
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForSequenceClassification

from ..corpora.conftest import make_cells
from ..hub.conftest import hub, model, shards  # noqa: F401
from ..hub.hub_folders import contents


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_push_of_a_model_and_of_shards(hub, model, shards):
    result = run("push", model, "me/model", "--private", "--message", "First")
    assert result.exit_code == 0, result.output
    repository = hub.store.repository("me/model")
    assert f"{hub.url}/me/model/commit/{repository.branches['main']}" in result.output
    assert repository.private and repository.history()[0] == "First" and repository.contents() == contents(model)

    result = run("push", shards, "me/cells", "--repo-type", "dataset", "--pull-request")
    assert result.exit_code == 0, result.output
    assert f"{hub.url}/datasets/me/cells/discussions/1" in result.output


def test_from_a_new_adapter_to_the_hub_by_following_the_messages(hub, model, tmp_path):
    """Each refusal names the command that mends it."""
    base = shutil.copytree(model, tmp_path / "base")
    adapter = tmp_path / "adapter"
    save_adapter(add_lora(ScGPTForSequenceClassification.from_pretrained(base)), adapter)

    def push_says(remedy: str) -> None:
        result = run("push", adapter, "me/adapter")
        assert result.exit_code == 1 and remedy in result.stderr, result.output
        assert hub.store.repository("me/adapter") is None

    (adapter / "training_manifest.parquet").write_bytes(b"")
    push_says(f"sclm-hf card {adapter} --license …")
    assert run("card", adapter, "--license", "mit").exit_code == 0
    push_says(f"sclm-hf card {adapter} --model me/adapter")
    assert run("card", adapter, "--model", "me/adapter").exit_code == 0
    push_says(f"sclm-hf card {adapter} --base-model REPO_ID")
    assert run("card", adapter, "--base-model", "me/model").exit_code == 0
    push_says("which is no repository that your account can see")
    assert run("push", base, "me/model").exit_code == 0
    assert run("push", adapter, "me/adapter").exit_code == 0

    there = hub.store.repository("me/adapter").contents()
    assert there == contents(adapter)
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "me/model"
    card = there["README.md"].decode()
    assert "base_model: me/model" in card and "A LoRA adapter of `me/model`" in card and str(base) not in card


def test_from_cells_to_a_benchmark_on_the_hub_by_following_the_messages(hub, tmp_path):
    make_cells(50).write_h5ad(tmp_path / "a.h5ad")
    shards = tmp_path / "shards"
    built = ["build", tmp_path / "a.h5ad", shards, "--obs-column", "cell_type", "--license", "mit"]
    assert run("corpus", *built).exit_code == 0
    assert run("corpus", "benchmark", shards, "--label-key", "cell_type").exit_code == 0
    result = run("push", shards, "me/cells", "--repo-type", "dataset")
    assert result.exit_code == 1 and f"sclm-hf card {shards} --model me/cells" in result.stderr
    assert run("card", shards).exit_code == 1
    assert run("card", shards, "--model", "me/cells").exit_code == 0
    assert run("push", shards, "me/cells", "--repo-type", "dataset").exit_code == 0
    there = hub.store.repository("me/cells", "dataset").contents()
    assert there == contents(shards) and "eval.yaml" in there


def test_a_hub_that_is_gone_is_one_message(hub, model):
    with hub.cut(0, "before"):
        result = run("push", model, "me/model")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "Pushing to `me/model` failed" in result.stderr and "push again" in result.stderr
