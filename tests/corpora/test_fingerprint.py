"""The same cells are recognised whatever they lie in, and others are told apart."""

from sclm_hf import CellCorpus
from sclm_hf.corpora.fingerprint import fingerprint

from .conftest import make_cells


def changed(folder, processor, change):
    """The fingerprint of a file, and what is another in it after a change."""
    folder.mkdir()
    cells = make_cells(30)
    cells.write_h5ad(folder / "a.h5ad")
    before = fingerprint(CellCorpus(folder, processor))["a"]
    change(cells)
    cells.write_h5ad(folder / "a.h5ad")
    now = fingerprint(CellCorpus(folder, processor))["a"]
    return {what for what in before if before[what] != now[what]}


def test_names_and_counts_are_told_apart(tmp_path, processor):
    def rename(cells):
        cells.obs_names = [f"new {name}" for name in cells.obs_names]

    def recount(cells):
        cells.X = cells.X * 2

    assert changed(tmp_path / "same", processor, lambda cells: None) == set()
    assert changed(tmp_path / "names", processor, rename) == {"names"}
    assert changed(tmp_path / "counts", processor, recount) == {"counts"}


def test_cells_that_are_not_used_do_not_matter(folder, processor):
    whole, part = (fingerprint(CellCorpus(folder, processor, **some)) for some in ({}, {"where": {"donor": "d1"}}))
    assert whole != part == fingerprint(CellCorpus(folder, processor, where={"donor": "d1"}))
