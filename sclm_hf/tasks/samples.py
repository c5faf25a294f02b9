"""Samples of an AnnData for models whose tokens are cells: which cells belong together, and all of them at a time."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..corpora.samples import SAMPLE_COLUMN
from ..errors import ConfigurationError, SclmError, require
from ..logging import get_logger, warn
from .stored_rows import read_rows

if TYPE_CHECKING:
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from .inference import PreparedCells

logger = get_logger(__name__)


class Samples(NamedTuple):
    """Which cells belong together.

    Attributes:
        column: the column of `obs` that says so; None = all cells are one sample.
        rows: (cells,) ascending rows of each sample.
    """

    column: str | None
    rows: list[np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """What a record says of them."""
        return {"column": self.column, "number": len(self.rows)}


def find_samples(adata: "AnnData", batch_key: str | None) -> Samples:
    """The samples of an AnnData, in the order of their names.

    Args:
        adata: the cells.
        batch_key: column of `obs`; by default `obs["batch"]`, without which all cells are one sample.

    Raises:
        ConfigurationError: the column named is not there, a cell has no value in it, or each has another one.
    """
    if batch_key is None and SAMPLE_COLUMN not in adata.obs:
        logger.warning(
            f"There is no `obs[{SAMPLE_COLUMN!r}]`: the {adata.n_obs:,} cells are taken for one sample; name the "
            "column that tells samples apart with `batch_key` (`--batch-key`)."
        )
        return Samples(None, [np.arange(adata.n_obs)])
    column = batch_key or SAMPLE_COLUMN
    if column not in adata.obs:
        raise ConfigurationError(
            f"`batch_key` (`--batch-key`) must name the column of `obs` that tells samples apart, got {column!r}; "
            f"there are {list(adata.obs.columns)}."
        )
    codes, names = require("pandas", extra="anndata").factorize(_texts(adata.obs[column], column), sort=True)
    if len(names) == adata.n_obs > 1:
        raise ConfigurationError(
            f"`obs[{column!r}]` has another value for each of the {adata.n_obs:,} cells, and no sample would have "
            "more than one: name with `batch_key` (`--batch-key`) the column that tells samples apart."
        )
    ends = np.cumsum(np.bincount(codes))
    return Samples(column, np.split(np.argsort(codes, kind="stable"), ends[:-1]))


def _texts(values: Any, column: str) -> np.ndarray:
    """(n_cells,) values of a column as strings."""
    pandas = require("pandas", extra="anndata")
    values = np.asarray(values, dtype=object)
    missing = pandas.isna(values) | (values == "")
    if missing.any():
        raise ConfigurationError(
            f"{missing.sum():,} of {len(values):,} cells have no value in `obs[{column!r}]`, which tells samples "
            "apart: fill them in, or leave these cells out."
        )
    return values.astype(str)


def sample_inputs(loaded: "LoadedModel", cells: "PreparedCells", rows: np.ndarray, seed: int) -> dict[str, Any]:
    """The inputs of a model for one sample, its (cells, genes) counts without their zeros (`torch.sparse_coo`)."""
    import torch

    processor, matrix = loaded.processor, read_rows(cells.matrix, rows)
    how = {"cell_ids": cells.cell_ids[rows], "rows": rows, "seed": seed, "check": False}
    input_ids, counts = processor.sparse(processor.tokens(matrix, cells.gene_ids, **how))
    counts = counts.tocoo()
    places, values = torch.from_numpy(np.stack(counts.coords).astype(np.int64)), torch.from_numpy(counts.data)
    how = {"is_coalesced": True, "check_invariants": False}
    values = torch.sparse_coo_tensor(places, values, counts.shape, **how)
    return {
        "input_ids": torch.from_numpy(input_ids),
        # MPS has no sparse tensors
        "expression_values": values.to_dense() if loaded.model.device.type == "mps" else values,
        "attention_mask": torch.ones(len(rows), dtype=torch.int64),
    }


def halve_chunks(config: Any, n_cells: int) -> None:
    """Let a model compute half as many cells at a time, with a warning; results stay the same.

    Raises:
        SclmError: it is a single cell already.
    """
    chunk_size = min(config.chunk_size or n_cells, n_cells)
    if chunk_size == 1:
        raise SclmError(
            f"Memory ran out with a sample of {n_cells:,} cells: use `dtype='bfloat16'`, a device with more memory, "
            "or smaller samples."
        )
    config.chunk_size = chunk_size // 2
    warn(f"Memory ran out with a sample of {n_cells:,} cells: going on with {chunk_size // 2} of them at a time.")
