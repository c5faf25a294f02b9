import pytest
from transformers import AutoTokenizer

from sclm_hf.errors import GeneCoverageError
from sclm_hf.tokenization.genes.ranking_tokenizer import names_with_underscores, ranking_tokenizer

TOKENS = {"<pad>": 0, "<b>": 1, "<e>": 2, "B2M": 3, "HLA_A": 4, "AC000_1": 7, "HLA_DQA1": 5}


@pytest.fixture
def tokenizer(tmp_path):
    """Saved and loaded again."""
    made = ranking_tokenizer(TOKENS, ("<pad>", "<b>", "<e>"), first="<b>", last="<e>", bos_token="<b>")
    made.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_lines_are_wrapped_and_cut_between_the_special_tokens(tokenizer):
    assert tokenizer("B2M HLA-A HLA_DQA1 AC000.1")["input_ids"] == [1, 3, 4, 5, 7, 2]
    assert tokenizer("B2M HLA-A HLA_DQA1", max_length=4, truncation=True)["input_ids"] == [1, 3, 4, 2]
    batch = tokenizer(["B2M", "B2M HLA.A"], padding=True)
    assert batch["input_ids"] == [[1, 3, 2, 0], [1, 3, 4, 2]]
    assert batch["attention_mask"] == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_ids_and_roles_are_kept(tokenizer):
    assert tokenizer.get_vocab() == TOKENS
    assert (tokenizer.cls_token, tokenizer.bos_token, tokenizer.eos_token) == ("<b>", "<b>", "<e>")


def test_unknown_genes_are_named_as_they_are_looked_for(tokenizer):
    with pytest.raises(GeneCoverageError, match=r"Not in the vocabulary: `NO_GENE`\. "):
        tokenizer("HLA-A NO-GENE B2M")


def test_data_find_the_genes(tokenizer):
    names = ["HLA-A", "HLA.DQA1", "AC000.1", "B2M", "hla-a", "<b>"]
    mapping = tokenizer.gene_vocabulary.map_genes(names)
    assert mapping.gene_ids.tolist() == [4, 5, 7, 3, -1, -1]
    # by the Ensembl id of HLA-A; of two columns of a gene the vocabulary's own name wins
    assert tokenizer.gene_vocabulary.map_genes(["ENSG00000206503"]).gene_ids.tolist() == [4]
    doubled = tokenizer.gene_vocabulary.map_genes(["HLA-A", "HLA_A"])
    assert doubled.gene_ids.tolist() == [-1, 4] and doubled.coverage.duplicated == ("HLA-A",)


def test_aliases():
    assert names_with_underscores(["A_1", "B", "_C", "D_", "E__F"]) == {"A-1": "A_1", "A.1": "A_1"}
    # a name of its own is no alias
    assert names_with_underscores(["A_1", "A-1"]) == {"A.1": "A_1"}
    assert len(names_with_underscores(["A_1_2"])) == 8
    assert names_with_underscores(["A_1_2_3_4_5"]) == {}
    # A-1.2 could be either
    aliases = names_with_underscores(["A_1.2", "A-1_2"])
    assert "A-1.2" not in aliases and aliases["A-1-2"] == "A-1_2"
