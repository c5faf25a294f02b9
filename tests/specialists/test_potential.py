"""Regulatory potential of peaks for genes."""

import pandas
import pytest

from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.specialists.peaks import read_peaks
from sclm_hf.specialists.potential import read_gene_positions, regulatory_potential

TABLE = pandas.DataFrame(
    {"gene": ["A", "B", "A", "C"], "chrom": ["chr1", "chr2", "chr9", "chrX"], "tss": [1000, 5, 7, 9]}
)


def test_potential_halves_with_distance():
    positions = read_gene_positions(TABLE, ["B", "A"])
    assert positions == {"A": ["chr1", 1000], "B": ["chr2", 5]}
    peaks = ["chr1:900-1100", "chr1-10900-11100", "chr1:999000-999100", "chr3:1-9", "chr1:0-400"]
    found = regulatory_potential(["A", "B"], positions, peaks).toarray()
    assert found[0].tolist() == pytest.approx([1, 0.5, 0, 0, 2**-0.08])
    assert not found[1].any()


def test_names_of_peaks():
    peaks = read_peaks(["chr1:5-9", "chr1-5-9", "chr1_5_9", "chrUn_KI270742v1-5-9", "HLA-A:5-9"])
    assert [peak.chromosome for peak in peaks] == ["chr1", "chr1", "chr1", "chrUn_KI270742v1", "HLA-A"]
    assert {peak[1:] for peak in peaks} == {(5, 9)}
    for name in ("GENE1", "chr1:9-5", "chr1-5"):
        with pytest.raises(ConfigurationError, match=f"{name!r} names no peak"):
            read_peaks([name])


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_positions_from_a_file(tmp_path, suffix):
    file = tmp_path / f"genes.{suffix}"
    TABLE.to_csv(file, sep="," if suffix == "csv" else "\t", index=False)
    assert read_gene_positions(str(file), ["C"]) == {"C": ["chrX", 9]}


def test_genes_without_a_position_are_told():
    with pytest.warns(SclmWarning, match="1 of 2 genes have no position"):
        read_gene_positions(TABLE, ["A", "Z"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "joined to genes by their distance"),
        (TABLE.drop(columns="tss"), "no column 'tss', but gene, chrom"),
        ("absent.csv", "no file `absent.csv`"),
        (3, "got int"),
        (TABLE.assign(tss="here"), "no number, but 'here'"),
        (TABLE.assign(tss=float("inf")), "no number, but inf"),
        (TABLE.assign(gene="Z"), "None of the 1 genes"),
    ],
)
def test_other_tables_are_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        read_gene_positions(given, ["A"])


def test_other_peaks_are_refused():
    with pytest.raises(ConfigurationError, match="'peak 7' names no peak"):
        read_peaks(["chr1:1-2", "peak 7"])
    with pytest.raises(ConfigurationError, match="named like '1', those of `gene_positions` like 'chr1'"):
        regulatory_potential(["A"], {"A": ["chr1", 5]}, ["1:1-9"])
    with pytest.raises(ConfigurationError, match=r"though chromosomes are named alike: .*raise `half_distance`"):
        regulatory_potential(["A"], {"A": ["chr1", 10_000_000]}, ["chr1:1-9"])
