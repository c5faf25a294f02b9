import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from sclm_hf import GeneVocabulary
from sclm_hf.errors import CheckpointError, ConfigurationError, ExpressionError
from sclm_hf.tokenization.genes.gene_table import human_genes

SCLM_DATA = Path(os.environ.get("SCLM_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.fixture(scope="module")
def vocabulary():
    return GeneVocabulary({"TP53": 7, "MARCH1": 2, "GAPDH": 30, "<pad>": 0, "<cls>": 31})


@pytest.fixture(scope="module")
def pbmc_names():
    scanpy = pytest.importorskip("scanpy")
    return list(scanpy.datasets.pbmc68k_reduced().raw.var_names)


def test_ids_may_have_gaps_and_special_tokens_are_no_genes(vocabulary):
    assert (len(vocabulary), vocabulary.size, vocabulary["TP53"]) == (5, 32, 7)
    assert vocabulary.special_tokens == {"<pad>": 0, "<cls>": 31}
    mapping = vocabulary.map_genes(["<cls>", "TP53"])
    assert mapping.gene_ids.tolist() == [-1, 7]
    assert mapping.coverage.missing == ("<cls>",)


def test_from_genes_numbers_special_tokens_first():
    assert dict(GeneVocabulary.from_genes(["B", "A"])) == {"<pad>": 0, "<cls>": 1, "<eoc>": 2, "B": 3, "A": 4}
    assert dict(GeneVocabulary.from_genes(["B", "A"], special_tokens=())) == {"B": 0, "A": 1}
    with pytest.raises(ConfigurationError, match="`A` is already"):
        GeneVocabulary.from_genes(["A", "A"])
    with pytest.raises(ExpressionError, match="single string"):
        GeneVocabulary.from_genes("TP53")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "at least one"),
        ({"A": 0, "B": 0}, "`A` and `B` share the id 0"),
        ({"A": -1}, "`A` must be a whole number"),
        ({"A": 1.5}, "got 1.5"),
        ({"A": True}, "got True"),
        ({"A": "1"}, "got '1'"),
        ({"A B": 1}, "white space, got 'A B': rename or leave out this gene"),
        ({"": 1}, "white space"),
        ({3: 1}, "must be strings"),
    ],
)
def test_an_unsound_vocabulary_is_refused(entries, message):
    with pytest.raises(ConfigurationError, match=message):
        GeneVocabulary(entries)


def test_save_and_read_back(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "vocab.json")
    read = GeneVocabulary.from_file(tmp_path / "vocab.json")
    assert read == vocabulary
    assert read.special_tokens == vocabulary.special_tokens
    assert list(json.loads((tmp_path / "vocab.json").read_text()).values()) == sorted(vocabulary.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"A": 1, "A": 2}', "`A` is there twice"),
        ("[1]", "must hold a JSON object, got list"),
        ("{", "is not valid JSON"),
        ("[" * 200_000, "nested too deeply"),
        ('{"A": null}', "None"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "vocab.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        GeneVocabulary.from_file(tmp_path / "vocab.json")
    assert "vocab.json" in str(caught.value)


def test_a_vocabulary_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.json` cannot be read: No such file"):
        GeneVocabulary.from_file(tmp_path / "absent.json")


def test_published_dictionaries_with_float_ids_are_read(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "ENSG00000141510": 2.0}')
    assert GeneVocabulary.from_file(tmp_path / "vocab.json")["ENSG00000141510"] == 2


def test_added_genes_come_after_the_largest_id_and_the_old_stay(vocabulary):
    larger = vocabulary.add_genes(["ERCC-00002", "transgene"])
    assert (larger["ERCC-00002"], larger["transgene"], larger.size) == (32, 33, 34)
    assert {gene: larger[gene] for gene in vocabulary} == dict(vocabulary)
    assert "transgene" not in vocabulary
    for genes in (["TP53"], ["A", "A"]):
        with pytest.raises(ConfigurationError, match=genes[-1]):
            vocabulary.add_genes(genes)


def test_every_name_is_in_one_group_of_the_report():
    vocabulary = GeneVocabulary({"TP53": 7, "MARCH1": 2, "QARS": 9})
    names = ["TP53", "MARCHF1", "QARS1", "p53", "NOPE"]
    mapping = vocabulary.map_genes(names, counts=np.array([5, 1, 2, 1, 1]))
    coverage = mapping.coverage
    assert mapping.gene_ids.tolist() == [7, 2, -1, -1, -1]
    assert mapping.gene_ids.dtype == np.int64
    assert coverage.matched == ("TP53",)
    assert coverage.renamed == (("MARCHF1", "MARCH1"),)
    assert coverage.ambiguous == ("QARS1",)
    assert coverage.duplicated == ("p53",)
    assert coverage.missing == ("NOPE",)
    assert coverage.count_share == pytest.approx(0.6)
    assert vocabulary.map_genes(names).coverage.count_share == pytest.approx(0.4)
    assert vocabulary.map_genes(names, counts=np.zeros(5)).coverage.count_share == pytest.approx(0.4)
    assert json.loads(json.dumps(coverage.to_dict()))["examples"]["renamed"] == [["MARCHF1", "MARCH1"]]
    assert "2 of 5 genes used (1 under another name), 60.0% of counts" in coverage.summary()


@pytest.mark.parametrize(
    ("names", "gene_ids"),
    [
        (["p53", "TP53"], [-1, 7]),  # the surest step keeps the gene
        (["TP53", "x", "TP53"], [7, -1, -2]),  # columns of equal rank are added up
        (["LFS1", "p53", "ENSG00000141510"], [-1, -1, 7]),
        (["LFS1", "p53"], [7, -2]),
        (["ENSG00000141510.2", "ENSG00000141510"], [7, -2]),
    ],
)
def test_names_alone_decide_among_columns_of_one_gene(vocabulary, names, gene_ids):
    for counts in (None, np.arange(len(names)), np.arange(len(names))[::-1]):
        mapping = vocabulary.map_genes(names, counts=counts)
        assert mapping.gene_ids.tolist() == gene_ids
        assert len(mapping.coverage.duplicated) == sum(name != "x" for name in names) - sum(
            number != -1 for number in gene_ids
        )


def test_an_id_as_written_is_no_surer_than_with_a_version():
    vocabulary = GeneVocabulary({"ENSG00000141510": 3})
    assert vocabulary.map_genes(["ENSG00000141510.2", "ENSG00000141510"]).gene_ids.tolist() == [3, -2]
    assert vocabulary.map_genes(["p53", "ENSG00000141510"]).gene_ids.tolist() == [-1, 3]


def test_unknown_ensembl_ids_may_be_empty_none_or_nan(vocabulary):
    names = ["a", "b", "GAPDH", "TP53"]
    mapping = vocabulary.map_genes(names, ensembl_ids=["ENSG00000141510", None, float("nan"), ""])
    assert mapping.gene_ids.tolist() == [-1, -1, 30, 7]
    assert mapping.coverage.duplicated == ("a",)


@pytest.mark.parametrize(
    ("names", "arguments", "error", "message"),
    [
        ([0, 1], {}, ExpressionError, "number 0 is 0 .*var_names"),
        ([b"TP53"], {}, ExpressionError, "bytes"),
        (["A", float("nan")], {}, ExpressionError, "number 1 is nan"),
        ("TP53", {}, ExpressionError, "single string"),
        (["A", "B"], {"ensembl_ids": ["ENSG00000141510"]}, ExpressionError, "2 gene names and 1 Ensembl ids"),
        (["A"], {"ensembl_ids": ["GeneID:7157"]}, ExpressionError, "GeneID:7157"),
        (["A"], {"ensembl_ids": [7157]}, ExpressionError, "7157"),
        (["A"], {"counts": np.ones(2)}, ExpressionError, r"shape \(2,\)"),
        (["A"], {"counts": np.array([-1.0])}, ExpressionError, "not negative"),
        (["A"], {"counts": np.array([np.nan])}, ExpressionError, "finite"),
        (["A"], {"species": "chicken"}, ConfigurationError, "human, mouse"),
    ],
)
def test_bad_input_is_refused(vocabulary, names, arguments, error, message):
    with pytest.raises(error, match=message):
        vocabulary.map_genes(names, **arguments)


def test_mouse_data_meet_a_human_vocabulary_on_request(vocabulary):
    mapping = vocabulary.map_genes(["Trp53", "Gapdh", "Marchf1", "Gm10000"], species="mouse")
    assert mapping.gene_ids.tolist() == [7, 30, 2, -1]
    assert mapping.coverage.to_dict()["species"] == "mouse"


def test_ensembl_ids_name_the_species(vocabulary):
    names, ids = ["Trp53", "Gapdh"], ["ENSMUSG00000059552", "ENSMUSG00000057666.2"]
    found, asked = vocabulary.map_genes(names, ensembl_ids=ids), vocabulary.map_genes(names, species="mouse")
    assert found.gene_ids.tolist() == asked.gene_ids.tolist() == [7, 30]
    assert found.coverage.species == "mouse" and "2 of 2 mouse genes used" in found.coverage.summary()
    assert vocabulary.map_genes(ids).coverage.species == "mouse"
    assert vocabulary.map_genes(names, ensembl_ids=ids, species="human").coverage.looks_like == ("mouse",)
    # symbols, and ids of several species, name none
    mixed = ["ENSG00000141510", "ENSMUSG00000059552"]
    assert vocabulary.map_genes(names).coverage.species == vocabulary.map_genes(mixed).coverage.species == "human"


def test_real_names_of_2016_meet_vocabularies_of_today(pbmc_names):
    table = human_genes()
    symbols = [table.names(gene)[0] for gene in range(len(table.rows))]
    today = GeneVocabulary.from_genes(symbols)
    found = today.map_genes(pbmc_names).coverage
    assert len(found.matched) == sum(name in today for name in pbmc_names) < 0.94 * len(pbmc_names)
    assert len(found.matched) + len(found.renamed) >= 0.98 * len(pbmc_names)
    assert ("ATPIF1", "ATP5IF1") in found.renamed
    by_id = GeneVocabulary.from_genes(name for name in table.gene_of if name.startswith("ENSG"))
    assert len(by_id.map_genes(pbmc_names).coverage.renamed) >= 0.98 * len(pbmc_names)


def test_mapping_takes_as_many_steps_more_as_there_are_genes_more():
    known = list(human_genes().gene_of)
    vocabulary = GeneVocabulary.from_genes(known[:2000:2])
    vocabulary.map_genes(known[:10])

    def steps(n_genes):
        taken = 0

        def count(frame, event, arg):
            nonlocal taken
            taken += 1
            return count

        sys.settrace(count)
        mapping = vocabulary.map_genes(known[:n_genes], counts=np.arange(n_genes))
        sys.settrace(None)
        assert mapping.coverage.matched
        return taken

    assert steps(2000) < 3 * steps(1000)


def test_a_vocabulary_travels_to_workers(vocabulary):
    vocabulary.map_genes(["p53"])
    travelled = pickle.loads(pickle.dumps(vocabulary))
    assert travelled == vocabulary
    assert travelled.map_genes(["p53"]).gene_ids.tolist() == [7]


# share of counts covered, measured with the tables that ship: scGPT's Census names, scGPT's default names, Geneformer
PUBLIC_COVERAGE = {
    "covid_balf_liao": (0.995, 0.994, 0.965),
    "heart_san_multiome_1k": (0.988, 0.990, 0.923),
    "retina_multiome_1k": (0.964, 0.969, 0.874),
    "kang_muscat_labelled": (0.998, 0.998, 0.936),
    "pbmc68k_reduced_counts": (0.997, 0.997, 0.991),
    "celltypist_sample_559": (0.994, 0.994, 0.929),
    "mouse_brain_merfish_1k": (0.981, 0.981, 0.975),
    "spatial_mob_260": (0.906, 0.906, 0.905),
}
PUBLIC_VOCABULARIES = (
    "scgpt_census_vocab.json",
    "scgpt_default_gene_vocab.json",
    "geneformer_gc30m_token_dictionary.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC_COVERAGE)
def test_public_vocabularies_keep_their_coverage_of_real_data(name):
    path = SCLM_DATA / "h5ad" / f"{name}.h5ad"
    if not path.is_file():
        pytest.skip(f"SCLM_DATA: there is no {path}")
    adata = pytest.importorskip("anndata").read_h5ad(path)
    counts = np.asarray(adata.X.sum(axis=0), dtype=np.float64).ravel()
    species = "mouse" if name in ("mouse_brain_merfish_1k", "spatial_mob_260") else "human"
    for file, floor in zip(PUBLIC_VOCABULARIES, PUBLIC_COVERAGE[name], strict=True):
        vocabulary = GeneVocabulary.from_file(SCLM_DATA / "vocab" / file, special_tokens=("<pad>", "<mask>"))
        coverage = vocabulary.map_genes(adata.var_names, species=species, counts=counts).coverage
        print(f"{name} × {file}: {coverage.summary()}")
        as_written = np.array([gene in vocabulary for gene in adata.var_names])
        assert coverage.count_share >= max(floor, counts[as_written].sum() / counts.sum())
        assert len(coverage.matched) >= as_written.sum() - len(coverage.duplicated)
