"""The recorded cases of the original tGPT, converted by the shipping converter."""

import json
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.tgpt.convert_tgpt import convert_checkpoint

from ..golden import GOLDEN

CASES = ("case_a", "case_b")


def source_folder(case: str) -> Path:
    """A folder as released."""
    return GOLDEN / "tgpt" / case / "checkpoint"


def convert_case(case: str, folder: Path) -> Path:
    """Convert the checkpoint of a case into a folder below `folder`."""
    output = folder / f"converted_{case}"
    convert_checkpoint(source_folder(case), output)
    return output


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded numbers of a case."""
    with np.load(GOLDEN / "tgpt" / case / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files if "lines" not in name}


def golden_lines(case: str, name: str) -> list[str]:
    """The recorded lines of ranked genes of a case."""
    with np.load(GOLDEN / "tgpt" / case / "io.npz") as arrays:
        return arrays[name].tolist()


def golden_gradient_norms(case: str) -> dict[str, float]:
    """Name of a parameter -> norm of its gradient."""
    return json.loads((GOLDEN / "tgpt" / case / "train_grad_norms.json").read_text())
