"""`embed` and `annotate` where the model sees the cells of a sample together."""

import dataclasses
import os

import anndata
import numpy as np
import pytest
import torch

from sclm_hf import annotate, embed
from sclm_hf.errors import ConfigurationError, CorpusError, SclmError, SclmWarning
from sclm_hf.registry import FAMILIES
from sclm_hf.tasks.files import pieces
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.running import batches

from ..sample_model import make_cells, make_model, make_processor


@pytest.fixture(autouse=True)
def family(monkeypatch):
    """The family of the model at hand asks for no other settings."""
    monkeypatch.setitem(
        FAMILIES, "cellplm", dataclasses.replace(FAMILIES["scgpt"], name="cellplm", embed_overrides={})
    )


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture
def model():
    return make_model()


def by_hand(cells, model, batches, result="cell_embedding") -> np.ndarray:
    """Every sample through the model on its own."""
    values = torch.tensor(cells.X.toarray()[:, :0:-1].copy())
    found = np.empty((cells.n_obs, 4 if result == "cell_embedding" else 3), np.float32)
    for batch in np.unique(batches):
        rows = batches == batch
        ids = torch.arange(values.shape[1])
        output = model(ids, values[rows].to_sparse(), torch.ones(rows.sum()))
        found[rows] = output[result].detach().numpy()
    return found


def test_each_sample_goes_to_the_model_whole(model, processor):
    cells = make_cells()
    found = embed(cells, model, processor).obsm["X_cellplm"]
    assert [n_cells for n_cells, _ in model.calls] == [16, 8, 16]
    np.testing.assert_allclose(found, by_hand(cells, model, cells.obs["batch"].to_numpy()), atol=1e-5)


def test_batch_size_and_order_change_nothing(model, processor, monkeypatch):
    cells = make_cells()
    whole = embed(cells, model, processor).obsm["X_cellplm"]
    monkeypatch.setattr(batches, "BLOCK_SIZE", 5)
    np.testing.assert_array_equal(embed(cells, model, processor, batch_size=1).obsm["X_cellplm"], whole)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    shuffled = embed(cells[order].copy(), model, processor).obsm["X_cellplm"]
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-6)
    sample = embed(cells[cells.obs["batch"] == "b"].copy(), model, processor).obsm["X_cellplm"]
    np.testing.assert_allclose(sample, whole[cells.obs["batch"] == "b"], atol=1e-6)


def test_batch_key_names_the_column_and_the_record_says_which(model, processor):
    cells = make_cells()
    by_batch = embed(cells, model, processor)
    assert by_batch.uns["sclm_hf"]["X_cellplm"]["samples"] == {"column": "batch", "number": 3}
    together = embed(cells, model, processor, batch_key="whole")
    assert together.uns["sclm_hf"]["X_cellplm"]["samples"] == {"column": "whole", "number": 1}
    np.testing.assert_allclose(together.obsm["X_cellplm"], by_hand(cells, model, np.zeros(cells.n_obs)), atol=1e-5)
    del cells.obs["batch"]
    with pytest.warns(SclmWarning, match="its cells are taken for one sample"):
        without = embed(cells, model, processor)
    assert without.uns["sclm_hf"]["X_cellplm"]["samples"] == {"column": "", "number": 1}
    np.testing.assert_array_equal(without.obsm["X_cellplm"], together.obsm["X_cellplm"])


def test_annotate(model, processor):
    cells = make_cells()
    found = annotate(cells, model, processor)
    logits = torch.tensor(by_hand(cells, model, cells.obs["batch"].to_numpy(), "logits"))
    np.testing.assert_allclose(found.obsm["sclm_probabilities"], logits.softmax(-1), atol=1e-5)
    assert found.obs["sclm_prediction"].tolist() == [f"LABEL_{label}" for label in logits.argmax(-1).tolist()]


def test_what_tells_no_samples_apart_is_refused(model, processor):
    cells = make_cells()
    with pytest.raises(ConfigurationError, match=r"got 'site'; there are \['batch', 'whole'\]"):
        embed(cells, model, processor, batch_key="site")
    cells.obs["barcode"] = cells.obs_names
    with pytest.raises(ConfigurationError, match=r"another value for each of the 40 cells.*`batch_key`"):
        embed(cells, model, processor, batch_key="barcode")
    cells.obs["batch"] = cells.obs["batch"].replace("a", np.nan)
    with pytest.raises(CorpusError, match=r"16 of 40 cells have no value in `obs\['batch'\]`"):
        embed(cells, model, processor)


def test_numbers_tell_samples_apart_too(model, processor):
    cells = make_cells()
    expected = embed(cells, model, processor).obsm["X_cellplm"]
    cells.obs["batch"] = cells.obs["batch"].map({"a": 1, "b": 2, "c": 3})
    np.testing.assert_array_equal(embed(cells, model, processor).obsm["X_cellplm"], expected)


def test_a_sample_that_does_not_fit_is_computed_in_smaller_pieces(model, processor):
    cells, forward, sizes = make_cells(), model.forward, []

    def small_memory(input_ids, expression_values, attention_mask):
        sizes.append(min(model.config.chunk_size or 1000, len(attention_mask)))
        if sizes[-1] > 5:
            raise MemoryError
        return forward(input_ids, expression_values, attention_mask)

    model.forward = small_memory
    with pytest.warns(SclmWarning) as told:
        found = embed(cells, model, processor).obsm["X_cellplm"]
    assert "sample of 16 cells: going on with 4 of them at a time" in str(told[-1].message)
    assert sizes == [16, 8, 4, 4, 4] and model.config.chunk_size is None
    model.forward = forward
    np.testing.assert_array_equal(found, embed(cells, model, processor).obsm["X_cellplm"])


def test_memory_for_no_cell_is_an_error(model, processor):
    def no_memory(*args, **kwargs):
        raise MemoryError

    model.forward = no_memory
    with pytest.warns(SclmWarning), pytest.raises(SclmError, match="Memory ran out with a sample of 16 cells"):
        embed(make_cells(), model, processor)


@pytest.fixture
def source(tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def test_files_get_what_the_functions_give(source, model, processor, tmp_path):
    cells = anndata.read_h5ad(source)
    ((path, _),) = run_files("embed", source, tmp_path / "out.h5ad", model, processor)
    written, expected = anndata.read_h5ad(path), embed(cells, model, processor)
    np.testing.assert_array_equal(written.obsm["X_cellplm"], expected.obsm["X_cellplm"])
    assert written.uns["sclm_hf"]["X_cellplm"]["samples"] == expected.uns["sclm_hf"]["X_cellplm"]["samples"]
    ((path, _),) = run_files("annotate", source, tmp_path / "labels.h5ad", model, processor)
    written, expected = anndata.read_h5ad(path), annotate(cells, model, processor)
    assert written.obs["sclm_prediction"].tolist() == expected.obs["sclm_prediction"].tolist()
    np.testing.assert_array_equal(written.obs["sclm_confidence"], expected.obs["sclm_confidence"])


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_stopped_run_goes_on_with_the_next_sample(source, model, processor, tmp_path, monkeypatch, stop):
    expected = embed(anndata.read_h5ad(source), model, processor).obsm["X_cellplm"]
    save = pieces.Pieces.save

    def save_or_stop(self, number, piece):
        if number == stop:
            raise KeyboardInterrupt
        save(self, number, piece)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pieces.Pieces, "save", save_or_stop)
        run_files("embed", source, tmp_path / "out.h5ad", model, processor)
    model.calls.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model, processor)
    assert [n_cells for n_cells, _ in model.calls] == [16, 8, 16][stop:]
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_cellplm"], expected)
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad"]


def test_a_backed_file_is_read_sample_by_sample(source, model, processor):
    expected = embed(anndata.read_h5ad(source), model, processor).obsm["X_cellplm"]
    backed = anndata.read_h5ad(source, backed="r")
    np.testing.assert_array_equal(embed(backed, model, processor, copy=False).obsm["X_cellplm"], expected)
