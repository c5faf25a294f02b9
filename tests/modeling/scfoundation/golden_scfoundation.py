"""The recorded cases of the original scFoundation, converted by the shipping converter."""

import shutil
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.scfoundation.convert_scfoundation import convert_checkpoint

from ..golden import GOLDEN

FOLDER = GOLDEN / "scfoundation"


def golden_names(case: str) -> list[str]:
    """The genes of a case, in order."""
    with np.load(FOLDER / case / "io.npz") as arrays:
        return arrays["genes"].tolist()


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded numbers of a case; names are left out."""
    with np.load(FOLDER / case / "io.npz") as arrays:
        numbers = {key: arrays[key] for key in arrays.files if arrays[key].dtype.kind in "fib"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in numbers.items()}


def write_genes(path: Path, genes: list[str]) -> None:
    rows = [f"{gene}\t{number}\n" for number, gene in enumerate(genes)]
    path.write_text("gene_name\tindex\n" + "".join(rows))


def release(case: str, folder: Path) -> Path:
    """A folder laid out as the original's release."""
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / case / "models.ckpt", folder)
    write_genes(folder / "OS_scRNA_gene_index.19264.tsv", golden_names(case))
    return folder


def convert_case(case: str, output: Path) -> Path:
    """Convert a case into `output/converted`."""
    convert_checkpoint(release(case, output / "original"), output / "converted")
    return output / "converted"
