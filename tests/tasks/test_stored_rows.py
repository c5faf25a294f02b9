import anndata
import h5py
import numpy as np
import pytest

from sclm_hf import ScGPTForSequenceClassification, annotate, embed
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.tasks import stored_rows

from .tiny import make_cells, make_model, make_processor

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


@pytest.mark.parametrize("copy", [True, False])
def test_backed_cells_give_what_cells_in_memory_give(backed, monkeypatch, copy):
    monkeypatch.setattr(stored_rows, "BLOCK_SIZE", 5)
    model, processor = make_model(ScGPTForSequenceClassification), make_processor()
    settings = {"batch_size": 4, "copy": copy}
    expected = annotate(embed(make_cells(), model, processor, batch_size=4), model, processor, batch_size=4)
    result = annotate(embed(backed, model, processor, **settings), model, processor, **settings)
    np.testing.assert_array_equal(result.obsm["X_scgpt"], expected.obsm["X_scgpt"])
    np.testing.assert_array_equal(result.obsm["sclm_probabilities"], expected.obsm["sclm_probabilities"])
    assert result.obs["sclm_prediction"].tolist() == expected.obs["sclm_prediction"].tolist()
    assert str(result.uns["sclm_hf"]["X_scgpt"]["coverage"]) == str(expected.uns["sclm_hf"]["X_scgpt"]["coverage"])
    assert (result is backed, result.isbacked) == (not copy, not copy)


@pytest.mark.parametrize("storage", ["csr", "dense"])
def test_no_more_than_a_block_is_read_at_once(storage, tmp_path, monkeypatch):
    cells = make_cells()
    cells.X = FORMATS[storage](cells.X)
    backed, sizes = write(tmp_path, cells), []
    as_csr = stored_rows.as_csr
    monkeypatch.setattr(stored_rows, "BLOCK_SIZE", 5)
    monkeypatch.setattr(stored_rows, "as_csr", lambda part: sizes.append(part.shape[0]) or as_csr(part))
    embed(backed, make_model(), make_processor(), batch_size=4, copy=False)
    # all cells twice before the work, then once more
    assert sizes == [5, 5, 5, 5, 3] * 2 + [4, 4, 4, 4, 4, 3]


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
        file["X/data"][file["X/indptr"][13]] = np.nan
    monkeypatch.setattr(stored_rows, "BLOCK_SIZE", 5)
    with pytest.raises(ExpressionError, match=r"NaN.*rows 13\)"):
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        embed(backed, make_model(), make_processor(), copy=False)
