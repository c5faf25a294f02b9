"""The recorded cases of the original UCE, converted by the shipping converter."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.uce.convert_uce import convert_checkpoint

from ..golden import GOLDEN as ALL_GOLDEN

GOLDEN = ALL_GOLDEN / "uce"
CASES = ("case_a", "case_b")
PROTEIN_FILE = "Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt"


def recorded(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / case / "io.npz") as arrays:
        return dict(arrays)


def settings(case: str) -> dict:
    return json.loads((GOLDEN / case / "config.json").read_text())


def original_folder(case: str, folder: Path) -> Path:
    """A case in the layout of the release."""
    folder.mkdir(parents=True)
    for name in ("config.json", "species_chrom.csv"):
        shutil.copy(GOLDEN / case / name, folder)
    shutil.copy(GOLDEN / case / "model.torch", folder / "4layer_model.torch")
    (folder / "species_offsets.pkl").write_bytes(pickle.dumps({"human": settings(case)["species_offset"]}))
    genes = (GOLDEN / case / "gene_list.txt").read_text().split()
    (folder / "protein_embeddings").mkdir()
    torch.save({gene.capitalize(): torch.zeros(2) for gene in genes}, folder / "protein_embeddings" / PROTEIN_FILE)
    return folder


def convert_case(case: str, folder: Path) -> Path:
    convert_checkpoint(original_folder(case, folder / "original"), folder / "converted")
    return folder / "converted"
