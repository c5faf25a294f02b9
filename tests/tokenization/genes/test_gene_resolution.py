import pytest

from sclm_hf.tokenization.genes.gene_resolution import GeneResolver, Resolution
from sclm_hf.tokenization.genes.gene_table import Step

# Today: MARCHF1 (was MARCH1, alias RNF171), PWWP3A (was MUM1, as IRF4 was), EPRS1 (was EPRS), QARS1 (was QARS)


@pytest.mark.parametrize(
    ("vocabulary", "name", "ensembl_id", "expected"),
    [
        (["MARCHF1", "MARCH1"], "MARCH1", "", ("MARCH1", Step.AS_WRITTEN)),
        (["TP53"], " TP53 ", "", ("TP53", Step.AS_WRITTEN)),
        (["TP53"], "my favourite", "ENSG00000141510.17", ("TP53", Step.ENSEMBL_ID)),
        (["TP53"], "ENSG00000141510.17", "", ("TP53", Step.ENSEMBL_ID)),
        (["ENSG00000141510"], "ENSG00000141510.17", "", ("ENSG00000141510", Step.ENSEMBL_ID)),
        (["ENSG00000141510"], "TP53", "", ("ENSG00000141510", Step.SYMBOL)),
        (["ENSG00000141510.3"], "ENSG00000141510.17", "", ("ENSG00000141510.3", Step.ENSEMBL_ID)),
        (["TP53_ENSG00000141510"], "TP53", "", ("TP53_ENSG00000141510", Step.SYMBOL)),
        (["TP53"], "TP53_ENSG00000141510", "", ("TP53", Step.ENSEMBL_ID)),
        (["ENSGALG00000054818"], "ENSGALG00000054818.2", "", ("ENSGALG00000054818", Step.ENSEMBL_ID)),
        (["MARCHF1"], "MARCH1", "", ("MARCHF1", Step.PREVIOUS_SYMBOL)),
        (["MARCH1"], "MARCHF1", "", ("MARCH1", Step.SYMBOL)),
        (["MARCH1"], "RNF171", "", ("MARCH1", Step.ALIAS)),
        (["RNF171", "MARCH1"], "ENSG00000145416", "", ("MARCH1", Step.ENSEMBL_ID)),
        (["BRCA1", "TP53"], "BRCA1", "ENSG00000141510", ("BRCA1", Step.AS_WRITTEN)),
        (["TP53"], "TP53P", "not an id", None),
        (["TP53"], "tp53", "", None),
        (["TP53"], "AC004556.3", "", None),
        (["TP53"], "", "", None),
    ],
)
def test_either_side_may_hold_the_other_name(vocabulary, name, ensembl_id, expected):
    assert GeneResolver(vocabulary).resolve(name, ensembl_id) == (
        Resolution(*expected) if expected else (None, None, 0)
    )


@pytest.mark.parametrize(
    ("vocabulary", "name", "why"),
    [
        (["EPRS1", "QARS1"], "QARS", "a previous symbol of both"),
        (["QARS1"], "QARS", "a previous symbol of two, of which one is known"),
        (["PWWP3A"], "MUM1", "a previous symbol of IRF4 too"),
        (["QARS"], "QARS1", "the vocabulary's name may mean EPRS1"),
        (["TP53"], "QARS", None),
        (["TP53"], "LRRC51", None),
    ],
)
def test_a_name_that_may_mean_several_genes_is_not_guessed(vocabulary, name, why):
    assert GeneResolver(vocabulary).resolve(name) == Resolution(None, ambiguous=why is not None)


def test_a_current_symbol_is_not_taken_for_the_gene_that_had_it_before():
    # LRRC51 is a gene of its own today and was a previous symbol of LRTOMT
    assert GeneResolver(["LRTOMT"]).resolve("LRRC51") == Resolution(None, ambiguous=True)
    assert GeneResolver(["LRTOMT", "LRRC51"]).resolve("LRRC51") == Resolution("LRRC51", Step.AS_WRITTEN)


def test_an_ensembl_id_settles_an_ambiguous_name():
    assert GeneResolver(["QARS1"]).resolve("QARS", "ENSG00000172053") == Resolution("QARS1", Step.ENSEMBL_ID)


@pytest.mark.parametrize(
    ("vocabulary", "name", "ensembl_id", "expected"),
    [
        (["ACTB"], "Actb", "", ("ACTB", Step.ORTHOLOG)),
        (["TP53"], "Trp53", "", ("TP53", Step.ORTHOLOG_OF_OTHER_NAME)),
        (["TP53"], "something", "ENSMUSG00000059552.5", ("TP53", Step.ORTHOLOG_OF_OTHER_NAME)),
        (["ENSG00000141510"], "Trp53", "", ("ENSG00000141510", Step.ORTHOLOG_OF_OTHER_NAME)),
        (["MARCH1"], "Marchf1", "", ("MARCH1", Step.ORTHOLOG)),
        (["Trp53", "TP53"], "Trp53", "", ("Trp53", Step.AS_WRITTEN)),
        (["ENSMUSG00000059552"], "Trp53", "ENSMUSG00000059552", ("ENSMUSG00000059552", Step.ENSEMBL_ID)),
        (["TP53"], "p53", "", None),
    ],
)
def test_mouse_genes_go_through_their_orthologs(vocabulary, name, ensembl_id, expected):
    found = GeneResolver(vocabulary).resolve_mouse(name, ensembl_id)
    assert found == (Resolution(*expected) if expected else Resolution(None))


def test_a_mouse_gene_with_several_orthologs_of_other_names_is_ambiguous():
    resolver = GeneResolver(["ACOT1", "ACOT2", "TP53"])
    assert resolver.resolve_mouse("Acot5") == Resolution(None, ambiguous=True)
    assert GeneResolver(["TP53"]).resolve_mouse("Acot5") == Resolution(None)
