"""The recorded cases of the original CellPLM, converted by the shipping converter."""

import json
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.cellplm.convert_cellplm import convert_checkpoint

from ..golden import GOLDEN

CASES = ("case_a", "case_b")
PRETRAINED, ANNOTATION = "model", "annotation"


def case_folder(case: str) -> Path:
    return GOLDEN / "cellplm" / case


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded numbers of a case; names are left out."""
    with np.load(case_folder(case) / "io.npz") as arrays:
        numbers = {key: arrays[key] for key in arrays.files if arrays[key].dtype.kind in "fiub"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in numbers.items()}


def golden_names(case: str, name: str) -> list[str]:
    with np.load(case_folder(case) / "io.npz") as arrays:
        return arrays[name].tolist()


def case_settings(case: str, prefix: str = PRETRAINED) -> dict:
    return json.loads((case_folder(case) / f"{prefix}.config.json").read_text())


def convert_case(case: str, output: Path, prefix: str = PRETRAINED) -> Path:
    convert_checkpoint(case_folder(case) / f"{prefix}.config.json", output / prefix)
    return output / prefix


def noise(arrays: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The draws recorded of a forward."""
    names = {"cluster_uniforms": "noise_gumbel_u", "latent_noise": "noise_gauss"}
    return {ours: arrays[f"{part}.{name}"] for ours, name in names.items() if f"{part}.{name}" in arrays}
