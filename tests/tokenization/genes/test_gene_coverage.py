import numpy as np
import pytest

from sclm_hf import GeneVocabulary
from sclm_hf.errors import GeneCoverageError, SclmWarning


@pytest.fixture(scope="module")
def vocabulary():
    return GeneVocabulary({"TP53": 7, "GAPDH": 30})


def test_low_coverage_is_an_error_and_middling_coverage_a_warning(vocabulary):
    def coverage(covered):
        return vocabulary.map_genes(["TP53", "x1", "x2"], counts=np.array([covered, 100 - covered, 0])).coverage

    coverage(60).check()
    with pytest.warns(SclmWarning, match="1 of 3 genes"):
        coverage(59).check()
    with pytest.warns(SclmWarning):
        coverage(30).check()
    with pytest.raises(GeneCoverageError, match=r"29.0% of counts .* `x1`, `x2`.*ensembl_ids"):
        coverage(29).check()
    coverage(29).check(minimum=0.2, warn_below=0.2)
    with pytest.raises(GeneCoverageError, match="0 of 0 genes"):
        vocabulary.map_genes([]).coverage.check()


@pytest.mark.parametrize(
    ("names", "species", "remedy"),
    [
        (["Actb", "Gapdh", "Trp53"], "human", 'look like mouse genes, not human ones: pass `species="mouse"`'),
        (["ENSMUSG00000059552", "ENSMUSG00000029580"], "human", "look like mouse genes"),
        (["Nope1", "Nope2"], "mouse", "Check that these are gene symbols"),
        (["0", "1", "2"], "human", "They are numbers"),
    ],
)
def test_the_error_says_what_to_do(vocabulary, names, species, remedy):
    with pytest.raises(GeneCoverageError, match=remedy):
        vocabulary.map_genes(names, species=species).coverage.check()


def test_examples_are_sorted_by_counts_and_what_is_no_gene_has_its_own_group(vocabulary):
    names = ["x1", "ERCC-00002", "x2", "TP53", "CD3_TotalSeqB", "tdTomato", "CD4 [Antibody Capture]", "x3"]
    coverage = vocabulary.map_genes(names, counts=np.array([1, 2, 9, 500, 8, 3, 4, 5])).coverage
    assert coverage.missing == ("x2", "x3", "x1")
    assert coverage.not_genes == (
        "CD3_TotalSeqB [antibody or hashtag]",
        "CD4 [Antibody Capture]",
        "tdTomato [transgene]",
        "ERCC-00002 [spike-in]",
    )
    assert coverage.to_dict()["n_not_genes"] == 4 and "4 no genes" in coverage.summary()


def test_a_gene_that_the_model_knows_is_one_whatever_its_name():
    assert GeneVocabulary({"EGFP": 0}).map_genes(["EGFP"]).coverage.matched == ("EGFP",)


def test_data_without_any_gene_are_told_so(vocabulary):
    with pytest.raises(GeneCoverageError, match=r"No genes: `a \[Peaks\]`, `chr1-10-99 \[peak\]`. Give the"):
        vocabulary.map_genes(["a [Peaks]", "chr1-10-99"]).coverage.check()


def test_no_advice_is_given_that_was_followed_already(vocabulary):
    with pytest.raises(GeneCoverageError) as caught:
        vocabulary.map_genes(["x1", "x2"], species="mouse").coverage.check()
    assert "species" not in str(caught.value)


HUMAN, MOUSE = ["HLA-A", "TP53I13", "LINC00115", "GAPDH"], ["Ly6c2", "Gapdh", "Gm10000", "Trp53"]


@pytest.mark.parametrize(
    ("names", "species", "message"),
    [
        (MOUSE, "human", r'look like mouse genes, not human ones: pass `species="mouse"` \(`--species mouse`'),
        (HUMAN, "mouse", r'look like human genes, not mouse ones: pass `species="human"` \(`--species human`'),
        (
            ["ENSGALG00000053455", "ENSGALG00000045540"],
            "human",
            "look like chicken genes.*takes genes of human or mouse",
        ),
        (["GRCh38_TP53", "GRCh38_GAPDH", "mm10_Trp53", "mm10_Gapdh"], "human", r"mix genes of human and mouse.*keep"),
    ],
)
def test_genes_of_another_species_are_refused_whatever_their_coverage(vocabulary, names, species, message):
    with pytest.raises(GeneCoverageError, match=message):
        vocabulary.map_genes(names, species=species).coverage.check(minimum=0, warn_below=0)


def test_human_data_are_no_mouse_data_for_a_model_of_human_genes():
    with pytest.raises(GeneCoverageError, match=r'pass `species="human"`'):
        GeneVocabulary.from_genes(HUMAN).map_genes(HUMAN, species="mouse").coverage.check()


def test_a_vocabulary_of_mouse_genes_takes_mouse_data():
    GeneVocabulary.from_genes(MOUSE).map_genes(MOUSE).coverage.check()
