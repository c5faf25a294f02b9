"""Checkpoints that are opened, and those that are not."""

import builtins
import json
import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from sclm_hf import FAMILIES, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmError
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.opening.weights import open_model

JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json")
NAME = "layers.1.linear1.bias"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_tiny_checkpoint("scgpt", tmp_path_factory.mktemp("sound") / "scgpt", task="pretrain")


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


def change_settings(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weight(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[f"model.{NAME}"] = change(tensors[f"model.{NAME}"])
    save_file(tensors, path, {"format": "pt"})


def replaced(folder, name, content):
    (folder / name).unlink()
    content(folder / name)


def shards(**weight_map):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "part.safetensors", {"format": "pt"})
        names = dict.fromkeys(tensors, "part.safetensors") | weight_map
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return damage


DAMAGES = {
    "NaN": (lambda folder: change_weight(folder, lambda bias: bias * torch.nan), rf"{NAME}.*NaN or infinite"),
    "infinite": (lambda folder: change_weight(folder, lambda bias: bias + torch.inf), rf"{NAME}.*NaN or infinite"),
    "whole numbers": (lambda folder: change_weight(folder, lambda bias: bias.long()), rf"{NAME}.*integer numbers"),
    "booleans": (lambda folder: change_weight(folder, lambda bias: bias.bool()), rf"{NAME}.*boolean numbers"),
    "complex": (lambda folder: change_weight(folder, lambda bias: bias.to(torch.complex64)), f"{NAME}.*complex"),
    "another shape": (lambda folder: change_weight(folder, lambda bias: bias[:-1].clone()), rf"{NAME}` \(47,\)"),
    "many layers": (lambda folder: change_settings(folder, num_hidden_layers=10**9), "`num_hidden_layers` is 1,000,"),
    "wide layers": (lambda folder: change_settings(folder, hidden_size=10**10), "`hidden_size` is 10,000,"),
    "wide inside": (lambda folder: change_settings(folder, intermediate_size=2**20), "asks for [0-9,]* numbers"),
    "many labels": (lambda folder: change_settings(folder, num_labels=10**10), "`num_labels` is 10,000,"),
    "a long list": (lambda folder: change_settings(folder, sizes=[1] * 10**4), "`sizes` is 10,000 numbers"),
    "a word as size": (lambda folder: change_settings(folder, hidden_size="wide"), "hidden_size"),
    "deep settings": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json` is nested"),
    "no settings": (lambda folder: (folder / "config.json").unlink(), "no `config.json`"),
    "a pipe": (lambda folder: replaced(folder, "config.json", os.mkfifo), "config.json` is a pipe"),
    "a pipe of weights": (lambda folder: replaced(folder, "model.safetensors", os.mkfifo), "safetensors` is a pipe"),
    "a byte of weights": (lambda folder: (folder / "model.safetensors").write_text("."), "cannot be read as safetens"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights as safetensors"),
    "a shard outside": (shards(**{f"model.{NAME}": "../part.safetensors"}), r"names the shard `\.\./part"),
    "a shard missing": (shards(**{f"model.{NAME}": "other.safetensors"}), "lacks `other.safetensors`"),
    "a shard of number": (shards(**{f"model.{NAME}": 3}), "does not say which weights"),
    "a family of none": (lambda folder: change_settings(folder, model_type=["scgpt"]), r"is a `\['scgpt'\]` model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused(folder, damage):
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(SclmError, match=message):
        open_model(str(folder), "AutoModel")


def test_shards_are_opened(folder):
    expected = open_model(str(folder), "AutoModel").state_dict()
    shards()(folder)
    found = open_model(str(folder), "AutoModel").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("file", JSON_FILES)
def test_code_of_a_folder_is_never_run_whatever_is_answered(folder, file, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda *prompt: "y")
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer", "AutoProcessor")
    change_settings(folder, file, auto_map=dict.fromkeys((*classes, "AutoFeatureExtractor"), "evil.Evil"))
    for key in ("model_type", "tokenizer_class", "processor_class"):
        if key in json.loads((folder / file).read_text()):
            change_settings(folder, file, **{key: "Evil"})
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w').close()\nclass Evil: pass\n")
    for opens in (
        lambda: load_model(str(folder), "AutoModel", device="cpu"),
        lambda: open_classifier(str(folder), ["A", "B"]),
        lambda: load_processor(str(folder)),
    ):
        try:
            opens()
        except SclmError as error:
            assert str(folder) in str(error)
    assert not (folder / "canary").exists()


def test_only_the_head_may_start_at_random(folder):
    assert open_classifier(str(folder), ["A", "B", "C"]).config.num_labels == 3
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"model.{NAME}"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lacks 1 weight that ScGPTForSequenceClassification needs.*{NAME}"):
        open_classifier(str(folder), ["A", "B", "C"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_with_a_new_head(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / family)
    model = open_model(str(folder), "AutoModelForSequenceClassification", new_head=True)
    assert model.config.model_type == family
    with pytest.raises(CheckpointError, match="would be random"):
        open_model(str(folder), "AutoModelForSequenceClassification")


def test_training_opens_a_stock_folder_as_the_family_that_its_processor_names(tmp_path):
    tokenizer = GeneTokenizer.from_genes([f"G{i}" for i in range(20)], special_tokens=("<pad>", "<mask>"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    BertForMaskedLM(BertConfig(vocab_size=22, max_position_embeddings=48, **sizes)).save_pretrained(tmp_path)
    extractor = ExpressionFeatureExtractor.for_family("geneformer", max_length=48, add_cls=False, add_eos=False)
    CellProcessor(extractor, tokenizer).save_pretrained(tmp_path)
    model = open_classifier(str(tmp_path), ["A", "B"])
    assert type(model).__name__ == "GeneformerForSequenceClassification" and model.config.num_labels == 2
    assert not model.config.has_special_tokens
    assert type(open_model(str(tmp_path), "AutoModelForPreTraining")).__name__ == "GeneformerForMaskedLM"


def test_settings_of_a_processor_that_make_none_name_the_folder(folder):
    settings = json.loads((folder / "processor_config.json").read_text())
    change_settings(
        folder, "processor_config.json", feature_extractor=settings["feature_extractor"] | {"n_bins": None}
    )
    with pytest.raises(CheckpointError, match=rf"The processor of `{folder}` cannot be used: `n_bins`"):
        load_processor(str(folder))


def test_a_tokenizer_that_lacks_a_special_token_names_the_folder(folder):
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=rf"The processor of `{folder}` cannot be used: .*`cls_token`"):
        load_processor(str(folder))


def test_a_head_of_other_labels_is_not_thrown_away_in_silence(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sclm_hf"), "propagate", True)
    folder = make_tiny_checkpoint("scgpt", tmp_path, task="annotate")
    with caplog.at_level(logging.WARNING, logger="sclm_hf"):
        open_classifier(str(folder), [f"label {number}" for number in range(7)])
    assert f"starts at random in `classifier`, which `{folder}` holds in another shape." in caplog.text


def test_a_head_that_a_family_has_not_is_named(tmp_path):
    folder = make_tiny_checkpoint("uce", tmp_path)
    with pytest.raises(ConfigurationError, match="UCE has no model for `AutoModelForTokenClassification`"):
        open_model(str(folder), "AutoModelForTokenClassification")


def test_transformers_does_not_report_what_was_asked_for(folder, capfd):
    open_classifier(str(folder), ["A", "B"])
    out, err = capfd.readouterr()
    assert out == "" and err == ""
