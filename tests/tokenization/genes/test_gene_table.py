import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sclm_hf.tokenization.genes import gene_table
from sclm_hf.tokenization.genes.gene_table import AMBIGUOUS, Step, ensembl_id_of, human_genes, mouse_orthologs

ROOT = Path(__file__).resolve().parents[3]
TABLES = sorted((ROOT / "sclm_hf" / "tokenization" / "genes" / "data").glob("*.gz"))
SOURCES = Path(os.environ.get("SCLM_DATA", ROOT.parent / "shared" / "data")) / "tables"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_gene_table", ROOT / "training_scripts/build_gene_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("name", "ensembl_id"),
    [
        ("ENSG00000141510", "ENSG00000141510"),
        ("ENSG00000141510.17", "ENSG00000141510"),
        ("ENSMUSG00000059552.14", "ENSMUSG00000059552"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378"),
        ("ENSGR0000182378", "ENSGR0000182378"),
        ("MATR3_ENSG00000015479", "ENSG00000015479"),
        ("TP53", None),
        ("AC004556.3", None),
        ("RP11-34P13.7", None),
        ("ENSA", None),
        ("", None),
    ],
)
def test_only_ensembl_ids_lose_a_version(name, ensembl_id):
    assert ensembl_id_of(name) == ensembl_id


@pytest.mark.parametrize(
    ("name", "step", "symbol"),
    [
        ("TP53", Step.SYMBOL, "TP53"),
        ("ENSG00000141510", Step.ENSEMBL_ID, "TP53"),
        ("p53", Step.ALIAS, "TP53"),
        ("MARCH1", Step.PREVIOUS_SYMBOL, "MARCHF1"),
        ("SEPT7", Step.PREVIOUS_SYMBOL, "SEPTIN7"),
        ("ARNTL", Step.PREVIOUS_SYMBOL, "BMAL1"),  # renamed after the HGNC table was made
    ],
)
def test_a_name_means_a_gene(name, step, symbol):
    table = human_genes()
    assert table.step_of[name] == step
    assert table.names(table.gene_of[name])[0] == symbol


def test_a_name_of_several_genes_is_ambiguous_unless_it_is_the_symbol_of_one():
    table = human_genes()
    assert table.gene_of["QARS"] == AMBIGUOUS  # previous symbol of EPRS1 and of QARS1
    assert {table.names(gene)[0] for gene in table.shared["QARS"]} == {"EPRS1", "QARS1"}
    symbols_shared = [name for name in table.shared if table.step_of[name] == Step.SYMBOL]
    assert len(symbols_shared) > 100
    assert all(name == table.names(table.gene_of[name])[0] for name in symbols_shared)


@pytest.mark.parametrize("name", ["Y_RNA", "Metazoa_SRP", "A12M1", "ABHD11-AS2"])
def test_families_and_withdrawn_entries_are_left_out(name):
    assert name not in human_genes().gene_of


def test_mouse_genes_have_human_orthologs_and_the_same_name_goes_first():
    orthologs = mouse_orthologs()
    assert orthologs["Actb"] == (Step.ORTHOLOG, ("ACTB",))
    assert orthologs["Trp53"] == orthologs["ENSMUSG00000059552"] == (Step.ORTHOLOG_OF_OTHER_NAME, ("TP53",))


def test_the_tables_are_small_and_without_a_time_stamp():
    assert [path.name for path in TABLES] == ["human_genes.tsv.gz", "mouse_orthologs.tsv.gz"]
    assert sum(path.stat().st_size for path in TABLES) < 2e6
    assert all(path.read_bytes()[4:8] == bytes(4) for path in TABLES)


def test_the_tables_are_read_once():
    assert human_genes() is human_genes()


def test_reading_gene_names_needs_neither_torch_nor_transformers():
    code = (
        "import sys; from sclm_hf.tokenization.genes.gene_vocabulary import GeneVocabulary; "
        "assert GeneVocabulary({'TP53': 0}).map_genes(['p53']).gene_ids[0] == 0; "
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gencode_brings_hgnc_up_to_date(script):
    kept, renamed, moved, bare = (
        script.Gene("KEPT", ["ENSG1"]),
        script.Gene("OLD", ["ENSG2"], previous=["OLDER"], aliases=["NEW", "NICK"]),
        script.Gene("MOVED", ["ENSG3"]),
        script.Gene("BARE"),
    )
    gencode = {"ENSG1": "KEPT", "ENSG2": "NEW", "ENSG3": "OTHER", "ENSG4": "MOVED", "ENSG5": "BARE", "ENSG6": "ADDED"}
    genes = script.add_gencode([kept, renamed, moved, bare], gencode)
    assert genes == [
        script.Gene("KEPT", ["ENSG1"]),
        script.Gene("NEW", ["ENSG2"], previous=["OLD", "OLDER"], aliases=["NICK"]),
        script.Gene("MOVED", ["ENSG4"]),
        script.Gene("BARE", ["ENSG5"]),
        script.Gene("OTHER", ["ENSG3"]),
        script.Gene("ADDED", ["ENSG6"]),
    ]


def test_sources_are_read_without_withdrawn_entries_and_shared_symbols(script, tmp_path):
    header = "Status,Approved symbol,Ensembl gene ID,Alias symbol,Previous symbol\n"
    rows = "Approved,A,ENSG1,x|y,z\nEntry Withdrawn,B,,,\n"
    (tmp_path / "hgnc.csv.gz").write_bytes(gzip.compress((header + rows).encode()))
    assert script.read_hgnc(tmp_path / "hgnc.csv.gz") == [script.Gene("A", ["ENSG1"], ["z"], ["x", "y"])]
    gencode = "ensembl_id,symbol\nENSG1,A\nENSG2,Y_RNA\nENSG3,Y_RNA\nENSG4,ENSG4\n"
    (tmp_path / "gencode.csv.gz").write_bytes(gzip.compress(gencode.encode()))
    assert script.read_gencode(tmp_path / "gencode.csv.gz") == {"ENSG1": "A"}
    (tmp_path / "orthologs.csv").write_text("A,Aa\nB,Aa\n,Bb\nC,\nD,Dd\n")
    orthologs = list(script.read_orthologs(tmp_path / "orthologs.csv", {"ENSMUSG1": "Aa"}))
    assert orthologs == [("Aa", "ENSMUSG1", "A|B"), ("Dd", "", "D")]


@pytest.mark.slow
def test_the_sources_give_the_tables_that_ship(script, tmp_path, monkeypatch):
    if not SOURCES.is_dir():
        pytest.skip(f"SCLM_DATA: there is no folder {SOURCES}")
    monkeypatch.setattr(sys, "argv", ["build_gene_table.py", str(SOURCES), "--output", str(tmp_path)])
    script.main()
    for path in TABLES:
        # the bytes of the archive depend on the version of zlib; its content does not
        assert gzip.decompress((tmp_path / path.name).read_bytes()) == gzip.decompress(path.read_bytes())


def test_the_script_writes_where_the_package_reads(script):
    assert Path(gene_table.__file__).parent / "data" == script.DATA
