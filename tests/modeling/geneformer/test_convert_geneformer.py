import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
)

from sclm_hf import CellProcessor, GeneformerConfig, GeneTokenizer
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.common.legacy import read_pickle
from sclm_hf.modeling.geneformer.convert_geneformer import convert_checkpoint

from .golden_geneformer import GOLDEN, KINDS, convert_case, release_folder


@pytest.fixture
def source(tmp_path):
    """A release of V2, to be spoiled."""
    return release_folder("case_b", "model", tmp_path / "release")


@pytest.fixture
def dictionaries(source):
    return source.parent / "geneformer"


def change_weights(source, change):
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors")


def change_config(source, **changes):
    settings = json.loads((source / "config.json").read_text()) | changes
    (source / "config.json").write_text(json.dumps(settings))


def change_pickle(path, change):
    content = read_pickle(path)
    change(content)
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(("case", "special"), [("case_a", False), ("case_b", True)])
def test_folder_opens_through_auto_classes(case, special, tmp_path):
    folder = convert_case(case, "model", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, GeneformerConfig)
    assert (config.has_special_tokens, config.pooling) == (special, "cls" if special else "mean")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, GeneTokenizer)
    assert dict(tokenizer.gene_vocabulary) == read_pickle(GOLDEN / case / "token_dictionary.pkl")
    assert (tokenizer.pad_token, tokenizer.mask_token) == ("<pad>", "<mask>")
    assert (tokenizer.cls_token, tokenizer.eos_token) == (("<cls>", "<eos>") if special else (None, None))
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CellProcessor)
    extractor = processor.feature_extractor
    assert (extractor.family, extractor.encoding, extractor.target_sum) == ("geneformer", "rank", 10_000)
    assert (extractor.add_cls, extractor.add_eos) == (special, special)
    assert extractor.max_length == config.max_position_embeddings
    assert set(extractor.gene_medians) == set(tokenizer.gene_vocabulary) - set(tokenizer.all_special_tokens)
    assert not [*folder.glob("*.pkl"), *folder.glob("*.py"), *folder.glob("*.bin")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_every_tensor_is_reported_and_none_left_at_random(case, kind, tmp_path):
    source = release_folder(case, kind, tmp_path / "release")
    if (source / "model.safetensors").exists():
        names = set(load_file(source / "model.safetensors"))
    else:
        names = set(torch.load(source / "pytorch_model.bin", weights_only=True))
    report = convert_checkpoint(source, tmp_path / "out")
    assert set(report.used) | set(report.renamed) | set(report.dropped) == names
    if kind == "model_v4_6":
        assert set(report.dropped) == {"bert.embeddings.position_ids"}
        assert "cls.predictions.decoder.weight" in report.used
    elif kind.startswith("mtl_"):
        assert set(report.dropped) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    else:
        assert not report.dropped
    _, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_classifier_keeps_its_labels(tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(convert_case("case_a", "cell_classifier", tmp_path))
    recorded = json.loads((GOLDEN / "case_a" / "cell_classifier" / "config.json").read_text())
    assert model.config.id2label == {int(number): name for number, name in recorded["id2label"].items()}


def test_converted_folder_is_read_by_the_stock_class(tmp_path):
    folder = convert_case("case_b", "model", tmp_path)
    stock, info = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = AutoModelForMaskedLM.from_pretrained(folder)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    for name, tensor in stock.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_one_processor_serves_our_class_and_the_stock_one(case, tmp_path):
    """Also when the stock class reads the folder as released."""
    folder = convert_case(case, "model", tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    genes = list(processor.feature_extractor.gene_medians)[:30]
    counts = np.random.default_rng(0).poisson(1.0, (5, 30))
    batch = processor(counts, gene_names=genes, return_tensors="pt")
    real = batch["attention_mask"].bool()
    assert not real.all()
    released = AutoModel.from_pretrained(GOLDEN / case / "model")
    assert type(released) is BertModel
    models = released, BertModel.from_pretrained(folder), AutoModel.from_pretrained(folder)
    stock, reread, ours = (model.eval()(**batch).last_hidden_state[real] for model in models)
    torch.testing.assert_close(reread, stock, rtol=0, atol=0)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file(source, tmp_path, missing):
    (source / missing).unlink()
    with pytest.raises(CheckpointError, match=f"`{missing}` is missing"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bert.embeddings.LayerNorm.bias"), r"missing: bert\.embeddings\.LayerNorm\.bias"),
        (lambda t: t.update({"surprise.weight": torch.zeros(2)}), r"surprise\.weight"),
        (lambda t: t.update({"cls.predictions.bias": torch.zeros(3)}), r"wrongly shaped.*\(3,\) instead of"),
        (lambda t: t.pop("bert.embeddings.word_embeddings.weight"), "lacks the gene embeddings"),
        (lambda t: t.update({"bert.embeddings.word_embeddings.weight": torch.zeros(50, 48)}), "50 gene embeddings"),
        (lambda t: t.update({"cls.predictions.decoder.weight": torch.zeros(154, 48)}), "which Geneformer ties"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert str(source) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"vocab_size": 99}, "vocab_size"), ({"position_embedding_type": "relative_key"}, "relative_key")],
)
def test_settings_that_do_not_fit(source, tmp_path, changes, message):
    change_config(source, **changes)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def test_settings_without_a_meaning_are_named(source, tmp_path):
    change_config(source, surprising_setting=3)
    report = convert_checkpoint(source, tmp_path / "out")
    assert any("surprising_setting" in note for note in report.notes)
    assert "surprising_setting" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("name", ["token_dictionary", "gene_median", "ensembl_mapping"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_recorded_dictionaries_are_read_exactly(version, name):
    file = GOLDEN / "tok_a" / f"{version}_{name}"
    # in the order of the file, and numpy's numbers as Python's
    expected = json.loads(file.with_suffix(".json").read_text())
    found = read_pickle(file.with_suffix(".pkl"))
    assert [*found.items()] == [*expected.items()]
    assert {type(value) for value in found.values()} == {type(value) for value in expected.values()}


class Runs:
    """Pickled as a call."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["token_dictionary_gc104M.pkl", "gene_median_dictionary_gc104M.pkl"])
def test_malicious_dictionary_is_refused_and_does_not_run(source, dictionaries, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (dictionaries / name).write_bytes(pickle.dumps({"ENSG00000000003": Runs()}))
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("token_dictionary", lambda d: d.pop("<eos>"), "`<eos>` together"),
        ("token_dictionary", lambda d: d.update(ENSG99999999999=500), "No `token_dictionary"),
        ("token_dictionary", lambda d: d.update(ENSG99999999999="5"), "not the dictionary"),
        ("gene_median_dictionary", lambda d: d.pop("ENSG00000000005"), "lacks 1 of the"),
    ],
)
def test_dictionaries_that_do_not_fit(source, dictionaries, tmp_path, name, change, message):
    change_pickle(dictionaries / f"{name}_gc104M.pkl", change)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def test_medians_must_lie_beside_the_tokens(source, dictionaries, tmp_path):
    (dictionaries / "gene_median_dictionary_gc104M.pkl").unlink()
    with pytest.raises(CheckpointError, match="medians"):
        convert_checkpoint(source, tmp_path / "out")


def test_the_dictionary_that_fits_the_weights_is_found_among_those_of_the_release(source, dictionaries, tmp_path):
    older = dictionaries / "gene_dictionaries_30m"
    older.mkdir()
    tokens = {"<pad>": 0, "<mask>": 1, "ENSG00000000003": np.int16(2)}
    (older / "token_dictionary_gc30M.pkl").write_bytes(pickle.dumps(tokens))
    report = convert_checkpoint(source, tmp_path / "out")
    assert "token_dictionary_gc104M.pkl" in report.source
    tokens |= {f"ENSG{number}": number for number in range(3, 154)}
    (older / "token_dictionary_gc30M.pkl").write_bytes(pickle.dumps(tokens))
    with pytest.raises(CheckpointError, match="Several dictionaries fit"):
        convert_checkpoint(source, tmp_path / "other")


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "out")


def test_older_ids_of_the_release_lead_to_its_genes(source, dictionaries, tmp_path):
    mapping = {"ENSG90000000005": "ENSG00000000005", "ENSG00000000005": "ENSG00000000005", "ENSG9": "not there"}
    (dictionaries / "ensembl_mapping_dict_gc104M.pkl").write_bytes(pickle.dumps(mapping))
    report = convert_checkpoint(source, tmp_path / "out")
    assert "ensembl_mapping_dict_gc104M.pkl" in report.source
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.gene_vocabulary.aliases == {"ENSG90000000005": "ENSG00000000005"}
    ids = processor.map_genes(["ENSG90000000005.2", "ENSG00000000003", "ENSG00000000005"]).gene_ids
    tokens = processor.tokenizer.gene_vocabulary
    # an id is as sure as an older one of the same gene: they are added up in the place of the first
    assert ids.tolist() == [tokens["ENSG00000000005"], tokens["ENSG00000000003"], -2 - 0]
