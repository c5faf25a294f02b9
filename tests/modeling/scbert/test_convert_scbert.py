import json
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor, PreTrainedConfig

from sclm_hf import CellProcessor, ScBERTConfig
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.scbert.convert_scbert import convert_checkpoint

from ..golden import GOLDEN
from .golden_scbert import FINETUNED, PRETRAINED, convert_case, release


@pytest.fixture
def source(tmp_path):
    """A release folder, to be spoiled."""
    return release("case_a", tmp_path / "release")


def change_weights(source, change, name=PRETRAINED):
    content = torch.load(source / name, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, source / name)


def test_folder_opens_through_auto_classes(tmp_path):
    folder = convert_case("case_a", tmp_path)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with np.load(GOLDEN / "scbert" / "case_a" / "io.npz") as arrays:
        table = torch.from_numpy(arrays["gene2vec_npy"])
    # then the rows of <cls> and <pad>, which no gene has
    assert torch.equal(model.embeddings.genes.weight, torch.cat([table, torch.zeros(2, 40)]))
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CellProcessor)
    assert processor.tokenizer.convert_tokens_to_ids(["GENE0", "GENE29", "<cls>", "<pad>"]) == [0, 29, 30, 31]
    assert (processor.feature_extractor.encoding, processor.feature_extractor.n_bins) == ("log_bins", 6)


def test_bins_of_other_checkpoints_are_read_from_the_weights(tmp_path):
    folder = convert_case("case_b", tmp_path)
    config = ScBERTConfig.from_pretrained(folder)
    assert (config.num_bins, config.mask_value, config.num_random_features) == (8, 8, 44)
    assert AutoProcessor.from_pretrained(folder).feature_extractor.n_bins == 8
    notes = json.loads((folder / "loading_report.json").read_text())["notes"]
    assert any("without gene2vec" in note for note in notes)


def test_cell_runs_from_counts_to_embedding(tmp_path):
    folder = convert_case("case_a", tmp_path)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    counts = np.random.default_rng(0).poisson(2.0, (3, 20))
    batch = processor(counts, gene_names=[f"GENE{number}" for number in range(5, 25)], return_tensors="pt")
    assert batch["input_ids"].shape == (3, 31)
    assert model(**batch).cell_embedding.shape == (3, 40)


def test_every_tensor_is_reported(source, tmp_path):
    content = torch.load(source / PRETRAINED, weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    training = set(content) - {"model_state_dict"}
    assert set(report.renamed) | set(report.used) == set(content["model_state_dict"])
    assert set(report.dropped) == training
    stored = json.loads((tmp_path / "out" / "loading_report.json").read_text())
    assert stored["renamed"] == report.renamed


def test_bare_state_dict_of_distributed_training(source, tmp_path):
    state = torch.load(source / PRETRAINED, weights_only=True)["model_state_dict"]
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, source / PRETRAINED)
    convert_checkpoint(source, tmp_path / "out")
    expected = AutoModel.from_pretrained(convert_case("case_a", tmp_path / "nested")).state_dict()
    for name, tensor in AutoModel.from_pretrained(tmp_path / "out").state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_double_precision_gene_table_is_noted(source, tmp_path):
    change_weights(source, lambda t: t.update({"pos_emb.emb.weight": t["pos_emb.emb.weight"].double() + 1e-12}))
    assert any("single precision" in note for note in convert_checkpoint(source, tmp_path / "out").notes)


def test_fine_tuned_checkpoint_with_named_classes(tmp_path):
    source = release("case_a", tmp_path / "release", FINETUNED)
    labels = ["B", "NK", "T", "mono", "other"]
    (source / "labels.txt").write_text("\n".join(labels))
    report = convert_checkpoint(source, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert [model.config.id2label[number] for number in range(5)] == labels
    assert report.architecture == "ScBERTForSequenceClassification"
    (source / "labels.txt").write_text("B\nNK")
    with pytest.raises(CheckpointError, match="names 2 classes, and the classifier has 5"):
        convert_checkpoint(source, tmp_path / "again")


def test_configuration_has_no_unknown_keys(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    known = {field.name for field in fields(ScBERTConfig)} | set(PreTrainedConfig().to_dict())
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(written) <= known | {"model_type", "transformers_version"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "missing: model.norm.bias"),
        (lambda t: t.update({"surprise.weight": torch.zeros(2)}), "surprise.weight"),
        (lambda t: t.update({"to_out.weight": torch.zeros(3, 40)}), r"wrongly shaped.*\(3, 40\) instead of"),
        (lambda t: t.pop("token_emb.weight"), "token_emb.weight"),
        (lambda t: t.update({"pos_emb.emb.weight": torch.zeros(30, 40)}), "names 30 genes.*for 29"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert PRETRAINED in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing(source, tmp_path):
    (source / "genes.txt").rename(source / "names.txt")
    with pytest.raises(CheckpointError, match=r"`genes.txt` is missing.*found there"):
        convert_checkpoint(source, tmp_path / "out")
    (source / "second.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"one `.pth` file \(found: pretrain_1.pth, second.pth\)"):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"), [("", "empty"), ("A\nB\nA", "'A' twice"), (b"\xff\xfe\xff", "no text")]
)
def test_gene_lists_that_do_not_fit(source, tmp_path, content, message):
    (source / "genes.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_weights_are_refused_and_nothing_runs(source, tmp_path, writer):
    trace = tmp_path / "trace"
    payload = {"model_state_dict": Malicious(str(trace))}
    if writer == "torch":
        torch.save(payload, source / PRETRAINED)
    else:
        (source / PRETRAINED).write_bytes(pickle.dumps(payload))
    with pytest.raises(CheckpointError, match="refused; nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")
    assert not trace.exists()


def test_output_is_never_overwritten(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("token_emb.weight", 0),
        ("pos_emb.emb.weight", (slice(None), slice(1))),
        ("performer.net.layers.0.0.fn.fast_attention.projection_matrix", 0),
    ],
)
def test_tensors_of_wrong_shapes_are_told(tmp_path, name, index):
    source = release("case_a", tmp_path / "original")
    content = torch.load(source / PRETRAINED, weights_only=True)
    content["model_state_dict"][name] = content["model_state_dict"][name][index].clone()
    torch.save(content, source / PRETRAINED)
    with pytest.raises(CheckpointError, match="make no model"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
