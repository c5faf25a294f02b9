import pytest

from sclm_hf.tokenization.genes.gene_species import ENSEMBL_SPECIES, species_of_ids, species_of_symbols


@pytest.mark.parametrize("prefix", ENSEMBL_SPECIES)
def test_ids_tell_the_species(prefix):
    digits = {"FBgn": 7, "WBGene": 8}.get(prefix, 11)
    ids = [f"{prefix}{number:0{digits}d}" for number in range(5)]
    assert species_of_ids(ids, [""] * 5) == (ENSEMBL_SPECIES[prefix],)
    assert species_of_ids(["a"] * 5, [f"{one}.2" for one in ids]) == (ENSEMBL_SPECIES[prefix],)


def test_a_single_foreign_id_tells_nothing():
    assert species_of_ids([*["TP53"] * 500, "ENSMUSG00000059552"], [""] * 501) == ()
    human = [f"ENSG{number:011d}" for number in range(50)]
    assert species_of_ids([*human, "ENSMUSG00000059552"], [""] * 51) == ("human",)


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["HLA-A", "LINC00115", "C1orf112", "IFITM3"], ("human",)),
        (["Trp53", "Ly6c2", "1700001C19Rik", "Gm1000"], ("mouse",)),
        (["actb", "gapdh", "cd74", "vim"], ("zebrafish or frog",)),
        (["ACTB", "GAPDH", "CD74", "VIM"], ()),
        (["GENE1", "GENE2", "a", "b", "x"], ()),
    ],
)
def test_symbols_tell_human_from_mouse(names, species):
    assert species_of_symbols(names) == species
