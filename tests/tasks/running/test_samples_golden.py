"""`embed` by sample against what CellPLM's own pipeline gave for an AnnData."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from transformers import AutoModel, AutoProcessor

from sclm_hf import embed
from sclm_hf.modeling.cellplm.convert_cellplm import convert_checkpoint
from sclm_hf.tasks.files.file_to_file import run_files

pytestmark = pytest.mark.filterwarnings("ignore:.*are taken for one sample")

GOLDEN = Path(__file__).parents[2] / "golden" / "cellplm"
PARTS = {"embedding": "batch", "embedding_chunk5": "chunk", "embedding_nobatch": None}
"""What was recorded -> the column that groups the cells so."""


def recorded(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / case / "io.npz") as arrays:
        return {name.removeprefix("pipe."): arrays[name] for name in arrays.files if name.startswith("pipe.")}


def cells_of(pipe: dict[str, np.ndarray]) -> anndata.AnnData:
    """The AnnData: counts with genes that the model does not know, interleaved samples, and pieces of five of them."""
    obs = pd.DataFrame({"batch": pipe["batch"]}, index=[f"cell {number}" for number in range(len(pipe["batch"]))])
    place = obs.groupby("batch").cumcount()
    obs["chunk"] = obs["batch"] + " " + (place // 5).astype(str)
    return anndata.AnnData(scipy.sparse.csr_matrix(pipe["x"]), obs=obs, var=pd.DataFrame(index=pipe["var"]))


@pytest.fixture(scope="module", params=["case_a", "case_b"])
def case(request, tmp_path_factory):
    """Name, converted folder, recorded arrays and cells."""
    folder = tmp_path_factory.mktemp(request.param)
    convert_checkpoint(GOLDEN / request.param / "model.config.json", folder / "model")
    pipe = recorded(request.param)
    return request.param, folder / "model", pipe, cells_of(pipe)


def grouped(cells: anndata.AnnData, column: str | None) -> anndata.AnnData:
    """The cells without a batch column where none is meant."""
    cells = cells.copy()
    if column is None:
        del cells.obs["batch"]
    return cells


@pytest.mark.parametrize(("name", "column"), PARTS.items())
def test_embed_gives_what_was_recorded(case, name, column):
    _, folder, pipe, cells = case
    model = AutoModel.from_pretrained(folder)
    is_mixture = model.config.latent_type == "gmvae"
    if is_mixture:
        replay(model, pipe[f"{name.removeprefix('embedding')}_noise_gumbel_u".strip("_")])
    found = embed(grouped(cells, column), model, AutoProcessor.from_pretrained(folder), batch_key=column)
    np.testing.assert_allclose(found.obsm["X_cellplm"], pipe[name], atol=1e-5)


def replay(model, uniforms: np.ndarray) -> None:
    """Let a model draw the components of cells from recorded numbers, in the order in which it reads them."""
    forward, rest = model.forward, [torch.from_numpy(uniforms)]

    def replayed(input_ids, expression_values, **inputs):
        draws, rest[0] = rest[0].split([len(expression_values), len(rest[0]) - len(expression_values)])
        return forward(input_ids, expression_values, cluster_uniforms=draws, **inputs)

    model.forward = replayed


def test_samples_are_read_in_the_order_of_the_original(case):
    name, _, pipe, cells = case
    if "noise_order" not in pipe:
        pytest.skip(f"nothing is drawn in {name}")
    np.testing.assert_array_equal(np.argsort(cells.obs["batch"].to_numpy(), kind="stable"), pipe["noise_order"])


def test_embed_is_the_model_called_on_each_sample_without_chance(case, tmp_path):
    _, folder, _, cells = case
    found = embed(cells, folder, device="cpu").obsm["X_cellplm"]
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    model.config.stochastic_latent = False
    for batch in cells.obs["batch"].unique():
        rows = (cells.obs["batch"] == batch).to_numpy()
        with torch.no_grad():
            alone = model(**processor(cells[rows], return_tensors="pt")).cell_embedding
        np.testing.assert_allclose(found[rows], alone, atol=1e-5)
    np.testing.assert_array_equal(embed(cells, folder, device="cpu", batch_size=3).obsm["X_cellplm"], found)
    cells.write_h5ad(tmp_path / "in.h5ad")
    ((path, _),) = run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", folder, device="cpu")
    np.testing.assert_allclose(anndata.read_h5ad(path).obsm["X_cellplm"], found, atol=1e-6)


def test_chunks_change_nothing_but_rounding(case):
    _, folder, _, cells = case
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    whole = embed(cells, model, processor, device="cpu").obsm["X_cellplm"]
    model.config.chunk_size = 3
    np.testing.assert_allclose(embed(cells, model, processor, device="cpu").obsm["X_cellplm"], whole, atol=1e-5)
