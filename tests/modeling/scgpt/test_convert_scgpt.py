import json
import pickle
from dataclasses import fields

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, AutoTokenizer, PreTrainedConfig

from sclm_hf import CellProcessor, GeneTokenizer, ScGPTConfig
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.scgpt.convert_scgpt import convert_checkpoint

from .golden_scgpt import GOLDEN, convert_case


@pytest.fixture
def source(tmp_path):
    """A copy of a release folder, to be spoiled."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in ("best_model.pt", "args.json", "vocab.json"):
        (folder / name).write_bytes((GOLDEN / "case_a" / name).read_bytes())
    return folder


def change_weights(source, change):
    tensors = torch.load(source / "best_model.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, source / "best_model.pt")


def test_folder_opens_through_auto_classes(tmp_path):
    folder = convert_case("case_a", tmp_path)
    assert isinstance(AutoConfig.from_pretrained(folder), ScGPTConfig)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, GeneTokenizer)
    assert tokenizer.convert_tokens_to_ids(["GENE7", "<pad>", "<cls>"]) == [7, 60, 61]
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CellProcessor)
    assert processor.feature_extractor.n_bins == 51
    assert processor.feature_extractor.max_length == 1200
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.py"))


def test_every_tensor_is_reported(source, tmp_path):
    tensors = torch.load(source / "best_model.pt", weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    assert set(report.used) | set(report.renamed) | set(report.dropped) == set(tensors)
    assert len(report.renamed["transformer_encoder.layers.1.self_attn.Wqkv.weight"]) == 3
    stored = json.loads((tmp_path / "out" / "loading_report.json").read_text())
    assert stored["renamed"] == report.renamed
    assert "classifier" in report.summary()


def test_nothing_stays_at_random(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    _, info = AutoModelForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_configuration_has_no_unknown_keys(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    known = {field.name for field in fields(ScGPTConfig)} | set(PreTrainedConfig().to_dict())
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(written) <= known | {"model_type", "transformers_version"}


@pytest.mark.parametrize("missing", ["best_model.pt", "args.json", "vocab.json"])
def test_missing_file(source, tmp_path, missing):
    (source / missing).unlink()
    with pytest.raises(CheckpointError, match=f"`{missing}` is missing.*found there"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.fc.2.bias"), "missing: expression_decoder.value.2.bias"),
        (lambda t: t.update({"surprise.weight": torch.zeros(2)}), "surprise.weight"),
        (lambda t: t.update({"decoder.fc.0.weight": torch.zeros(3, 3)}), r"wrongly shaped.*\(3, 3\) instead of"),
        (lambda t: t.pop("encoder.embedding.weight"), "encoder.embedding.weight"),
        (lambda t: t.update({"encoder.embedding.weight": torch.zeros(64, 32)}), "does not fit the weights"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "best_model.pt" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("args.json", "{", "not valid JSON"),
        ("args.json", "[1]", "must hold a JSON object"),
        ("args.json", "{}", "lacks embsize"),
        ("vocab.json", '{"GENE0": "zero"}', "map gene names to integers"),
        ("vocab.json", '{"GENE0": 0}', "does not fit the weights"),
    ],
)
def test_settings_that_do_not_fit(source, tmp_path, name, content, message):
    (source / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def test_perturbation_folder_says_what_it_is(tmp_path):
    folder = convert_case("case_a", tmp_path, weights="pert/pad0.pt", pad_value=0, pert_pad_id=0)
    extractor = AutoProcessor.from_pretrained(folder).feature_extractor
    assert (extractor.encoding, extractor.expects, extractor.add_cls) == ("continuous", "normalized", False)
    notes = json.loads((folder / "loading_report.json").read_text())["notes"]
    assert any("ScGPTForPerturbation" in note for note in notes)
    _, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]


@pytest.mark.parametrize("style", ["log1p", "normed_raw"])
def test_models_of_normalised_values_get_such_a_processor(tmp_path, style):
    folder = convert_case("case_a", tmp_path, input_style=style)
    extractor = AutoProcessor.from_pretrained(folder).feature_extractor
    assert (extractor.encoding, extractor.expects) == ("continuous", "normalized")


@pytest.mark.parametrize(("key", "value"), [("input_style", "ranked"), ("pad_token", "<padding>")])
def test_unknown_settings_are_refused(tmp_path, key, value):
    with pytest.raises(CheckpointError, match=key):
        convert_case("case_a", tmp_path, **{key: value})


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_weights_are_refused_and_nothing_runs(source, tmp_path, writer):
    trace = tmp_path / "trace"
    payload = {"encoder.embedding.weight": Malicious(str(trace))}
    if writer == "torch":
        torch.save(payload, source / "best_model.pt")
    else:
        (source / "best_model.pt").write_bytes(pickle.dumps(payload))
    with pytest.raises(CheckpointError, match="refused; nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")
    assert not trace.exists()


def test_damaged_weights(source, tmp_path):
    content = (source / "best_model.pt").read_bytes()
    (source / "best_model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="best_model"):
        convert_checkpoint(source, tmp_path / "out")


def test_output_is_never_overwritten(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"
