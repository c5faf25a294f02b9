import dataclasses
import json
import shutil

import pytest

from sclm_hf.errors import CheckpointError, ConfigurationError, CorpusError
from sclm_hf.hub.folder import read_folder
from sclm_hf.registry import FAMILIES

from .hub_folders import contents, model_folder


@pytest.fixture
def copy(model, adapter, shards, tmp_path):
    """A copy of one of the good folders, to be spoilt."""
    folders = {"model": model, "adapter": adapter, "shards": shards}
    return lambda name: shutil.copytree(folders[name], tmp_path / name)


def test_good_folders_are_listed_whole(model, adapter, shards):
    for folder, repo_type in [(model, "model"), (adapter, "model"), (shards, "dataset")]:
        content = read_folder(folder, "me/it", repo_type=repo_type)
        assert {path: file.read_bytes() for path, file in content.files.items()} == contents(folder)
        assert content.left_out == ()
        assert content.base_models == (("me/model",) if folder == adapter else ())


def test_what_a_training_run_keeps_beside_the_model_stays_here(copy, adapter):
    folder = copy("model")
    shutil.copytree(adapter, folder / "adapter")
    for name in ("checkpoints/step-1/optimizer.bin", "logs/events.out.tfevents.1.host", ".cache/x", ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "pbmc.yaml").write_text("[]")
    content = read_folder(folder, "me/it")
    assert ".eval_results/pbmc.yaml" in content.files and "model.safetensors" in content.files
    assert {path.split("/")[0] for path in content.left_out} == {
        "adapter",
        "checkpoints",
        "logs",
        ".cache",
        ".gitignore",
    }
    assert len(content.files) + len(content.left_out) == len(contents(folder))


def spoil_config(folder):
    (folder / "config.json").write_text("[]")


def spoil_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))


def garble_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": ["b"]}}))


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "neither a model nor an adapter: there is no `config.json`",
        ),
        (spoil_config, "must hold a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights as safetensors"),
        (spoil_index, r"names the shard `\.\./elsewhere\.safetensors`"),
        (garble_index, "does not say which weights are in which file"),
        (truncate, "model.safetensors` cannot be read as safetensors"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b""), "holds pickles.*`pytorch_model.bin`"),
    ],
)
def test_models_that_nobody_could_load_are_refused(copy, spoil, message):
    folder = copy("model")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        read_folder(folder, "me/it")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, r"has no card \(README.md\): say `sclm-hf card \S+ --license"),
        ("# Title\n", "names no licence: say `sclm-hf card"),
        ("---\nlicense: [mit\n---\n", "metadata of .* cannot be read"),
        ("---\nlicense: mit\n---\nload path/to/this/folder\n", r"say `sclm-hf card \S+ --model me/it`"),
        ("---\nlicense: mit\nbase_model: ./runs/base\n---\n", r"`./runs/base` as its base, .*--base-model"),
    ],
)
def test_cards_that_say_too_little_are_refused(copy, card, message):
    folder = copy("model")
    if card is None:
        (folder / "README.md").unlink()
    else:
        (folder / "README.md").write_text(card)
    with pytest.raises(ConfigurationError, match=message):
        read_folder(folder, "me/it")


def test_an_adapter_of_a_base_on_this_machine_is_refused_with_the_remedy(copy, model):
    folder = copy("adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(model)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ConfigurationError, match=rf"names `{model}` as its base, .*path.*sclm-hf card .* --base-model"
    ):
        read_folder(folder, "me/it")


def test_an_adapter_without_its_weights_or_model_class_is_refused(copy):
    folder = copy("adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no `adapter_model.safetensors`"):
        read_folder(folder, "me/it")
    (folder / "adapted_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no `adapted_config.json`"):
        read_folder(folder, "me/it")


def test_the_adapter_below_a_run_is_pointed_to(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "run" / "adapter")
    with pytest.raises(CheckpointError, match=r"The adapter is in `.*run/adapter`"):
        read_folder(tmp_path / "run", "me/it")


def test_datasets_without_whole_shards_are_refused(copy, model):
    folder = copy("shards")
    with pytest.raises(CheckpointError, match="--repo-type dataset"):
        read_folder(folder, "me/it")
    shard = sorted((folder / "data").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorpusError, match=f"{shard.name}` is not a whole Parquet file"):
        read_folder(folder, "me/it", repo_type="dataset")
    with pytest.raises(CorpusError, match="no Parquet shards"):
        read_folder(model, "me/it", repo_type="dataset")


def test_weights_that_may_not_be_hosted_again_need_force(model, adapter, monkeypatch):
    monkeypatch.setitem(FAMILIES, "scgpt", dataclasses.replace(FAMILIES["scgpt"], redistributable=False))
    for folder in (model, adapter):
        with pytest.raises(ConfigurationError, match=r"may not be hosted again.*--force"):
            read_folder(folder, "me/it")
        assert read_folder(folder, "me/it", force=True).files


def test_other_families_and_kinds_are_refused(copy):
    folder = copy("model")
    with pytest.raises(ConfigurationError, match="`repo_type` must be 'model' or 'dataset', got 'space'"):
        read_folder(folder, "me/it", repo_type="space")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="is a `bert` model; expected one of the families"):
        read_folder(folder, "me/it")


def test_a_sharded_model_is_complete_with_all_its_shards(tmp_path):
    folder = model_folder(tmp_path / "sharded", max_shard_size="50KB")
    shards = sorted(path for path in read_folder(folder, "me/it").files if path.endswith(".safetensors"))
    assert len(shards) > 1
    (folder / shards[-1]).unlink()
    with pytest.raises(CheckpointError, match=shards[-1]):
        read_folder(folder, "me/it")
