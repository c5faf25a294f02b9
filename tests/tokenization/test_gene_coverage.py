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
        (["Actb", "Gapdh", "Trp53"], "human", 'look like mouse genes: pass `species="mouse"`'),
        (["ENSMUSG00000059552", "ENSMUSG00000029580"], "human", "look like mouse genes"),
        (["Nope1", "Nope2"], "mouse", "Check that these are gene symbols"),
        (["0", "1", "2"], "human", "They are numbers"),
    ],
)
def test_the_error_says_what_to_do(vocabulary, names, species, remedy):
    with pytest.raises(GeneCoverageError, match=remedy):
        vocabulary.map_genes(names, species=species).coverage.check()
