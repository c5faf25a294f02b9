"""Names of genes as settings give them."""

from pathlib import Path

import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.running.gene_names import read_names


def test_names_come_as_a_list_as_text_or_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "genes").write_text("B\n\nA.1\r\nB\n")
    monkeypatch.chdir(tmp_path)
    assert read_names("genes", "`genes`") == ["genes"]  # a file that is called like a gene
    for given in (["B", "A.1", "B"], "B, A.1 ,", tmp_path / "genes", str(tmp_path / "genes")):
        assert read_names(given, "`genes`") == ["B", "A.1"]
    assert read_names(None, "`genes`") is None
    many = [f"GENE{number}" for number in range(2000)]
    assert read_names(",".join(many), "`genes`") == many


@pytest.mark.parametrize(
    ("given", "told"),
    [("no.txt", "no file `no.txt`"), (Path("no"), "no file `no`"), ([], "no genes"), (" ", "no genes")],
)
def test_what_names_no_genes_is_refused(given, told):
    with pytest.raises(ConfigurationError, match=f"`genes`.*{told}"):
        read_names(given, "`genes`")
