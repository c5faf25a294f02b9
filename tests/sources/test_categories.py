import numpy as np
import pytest

from sclm_hf.errors import CorpusError
from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.sources.categories import drop_unlabelled, number_categories

from ..corpora.conftest import make_cells


@pytest.fixture
def sources(tmp_path):
    first, second = make_cells(20, 1), make_cells(10, 2)
    first.obs["kind"] = ["b"] * 10 + ["a"] * 10
    second.obs["kind"] = ["c"] * 9 + [None]
    for name, cells in (("first", first), ("second", second)):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    return [H5adSource(tmp_path / f"{name}.h5ad") for name in ("first", "second")]


def test_names_are_those_of_the_cells_used(sources):
    names, codes = number_categories("kind", sources, [None, np.arange(9)], None)
    assert names == ["a", "b", "c"]
    assert [column.tolist() for column in codes] == [[1] * 10 + [0] * 10, [2] * 9]
    names, codes = number_categories("kind", sources, [np.arange(3), np.arange(2)], None)
    assert (names, [column.tolist() for column in codes]) == (["b", "c"], [[0] * 3, [1] * 2])


def test_names_given_keep_their_numbers(sources):
    names, codes = number_categories("kind", sources, [None, np.arange(9)], ["c", "x", "b", "a"])
    assert names == ["c", "x", "b", "a"]
    assert [column.tolist() for column in codes] == [[2] * 10 + [3] * 10, [0] * 9]
    assert codes[0].dtype == np.int8


def test_problems_are_named(sources):
    with pytest.raises(CorpusError, match=r"second\.h5ad`: 1 of 10 cells have no value in.*\['kind'\].*notna\(\)"):
        number_categories("kind", sources, [None, None], None)
    with pytest.raises(CorpusError, match=r"first\.h5ad`.*\['a'\], not among the 2 names"):
        number_categories("kind", sources, [None, np.arange(9)], ["b", "c"])
    with pytest.raises(CorpusError, match=r"first\.h5ad` has no obs column `tissue`"):
        number_categories("tissue", sources, [None, None], None)
    with pytest.raises(CorpusError, match="one twice"):
        number_categories("kind", sources, [None, np.arange(9)], ["a", "b", "c", "a"])


@pytest.mark.parametrize("text", ["nan", "NA", "None", "<NA>", ""])
def test_texts_that_stand_for_no_value_become_no_class(tmp_path, text):
    cells = make_cells(10)
    cells.obs["kind"] = ["a"] * 9 + [text]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    sources = [H5adSource(tmp_path / "cells.h5ad")]
    with pytest.raises(CorpusError, match=rf"cells\.h5ad`: some .*\['{text}'\] in `obs\['kind'\]`"):
        number_categories("kind", sources, [None], None)
    assert number_categories("kind", sources, [np.arange(9)], None)[0] == ["a"]
    assert number_categories("kind", sources, [None], [text, "a"])[1][0].tolist() == [1] * 9 + [0]


def test_cells_without_a_label_are_left_out_where_that_is_asked_for(sources):
    rows, dropped = drop_unlabelled(sources, [None, np.arange(5, 10)], ["kind"])
    assert rows[0] is None and rows[1].tolist() == [5, 6, 7, 8]
    assert dropped == {"first": 0, "second": 1}


@pytest.mark.parametrize("placeholder", ["", "nan", "NA", "None", "<NA>"])
def test_texts_that_stand_for_no_label_are_refused_or_left_out(tmp_path, placeholder):
    cells = make_cells(6, 1)
    cells.obs["kind"] = ["unknown", "doublet", placeholder, "unassigned", "a", "a"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    sources = [H5adSource(tmp_path / "cells.h5ad")]
    with pytest.raises(CorpusError, match=r"\['" + placeholder + r"'\] in `obs\['kind'\]`.*--unlabelled drop"):
        number_categories("kind", sources, [None], None)
    rows, _ = drop_unlabelled(sources, [None], ["kind"])
    assert number_categories("kind", sources, rows, None)[0] == ["a", "doublet", "unassigned", "unknown"]
