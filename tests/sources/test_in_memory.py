import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from sclm_hf import ScGPTForSequenceClassification, annotate, embed
from sclm_hf.errors import ConfigurationError, CorpusError, ExpressionError
from sclm_hf.sources import survey
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.sources.opening import open_source

from ..tasks.tiny import make_cells, make_model, make_processor
from .old_files import write_compound

FORMATS = {
    "csr": lambda matrix: matrix,
    "csc": lambda matrix: matrix.tocsc(),
    "dense": lambda matrix: matrix.toarray(),
}


def write(folder, cells):
    cells.write_h5ad(folder / "cells.h5ad")
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r")


@pytest.fixture(params=FORMATS)
def backed(request, tmp_path):
    cells = make_cells()
    cells.X = FORMATS[request.param](cells.X)
    return write(tmp_path, cells)


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("rows", [[], [4], [3, 4, 5], [0, 7, 22]])
def test_rows_are_those_of_the_file(tmp_path, storage, rows):
    cells = make_cells()
    expected = cells.X[rows].toarray()
    cells.X = FORMATS[storage](cells.X)
    for kept in (cells, write(tmp_path, cells)):
        np.testing.assert_array_equal(InMemorySource(kept).read(np.array(rows, int)).toarray(), expected)


@pytest.mark.parametrize(
    "values", [["b", "a", None, "b", "a"], [1, 2, 1, 3, 1], [0.5, np.nan, 1, 2, 0.5], [True, False, True, True, True]]
)
@pytest.mark.parametrize("kind", [None, "category"])
def test_columns_names_and_ids_are_those_of_the_file(tmp_path, values, kind):
    cells = make_cells(5)
    cells.obs["kind"] = values
    cells.obs["kind"] = cells.obs["kind"].astype(kind) if kind else cells.obs["kind"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    source, stored = InMemorySource(cells), open_source("cells", tmp_path / "cells.h5ad")
    found, expected = source.column("kind"), stored.column("kind")
    assert found.categories == expected.categories
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert source.column_names() == stored.column_names()
    np.testing.assert_array_equal(source.obs_names(), stored.obs_names())
    np.testing.assert_array_equal(source.cell_ids(), stored.cell_ids())
    with pytest.raises(CorpusError, match=r"no column `absent`; it has \['batch', 'kind'\]"):
        source.column("absent")


@pytest.mark.parametrize("copy", [True, False])
def test_backed_cells_give_what_cells_in_memory_give(backed, monkeypatch, copy):
    monkeypatch.setattr(survey, "CELLS_AT_ONCE", 5)
    model, processor = make_model(ScGPTForSequenceClassification), make_processor()
    settings = {"batch_size": 4, "copy": copy}
    expected = annotate(embed(make_cells(), model, processor, batch_size=4), model, processor, batch_size=4)
    result = annotate(embed(backed, model, processor, **settings), model, processor, **settings)
    np.testing.assert_array_equal(result.obsm["X_scgpt"], expected.obsm["X_scgpt"])
    np.testing.assert_array_equal(result.obsm["sclm_probabilities"], expected.obsm["sclm_probabilities"])
    assert result.obs["sclm_prediction"].tolist() == expected.obs["sclm_prediction"].tolist()
    assert str(result.uns["sclm_hf"]["X_scgpt"]["coverage"]) == str(expected.uns["sclm_hf"]["X_scgpt"]["coverage"])
    assert (result is backed, result.isbacked) == (not copy, not copy)


def test_raw_on_disk_and_parts_of_backed_cells(tmp_path):
    cells, model, processor = make_cells(), make_model(), make_processor()
    expected = embed(cells, model, processor).obsm["X_scgpt"]
    cells.raw = cells
    cells.X = cells.X * 0.37
    backed = write(tmp_path, cells)
    result = embed(backed, model, processor, copy=False)
    assert result.uns["sclm_hf"]["X_scgpt"]["data"] == "raw"
    np.testing.assert_allclose(result.obsm["X_scgpt"], expected, atol=1e-5)
    part = embed(backed[[9, 3, 4]], model, processor)
    np.testing.assert_allclose(part.obsm["X_scgpt"], expected[[9, 3, 4]], atol=1e-5)
    model.forward = None
    with pytest.raises(ConfigurationError, match="pass `copy=True`"):
        embed(backed[[9, 3, 4]], model, processor, copy=False)


def test_messages_name_the_rows_of_the_file(tmp_path, monkeypatch):
    write(tmp_path, make_cells()).file.close()
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["X/data"][file["X/indptr"][[3, 13]]] = np.nan
    monkeypatch.setattr(survey, "CELLS_AT_ONCE", 5)
    with pytest.raises(ExpressionError, match=r"2 of 23 cells have NaN.*rows 3, 13\)"):
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        embed(backed, make_model(), make_processor(), copy=False)


def test_the_frame_of_a_file_has_the_types_of_its_columns(tmp_path):
    cells = make_cells(5)
    cells.obs["kind"], cells.obs["size"] = pd.Categorical(["b", "a", None, "b", "a"]), np.arange(5) / 2
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    assert InMemorySource(cells).obs_frame() is cells.obs
    for name in ("cells.h5ad", "cells.zarr"):
        pd.testing.assert_frame_equal(open_source("cells", tmp_path / name).obs_frame(), cells.obs)
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["obs/size"]
        file["obs/size"] = np.arange(4)
    with pytest.raises(CorpusError, match="/obs/size"):
        open_source("cells", tmp_path / "cells.h5ad").obs_frame()


def test_the_frame_of_an_old_file_has_categories(tmp_path):
    cells = make_cells(5)
    cells.obs["cell_type"], cells.obs["donor"] = pd.Categorical(["b", "a", "a", "b", "a"]), list("xyxyx")
    write_compound(tmp_path / "old.h5ad", cells)
    found = open_source("old", tmp_path / "old.h5ad").obs_frame()
    assert found.index.tolist() == cells.obs_names.tolist()
    assert found["cell_type"].tolist() == list("baaba") and found["donor"].tolist() == list("xyxyx")
