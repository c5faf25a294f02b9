"""scVI: a variational autoencoder of counts that is told the batch, whose latent space leaves batches out.

Source: Lopez et al., Nature Methods 15, 1053-1058 (2018), through its own package `scvi-tools`.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import ConfigurationError, require
from ..baselines.baseline import log1p_cp10k
from ..baselines.measured import mean_and_variance

FEWEST_CELLS = 20
"""scVI holds a tenth of the cells out."""


def check_scvi(n_cells: int) -> None:
    """Refuse what scVI cannot be trained on, before anything else is computed.

    Raises:
        ConfigurationError: there are too few cells.
        MissingDependencyError: scvi-tools is not installed.
    """
    _scvi()
    if n_cells < FEWEST_CELLS:
        raise ConfigurationError(f"scVI needs {FEWEST_CELLS} cells to train on, got {n_cells}: leave it out.")


def scvi_embedding(
    counts: Any,
    batches: Sequence[str] | np.ndarray,
    *,
    n_genes: int = 2000,
    n_epochs: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """(n_cells, 10) float32: means of the latent space of scVI, trained on these cells with its default settings.

    Args:
        counts: (n_cells, genes) raw counts.
        batches: (n_cells,) batch of each cell.
        n_genes: the most variable genes, by log-normalised counts, that it reads; all where there are fewer.
        n_epochs: passes over the cells; by default as many as scVI takes for so many cells, at most 400.
        seed: seed of weights, batches and dropout.

    Raises:
        ConfigurationError: there are too few cells.
        MissingDependencyError: scvi-tools is not installed.
    """
    torch, anndata = require("torch", extra="scvi"), require("anndata", extra="scvi")
    check_scvi(counts.shape[0])
    scvi = _scvi()
    variances = mean_and_variance(log1p_cp10k(counts))[1]
    read = np.sort(np.argsort(-variances, kind="stable")[:n_genes])
    cells = anndata.AnnData(counts[:, read], obs={"batch": np.asarray(batches, str)})
    with torch.random.fork_rng(), _numpy_as_it_was(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
        model = scvi.model.SCVI(cells)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        model.train(max_epochs=n_epochs, enable_checkpointing=False, **quiet)
        found = model.get_latent_representation()
    return np.asarray(found, np.float32)


@contextlib.contextmanager
def _numpy_as_it_was() -> Iterator[None]:
    """Give numpy back the state that scVI's seed sets, however training ends."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _scvi() -> ModuleType:
    """The package, which then says errors only, as do the ones below it."""
    found = require("scvi", extra="scvi")
    for name in ("scvi", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return found
