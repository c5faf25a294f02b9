"""The recorded cases of the original iSEEEK, converted by the shipping converter."""

import gzip
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.iseeek.convert_iseeek import convert_checkpoint

from ..golden import GOLDEN

CASES = ("case_a", "case_b")
# they were recorded together with those of tGPT, from the same lines
_FOLDER = GOLDEN / "tgpt"


def source_folder(case: str) -> Path:
    """A folder as released."""
    return _FOLDER / case / "iseeek_checkpoint"


def convert_case(case: str, folder: Path) -> Path:
    """Convert the checkpoint of a case into a folder below `folder`."""
    output = folder / f"converted_{case}"
    convert_checkpoint(source_folder(case), output)
    return output


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded arrays of a case."""
    with np.load(_FOLDER / case / "iseeek_io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def golden_lines(case: str) -> list[str]:
    """The lines of ranked genes of a case."""
    with gzip.open(_FOLDER / case / "rankings.txt.gz", "rt") as file:
        return [line.rstrip("\n") for line in file]
