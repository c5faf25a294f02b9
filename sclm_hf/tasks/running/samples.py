"""Whole samples through models whose tokens are cells."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import SclmError
from ...logging import warn

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel
    from .prepared_cells import PreparedCells


def sample_inputs(loaded: "LoadedModel", cells: "PreparedCells", rows: np.ndarray, seed: int) -> dict[str, Any]:
    """The inputs of a model for one sample; counts (cells, genes) come without their zeros (`torch.sparse_coo`)."""
    import torch

    tokens = cells.tokens(loaded.processor, rows, seed)
    if loaded.processor.feature_extractor.value_encoding.has_zeros:
        return {name: torch.from_numpy(values) for name, values in loaded.processor.padded(tokens).items()}
    input_ids, counts = loaded.processor.sparse(tokens)
    counts = counts.tocoo()
    places, values = torch.from_numpy(np.stack(counts.coords).astype(np.int64)), torch.from_numpy(counts.data)
    values = torch.sparse_coo_tensor(places, values, counts.shape, is_coalesced=True, check_invariants=False)
    return {
        "input_ids": torch.from_numpy(input_ids),
        # MPS has no sparse tensors
        "expression_values": values.to_dense() if loaded.model.device.type == "mps" else values,
        "attention_mask": torch.ones(len(rows), dtype=torch.int64),
    }


def halve_chunks(config: Any, n_cells: int) -> None:
    """Make a model compute half as many cells at a time, with a warning; results stay the same.

    Raises:
        SclmError: it is a single cell already.
    """
    chunk_size = min(config.chunk_size or n_cells, n_cells)
    if chunk_size == 1:
        raise SclmError(
            f"Memory ran out with a sample of {n_cells:,} cells: use `dtype='bfloat16'` (`--dtype bfloat16`), a "
            "device with more memory, or smaller samples."
        )
    config.chunk_size = chunk_size // 2
    warn(f"Memory ran out with a sample of {n_cells:,} cells: going on with {chunk_size // 2} of them at a time.")
