import pandas as pd
import pytest

from sclm_hf.tokenization.genes.gene_columns import gene_names, is_gene, kind_of

IDS, SYMBOLS, NUMBERS = ["ENSG00000141510", "ENSG00000012048"], ["TP53", "BRCA1"], ["0", "1"]
ID_COLUMNS = ["gene_ids", "ensembl_id", "ensembl_ids", "feature_id", "gene_id", "Gene.ID"]
SYMBOL_COLUMNS = ["gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "Gene Symbol", "SYMBOL"]


def names_of(index, **columns):
    frame = pd.DataFrame(columns, index=index)
    return gene_names(frame, list(frame.index))


@pytest.mark.parametrize("index", [NUMBERS, IDS], ids=["numbers", "ids"])
@pytest.mark.parametrize("symbols", SYMBOL_COLUMNS)
def test_symbols_are_read_whatever_the_index(index, symbols):
    assert names_of(index, **{"feature_id": IDS, symbols: pd.Categorical(SYMBOLS)}) == (SYMBOLS, IDS)


@pytest.mark.parametrize("ids", ID_COLUMNS)
def test_ids_are_read_beside_symbols_and_instead_of_numbers(ids):
    assert names_of(SYMBOLS, **{ids: IDS}) == (SYMBOLS, IDS)
    assert names_of(NUMBERS, **{ids: IDS}) == (IDS, None)


def test_columns_count_by_what_they_hold():
    assert names_of(IDS, gene_names=IDS, gene_symbols=SYMBOLS) == (SYMBOLS, IDS)
    assert names_of(SYMBOLS, gene_ids=NUMBERS, feature_name=NUMBERS) == (SYMBOLS, None)
    assert names_of(NUMBERS, cell_type=SYMBOLS) == (NUMBERS, None)


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan"])
def test_a_gene_without_a_symbol_is_named_by_its_id(missing):
    assert names_of(IDS, gene_symbols=["TP53", missing]) == (["TP53", IDS[1]], IDS)


@pytest.mark.parametrize(
    ("column", "values", "no_gene"),
    [
        ("feature_types", ["Gene Expression", "Antibody Capture"], "Antibody Capture"),
        ("feature_types", ["Gene Expression", "Something New"], "Something New"),
        ("feature_types", ["protein_coding", "Peaks"], "Peaks"),
        ("feature_biotype", ["gene", "spike-in"], "spike-in"),
        ("feature_is_filtered", [False, True], "not measured"),
    ],
)
def test_what_a_column_says_is_no_gene_is_labelled(column, values, no_gene):
    names, ids = names_of(SYMBOLS, gene_ids=IDS, **{column: values})
    assert (names, ids) == (["TP53", f"BRCA1 [{no_gene}]"], [IDS[0], ""])
    assert [is_gene(name) for name in names] == [True, False]
    assert kind_of(names[1]) == no_gene


def test_biotypes_of_genes_are_no_reason_to_leave_them_out():
    assert names_of(SYMBOLS, feature_type=["protein_coding", "lncRNA"]) == (SYMBOLS, None)


def test_genes_of_two_genomes_are_named_by_them():
    assert names_of(SYMBOLS, genome=["GRCh38", "mm10"])[0] == ["GRCh38_TP53", "mm10_BRCA1"]
    assert names_of(SYMBOLS, genome=["GRCh38", "GRCh38"])[0] == SYMBOLS
