"""Dual encoders small enough for tests."""

from pathlib import Path

import torch

from sclm_hf import CellTextDualEncoderModel, CellTextDualEncoderProcessor
from sclm_hf.opening.dual_encoders import new_dual_encoder, small_text_encoder
from sclm_hf.opening.tiny import make_tiny_checkpoint

from .training.h5ad_files import GENES

TEXTS = {
    "B cell": "A lymphocyte that makes antibodies.",
    "NK cell": "A lymphocyte that kills infected cells.",
    "T cell": "A lymphocyte with a receptor that was made in the thymus.",
}


def tiny_dual_encoder(
    folder: Path, family: str = "scgpt", **settings
) -> tuple[CellTextDualEncoderModel, CellTextDualEncoderProcessor]:
    """A new dual encoder of cells with the genes of `h5ad_files`; `folder` gets its cell encoder."""
    make_tiny_checkpoint(family, folder / "cells", genes=GENES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        texts = small_text_encoder(TEXTS.values(), hidden_size=16, num_hidden_layers=1)
        return new_dual_encoder(str(folder / "cells"), texts, **({"projection_dim": 12} | settings))
