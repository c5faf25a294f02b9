import argparse
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
)
from typer.testing import CliRunner

from sclm_hf import CellProcessor, GeneTokenizer, TGPTConfig
from sclm_hf.cli.main import app
from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.tgpt.convert_tgpt import convert_checkpoint

from .golden_tgpt import convert_case, source_folder


@pytest.fixture
def source(tmp_path):
    """A release, to be spoiled."""
    return shutil.copytree(source_folder("case_a"), tmp_path / "release")


def change_weights(source, change):
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, source / "pytorch_model.bin")


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_folder_opens_through_auto_classes(tmp_path):
    folder = convert_case("case_a", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, TGPTConfig)
    assert (config.n_embd, config.n_positions, config.embed_token_types) == (32, 96, True)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CellProcessor) and processor.feature_extractor.family == "tgpt"
    assert (processor.feature_extractor.encoding, processor.feature_extractor.max_length) == ("rank", 64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, GeneTokenizer)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</b>", "</s>", "<unk>", "TMSB4X", "extra_id_0"]) == [
        *range(5),
        154,
    ]
    special = tokenizer.gene_vocabulary.special_tokens
    assert {"<unk>", "extra_id_0", "extra_id_5"} <= special.keys() and "TMSB4X" not in special


def test_stock_folders_open_as_the_stock_class(source, tmp_path):
    assert type(AutoModel.from_pretrained(source)) is GPT2Model
    assert type(AutoModelForCausalLM.from_pretrained(source)) is GPT2LMHeadModel
    convert_checkpoint(source, tmp_path / "out")
    model, info = GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.num_parameters() > 0


def test_every_tensor_is_reported(source, tmp_path):
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    assert set(report.used) | set(report.dropped) == set(tensors)
    assert not report.renamed
    masks = {f"transformer.h.{layer}.attn.{part}" for layer in range(2) for part in ("bias", "masked_bias")}
    assert set(report.dropped) == masks
    stored = json.loads((tmp_path / "out" / "loading_report.json").read_text())
    assert stored["dropped"] == report.dropped


def test_safetensors_without_the_tied_table_are_the_same(source, tmp_path):
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    expected = AutoModel.from_pretrained(convert_case("case_a", tmp_path)).state_dict()
    (source / "pytorch_model.bin").unlink()
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, source / "model.safetensors"
    )
    convert_checkpoint(source, tmp_path / "out")
    for name, tensor in AutoModel.from_pretrained(tmp_path / "out").state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_classifier_starts_random_and_says_so(tmp_path):
    folder = convert_case("case_a", tmp_path)
    _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.ln_f.bias"), "missing: transformer.ln_f.bias"),
        (lambda t: t.update({"transformer.h.0.attn.extra": torch.zeros(1)}), "tgpt does not have: .*attn.extra"),
        (lambda t: t.update({"transformer.wpe.weight": torch.zeros(9, 32)}), r"wpe.weight \(9, 32\) instead of \(96"),
        (lambda t: t["lm_head.weight"].add_(1), "differs from the gene embeddings"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "pytorch_model.bin" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"].update(type="BPE"), "no tokenizer of whole words"),
        (lambda t: t["model"].update(vocab=["TP53"]), "no tokenizer of whole words"),
        (lambda t: t["model"]["vocab"].update(NEW=160), "ids up to 160, and the model has 160"),
        (lambda t: (t["model"]["vocab"].pop("</b>"), t.update(added_tokens=[])), "lacks `</b>`"),
    ],
)
def test_tokenizers_that_do_not_fit(source, tmp_path, change, message):
    change_json(source / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "`config.json` is missing, .* number of heads of a model 32 wide"),
        (
            "pytorch_model.bin",
            r"weights are missing from .*model.safetensors or pytorch_model.bin.*model_\{epoch\}.pth",
        ),
        ("tokenizer.json", "`tokenizer.json` is missing .*gpt2tokenizer"),
    ],
)
def test_missing_files_are_named(source, tmp_path, name, message):
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def assert_same_model(folder, expected):
    ours, theirs = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (folder, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("layout", ["model_7.pth", "checkpoint.pth"])
def test_what_the_training_of_the_authors_leaves(source, tmp_path, layout, parallel):
    """Bare tensors, or tensors beside the state of the training; the tokenizer where their repository has it."""
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    if parallel:
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    if layout == "checkpoint.pth":
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        state = {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 7}
        tensors = {"model": tensors, **state, "args": argparse.Namespace(lr=3e-3, output_dir="out")}
    torch.save(tensors, source / layout)
    (source / "pytorch_model.bin").unlink()
    (source.parent / "gpt2tokenizer").mkdir()
    shutil.move(source / "tokenizer.json", source.parent / "gpt2tokenizer")
    report = convert_checkpoint(source, tmp_path / "out")
    assert report.source == ["config.json", layout, "tokenizer.json"]
    assert ({"optimizer", "lr_scheduler", "epoch", "args"} <= report.dropped.keys()) == (layout == "checkpoint.pth")
    assert_same_model(tmp_path / "out", convert_case("case_a", tmp_path))


def test_one_of_several_epochs_is_given_by_its_path(source, tmp_path):
    for epoch in (0, 1):
        shutil.copy(source / "pytorch_model.bin", source / f"model_{epoch}.pth")
    change_weights(source, lambda t: t["transformer.ln_f.bias"].add_(1))
    (source / "pytorch_model.bin").rename(source / "model_1.pth")
    with pytest.raises(CheckpointError, match=r"2 epochs \(model_0.pth, model_1.pth\): give the path"):
        convert_checkpoint(source, tmp_path / "out")
    convert_checkpoint(source / "model_0.pth", tmp_path / "first")
    assert_same_model(tmp_path / "first", convert_case("case_a", tmp_path))


def test_sizes_of_the_released_width_are_read_from_the_tensors(source, tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=160, n_positions=64, n_embd=1024, n_layer=1, n_head=16, n_inner=24))
    torch.save(model.state_dict(), source / "model_0.pth")
    for name in ("config.json", "pytorch_model.bin"):
        (source / name).unlink()
    report = convert_checkpoint(source, tmp_path / "out")
    assert any("`config.json` is not there" in note and "16 heads" in note for note in report.notes)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    batch = {"input_ids": torch.tensor([[1, 9, 7, 2]]), "token_type_ids": torch.zeros(1, 4, dtype=torch.long)}
    torch.testing.assert_close(ours(**batch).logits, model.eval()(**batch).logits, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_that_would_run_code_is_refused(source, tmp_path):
    (source / "pytorch_model.bin").unlink()
    torch.save({"model": {}, "args": print}, source / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")


def test_weights_that_would_run_code_are_refused(source, tmp_path):
    torch.save({"model": print}, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")


def test_command_line_writes_a_card_with_the_licence(source, tmp_path):
    result = CliRunner().invoke(app, ["convert", "tgpt", str(source), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "dropped: 4" in result.output
    assert "license: other" in (tmp_path / "out" / "README.md").read_text()


def test_genes_of_data_find_their_written_names(tmp_path):
    processor = AutoProcessor.from_pretrained(convert_case("case_a", tmp_path))
    # HLA-B by symbol, as R writes it, by Ensembl id; ACTB by Ensembl id
    for name in ("HLA-B", "HLA.B", "HLA_B", "ENSG00000234745"):
        assert processor.map_genes([name]).gene_ids.tolist() == [38], name
    mapping = processor.map_genes(["extra_id_0", "ENSG00000075624"])
    assert mapping.gene_ids.tolist() == [-1, 6]
    batch = processor(np.array([[3.0, 0, 5, 1]]), gene_names=["HLA-B", "TPT1", "B2M", "FTL"])
    assert batch["input_ids"].tolist() == [[1, 10, 38, 13, 2]]
