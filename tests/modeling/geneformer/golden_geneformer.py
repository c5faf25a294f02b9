"""The recorded cases of the original Geneformer, laid out as the release and converted by the shipping converter."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.common.legacy import read_pickle
from sclm_hf.modeling.geneformer.convert_geneformer import convert_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "geneformer"

KINDS = {
    "model": "model",
    "model_v4_6": "model",
    "cell_classifier": "cell_classifier",
    "gene_classifier": "gene_classifier",
    "mtl_cls": "model",
    "mtl_attnpool": "model",
}
"""Kind of a checkpoint -> folder with its `config.json`."""


def golden_arrays(case: str) -> dict[str, torch.Tensor]:
    """The recorded arrays of a case."""
    with np.load(GOLDEN / case / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def golden_json(case: str, name: str):
    return json.loads((GOLDEN / case / f"{name}.json").read_text())


def release_folder(case: str, kind: str, release: Path) -> Path:
    """Lay a checkpoint out as the authors' repository does; the folder of its weights."""
    dictionaries = release / "geneformer"
    if not dictionaries.exists():
        dictionaries.mkdir(parents=True)
        tokens = GOLDEN / case / "token_dictionary.pkl"
        shutil.copy(tokens, dictionaries / "token_dictionary_gc104M.pkl")
        genes = [gene for gene in read_pickle(tokens) if not gene.startswith("<")]
        # the case records none: it begins with tokens
        medians = {gene: np.float64(1 + number / 7) for number, gene in enumerate(genes)}
        (dictionaries / "gene_median_dictionary_gc104M.pkl").write_bytes(pickle.dumps(medians))
    folder = release / f"Geneformer-{kind}"
    folder.mkdir()
    shutil.copy(GOLDEN / case / KINDS[kind] / "config.json", folder)
    if kind == "model_v4_6":
        shutil.copy(GOLDEN / case / "pytorch_model_v4_6_style.bin", folder / "pytorch_model.bin")
    elif kind.startswith("mtl_"):
        shutil.copy(GOLDEN / case / "mtl" / f"{kind.removeprefix('mtl_')}.pt", folder / "pytorch_model.bin")
    else:
        shutil.copy(GOLDEN / case / kind / "model.safetensors", folder)
    return folder


def convert_case(case: str, kind: str, folder: Path) -> Path:
    """Convert one checkpoint of a case into a folder below `folder`."""
    output = folder / f"converted_{kind}"
    convert_checkpoint(release_folder(case, kind, folder / "release"), output)
    return output
