"""The recorded cases of the original scBERT, converted by the shipping converter."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.scbert.convert_scbert import convert_checkpoint

from ..golden import GOLDEN

CASES = ("case_a", "case_b")
FINETUNED = "finetune_best.pth"
PRETRAINED = "pretrain_1.pth"


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded numbers of a case; names are left out."""
    with np.load(GOLDEN / "scbert" / case / "io.npz") as arrays:
        numbers = {key: arrays[key] for key in arrays.files if arrays[key].dtype.kind in "fib"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in numbers.items()}


def golden_names(case: str, name: str) -> list[str]:
    with np.load(GOLDEN / "scbert" / case / "io.npz") as arrays:
        return arrays[name].tolist()


def case_settings(case: str) -> dict:
    return json.loads((GOLDEN / "scbert" / case / "config.json").read_text())


def release(case: str, folder: Path, weights: str = PRETRAINED) -> Path:
    """A folder as the converter takes it."""
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "scbert" / case / weights, folder)
    genes = case_settings(case)["max_seq_len"] - 1
    (folder / "genes.txt").write_text("\n".join(f"GENE{number}" for number in range(genes)) + "\n")
    return folder


def convert_case(case: str, output: Path, weights: str = PRETRAINED) -> Path:
    convert_checkpoint(release(case, output / "original", weights), output / "converted")
    return output / "converted"
