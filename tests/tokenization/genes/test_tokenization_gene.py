import json
import pickle
import subprocess
import sys
import warnings

import pytest
from transformers import AutoTokenizer

from sclm_hf import GeneTokenizer, GeneVocabulary
from sclm_hf.errors import ConfigurationError, GeneCoverageError

GAPPED = {"TP53": 10, "HLA-A": 20, "<pad>": 3, "MT-CO1": 4}


@pytest.fixture
def tokenizer():
    return GeneTokenizer.from_genes(GAPPED, gene_id_type="symbol")


def test_ids_with_gaps_survive_saving_and_loading(tokenizer, tmp_path):
    expected = {**GAPPED, "<cls>": 21, "<eoc>": 22}
    assert tokenizer.get_vocab() == expected
    tokenizer.save_pretrained(tmp_path)
    for read in (GeneTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(read) is GeneTokenizer
        assert read.get_vocab() == expected
        assert (read.pad_token_id, read.cls_token_id, read.convert_tokens_to_ids("<eoc>")) == (3, 21, 22)
        assert read.init_kwargs["gene_id_type"] == "symbol"
        assert read.gene_vocabulary == tokenizer.gene_vocabulary
        assert set(read.gene_vocabulary.special_tokens) == {"<pad>", "<cls>", "<eoc>"}


@pytest.mark.slow
def test_an_import_is_enough_for_auto_tokenizer_in_a_fresh_process(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    code = (
        "import sclm_hf; from transformers import AutoTokenizer; "
        f"print(type(AutoTokenizer.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["GeneTokenizer"]


def test_genes_are_words_and_padding_goes_right(tokenizer):
    assert tokenizer("<cls> TP53 MT-CO1")["input_ids"] == [21, 10, 4]
    padded = tokenizer(["TP53", "HLA-A TP53"], padding=True)
    assert padded["input_ids"] == [[10, 3], [20, 10]]
    assert padded["attention_mask"] == [[1, 0], [1, 1]]
    assert tokenizer.decode([21, 10, 20]) == "<cls> TP53 HLA-A"


@pytest.mark.parametrize("method", ["__call__", "encode", "tokenize", "convert_tokens_to_ids"])
def test_an_unknown_gene_raises_and_is_named(tokenizer, method):
    with pytest.raises(GeneCoverageError, match=r"`BRCA9`.*map_genes.*add_genes"):
        getattr(tokenizer, method)(["TP53", "BRCA9"])


def test_a_list_is_numbered_after_the_special_tokens():
    tokenizer = GeneTokenizer.from_genes(["B", "A"])
    assert tokenizer.get_vocab() == {"<pad>": 0, "<cls>": 1, "<eoc>": 2, "B": 3, "A": 4}


def test_a_vocabulary_brings_its_special_tokens():
    vocabulary = GeneVocabulary({"<pad>": 0, "<mask>": 1, "ENSG00000141510": 2}, ("<pad>", "<mask>"))
    tokenizer = GeneTokenizer.from_genes(vocabulary, special_tokens=())
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.cls_token) == (0, 1, None)
    assert tokenizer.gene_vocabulary == vocabulary
    assert tokenizer.gene_vocabulary.special_tokens == vocabulary.special_tokens


def test_added_genes_come_after_the_largest_id_and_are_saved(tokenizer, tmp_path):
    larger = tokenizer.add_genes(["ERCC-00002", "GFP"])
    assert larger.get_vocab() == {**tokenizer.get_vocab(), "ERCC-00002": 23, "GFP": 24}
    assert "GFP" not in tokenizer.get_vocab()
    assert larger.gene_vocabulary.size == 25
    larger.save_pretrained(tmp_path)
    read = GeneTokenizer.from_pretrained(tmp_path)
    assert read("GFP TP53")["input_ids"] == [24, 10]
    assert read.init_kwargs["gene_id_type"] == "symbol"
    with pytest.raises(ConfigurationError, match="TP53"):
        larger.add_genes(["TP53"])


def test_tokens_are_not_added_in_place(tokenizer):
    with pytest.raises(ConfigurationError, match=r"GFP.*add_genes"):
        tokenizer.add_tokens(["GFP"])
    with pytest.raises(ConfigurationError, match="<mask>"):
        tokenizer.add_special_tokens({"mask_token": "<mask>"})


def test_more_than_a_hundred_thousand_genes_load_offline_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("asked the Hub"))
    vocabulary = {f"GENE{i}": 2 * i for i in range(120_000)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeneTokenizer.from_genes(vocabulary).save_pretrained(tmp_path)
        read = GeneTokenizer.from_pretrained(tmp_path)
    assert read.gene_vocabulary.size == 240_002
    assert read.convert_tokens_to_ids("GENE119999") == 239_998


def test_the_saved_files_are_plain_and_hold_no_path(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert str(tmp_path) not in (tmp_path / "tokenizer_config.json").read_text()
    GeneTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "GeneTokenizer"
    assert str(tmp_path) not in json.dumps(config)


def test_a_tokenizer_travels_to_workers(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).gene_vocabulary == tokenizer.gene_vocabulary
    assert tokenizer.gene_vocabulary is tokenizer.gene_vocabulary
