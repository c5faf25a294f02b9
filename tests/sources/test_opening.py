import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.sources.opening import name_paths, open_source, select_rows


def test_name_paths_takes_files_folders_and_mappings(folder):
    files = {name: folder / f"{name}.h5ad" for name in ("one", "three", "two")}
    assert name_paths(folder) == files
    assert name_paths([str(files["one"]), files["two"]]) == {"one": files["one"], "two": files["two"]}
    assert name_paths({"x": str(files["one"])}) == {"x": files["one"]}


def test_name_paths_refuses_doubled_names_and_nothing(folder, tmp_path):
    with pytest.raises(CorpusError, match="would share the name `one`"):
        name_paths([folder, folder / "one.h5ad"])
    with pytest.raises(CorpusError, match=r"holds no \.h5ad file, no AnnData zarr folder"):
        name_paths(tmp_path)
    with pytest.raises(CorpusError, match="at least one file"):
        name_paths([])


def test_open_source_names_what_is_missing(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing\.h5ad` does not exist"):
        open_source("nothing", tmp_path / "nothing.h5ad")
    (tmp_path / "cells.csv").write_text("a,b")
    with pytest.raises(CorpusError, match=r"no \.h5ad file: write it"):
        open_source("cells", tmp_path / "cells.csv")


def test_select_rows_by_name_path_and_mask(folder):
    named = name_paths(folder)
    sources = [open_source(name, path) for name, path in named.items()]
    mask = np.arange(33) % 2 == 0
    selected = select_rows({"one": [5, 2], named["two"]: mask}, named, sources)
    assert [None if rows is None else rows.tolist() for rows in selected] == [[2, 5], None, list(range(0, 33, 2))]
    assert len(select_rows({"one": []}, named, sources)[0]) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"one": [70]}, r"must lie in 0\.\.69"),
        ({"one": [-1]}, r"must lie in 0\.\.69"),
        ({"one": [3, 3]}, "row 3 twice"),
        ({"one": [0.5]}, "float64"),
        ({"one": [True]}, "mask of 70 booleans"),
        ({"four": [1]}, r"\['four'\], but the sources are"),
    ],
)
def test_select_rows_refuses(folder, rows, message):
    named = name_paths(folder)
    with pytest.raises(CorpusError, match=message):
        select_rows(rows, named, [open_source(name, path) for name, path in named.items()])


def test_select_rows_refuses_a_source_named_twice(folder):
    named = {"one": folder / "one.h5ad"}
    with pytest.raises(ConfigurationError, match="twice"):
        select_rows({"one": [1], named["one"]: [2]}, named, [open_source("one", named["one"])])
