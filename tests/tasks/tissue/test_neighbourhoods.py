"""Cells of tissue that are read together with their neighbours."""

import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.running.batches import run_cells
from sclm_hf.tasks.running.prepared_cells import prepare_cells
from sclm_hf.tasks.spatial import spatial
from sclm_hf.tasks.tissue.neighbourhoods import run_neighbourhoods
from sclm_hf.tasks.tissue.neighbours import read_tissue

from ..tiny import GENES, make_cells, save_checkpoint


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = make_tiny_checkpoint("cellplm", tmp_path_factory.mktemp("cellplm") / "model", genes=GENES)
    return load_model(str(folder), "AutoModel")


def tissue_cells(order=slice(None)):
    cells = make_cells(40)
    cells.obsm["spatial"] = np.random.default_rng(0).random((40, 2))
    cells.obs["slice"] = np.array(["a", "b"])[np.arange(40) % 2]
    return cells[order].copy()


def prepared(loaded, cells):
    return prepare_cells(cells, loaded, batch_key="slice")


def forward(model, batch):
    return model(**batch).cell_embedding


def around(loaded, cells, k):
    made, found = prepared(loaded, cells), np.full((len(cells), loaded.model.config.cell_embedding_size), np.nan)
    tissue = read_tissue(made.source, "spatial", "slice", k)
    for rows, values in run_neighbourhoods(loaded, made, tissue, forward, seed=0, description="test"):
        found[rows] = values
    return found


def test_a_neighbourhood_that_is_the_slice_is_the_slice(loaded):
    cells = tissue_cells()
    whole = run_cells(loaded, prepared(loaded, cells), forward, description="test")
    np.testing.assert_allclose(around(loaded, cells, 19), whole, atol=1e-5)
    assert np.abs(around(loaded, cells, 3) - whole).max() > 1e-4


def test_only_neighbours_of_the_slice_matter_and_no_order(loaded):
    cells = tissue_cells()
    expected = around(loaded, cells, 3)
    np.testing.assert_allclose(around(loaded, tissue_cells(slice(None, None, -1)), 3)[::-1], expected, atol=1e-5)
    cells.X[1] = cells.X[3] = 7
    changed = np.abs(around(loaded, cells, 3) - expected).max(axis=1) > 1e-6
    assert changed[1] and not changed[::2].any() and not changed.all()


def test_the_verb_reads_neighbourhoods_where_it_is_asked_to(loaded, tmp_path):
    how = {"sample_key": "slice", "n_subsamples": 1, "resolutions": "0.5"}
    cells, model = tissue_cells(), loaded.model
    asked = spatial(cells, model, loaded.processor, neighbourhood=4, **how)
    whole = spatial(cells, model, loaded.processor, **how)
    assert not np.allclose(asked.obsm["X_sclm_domain"], whole.obsm["X_sclm_domain"])
    assert asked.uns["sclm_hf"]["sclm_domain"]["settings"]["neighbourhood"] == 4
    with pytest.raises(ConfigurationError, match="reads each cell alone"):
        spatial(cells, save_checkpoint(tmp_path / "scgpt"), neighbourhood=4, **how)
    with pytest.raises(ConfigurationError, match=r"'a' has 20 cells.*lower `neighbourhood` \(`--neighbourhood`\)"):
        spatial(cells, model, loaded.processor, neighbourhood=20, **how)
    with pytest.raises(ConfigurationError, match="is for a model"):
        spatial(cells, use_rep="X_pca", neighbourhood=4, **how)
