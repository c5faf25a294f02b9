import json
import pickle
import shutil

import numpy as np
import pytest
import torch
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

from sclm_hf import CellProcessor, GeneTokenizer, ISEEEKConfig
from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.iseeek.convert_iseeek import convert_checkpoint

from .golden_iseeek import convert_case, source_folder


@pytest.fixture
def source(tmp_path):
    """A release, to be spoiled."""
    return shutil.copytree(source_folder("case_a"), tmp_path / "release")


def change_weights(source, change):
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, source / "pytorch_model.bin")


def test_folder_opens_through_auto_classes(tmp_path):
    folder = convert_case("case_a", tmp_path)
    assert isinstance(AutoConfig.from_pretrained(folder), ISEEEKConfig)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CellProcessor) and processor.feature_extractor.family == "iseeek"
    assert (processor.feature_extractor.encoding, processor.feature_extractor.max_length) == ("rank", 128)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, GeneTokenizer)
    roles = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert roles == (0, 2, 3, 4)
    assert set(tokenizer.gene_vocabulary.special_tokens) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_stock_folders_open_as_the_stock_class(source, tmp_path):
    assert type(AutoModel.from_pretrained(source)) is BertModel
    assert type(AutoModelForMaskedLM.from_pretrained(source)) is BertForMaskedLM
    convert_checkpoint(source, tmp_path / "out")
    _, info = BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_every_tensor_is_reported(source, tmp_path):
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    assert set(report.used) | set(report.dropped) == set(tensors)
    assert set(report.dropped) == {"bert.embeddings.position_ids"}
    stored = json.loads((tmp_path / "out" / "loading_report.json").read_text())
    assert stored["used"] == report.used


def test_pooler_is_dropped_and_tied_tensors_may_be_left_out(source, tmp_path):
    def change(tensors):
        tensors |= {"bert.pooler.dense.weight": torch.zeros(24, 24), "bert.pooler.dense.bias": torch.zeros(24)}
        del tensors["cls.predictions.decoder.weight"], tensors["cls.predictions.decoder.bias"]

    change_weights(source, change)
    report = convert_checkpoint(source, tmp_path / "out")
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} <= report.dropped.keys()
    expected = AutoModelForMaskedLM.from_pretrained(convert_case("case_a", tmp_path)).state_dict()
    for name, tensor in AutoModelForMaskedLM.from_pretrained(tmp_path / "out").state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_classifier_starts_random_and_says_so(tmp_path):
    folder = convert_case("case_a", tmp_path)
    _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("cls.predictions.bias"), "missing: cls.predictions.bias"),
        (lambda t: t.update({"bert.extra": torch.zeros(1)}), "iseeek does not have: bert.extra"),
        (lambda t: t.update({"cls.predictions.decoder.bias": torch.ones(155)}), "which iSEEEK ties"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "pytorch_model.bin" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_does_not_fit(source, tmp_path):
    shutil.copy(source_folder("case_b") / "tokenizer.json", source)
    with pytest.raises(CheckpointError, match="ids up to 244, and the model has 155"):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin", "tokenizer.json"])
def test_missing_files_are_named_with_what_was_expected(source, tmp_path, name):
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}.* is missing from .*tokenizer.json or iSEEEK_vocab.pkl"):
        convert_checkpoint(source, tmp_path / "out")


def pickle_vocabulary(source, change=lambda words: None):
    """Put the authors' older form of the vocabulary in the place of the tokenizer."""
    words = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    change(words)
    (source / "iSEEEK_vocab.pkl").write_bytes(pickle.dumps(words))
    (source / "tokenizer.json").unlink()


def test_pickled_vocabulary_is_as_good_as_the_tokenizer(source, tmp_path):
    pickle_vocabulary(source, lambda words: words.update(TMSB4X=np.int64(words["TMSB4X"])))
    report = convert_checkpoint(source, tmp_path / "out")
    assert report.source == ["config.json", "pytorch_model.bin", "iSEEEK_vocab.pkl"]
    pickled, expected = (
        AutoProcessor.from_pretrained(folder).tokenizer
        for folder in (tmp_path / "out", convert_case("case_a", tmp_path))
    )
    assert pickled.get_vocab() == expected.get_vocab()
    line = "TMSB4X HLA-B FTH1"
    assert pickled(line) == expected(line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words.pop("[SEP]"), r"iSEEEK_vocab.pkl` lacks `\[SEP\]`"),
        (lambda words: words.update(TMSB4X="5"), "no dictionary of words and their ids"),
        (lambda words: words.update(NEW=999), "`iSEEEK_vocab.pkl` has ids up to 999"),
        (lambda words: words.update(NEW=print), "nothing of it was run"),
    ],
)
def test_pickled_vocabularies_that_do_not_fit(source, tmp_path, change, message):
    pickle_vocabulary(source, change)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
