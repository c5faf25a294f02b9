"""The recorded cases of the original scGPT, converted by the shipping converter."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from sclm_hf.modeling.scgpt.convert_scgpt import convert_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "scgpt"


def golden_arrays(name: str) -> dict[str, torch.Tensor]:
    """The recorded numbers of a case; names of genes and cells are left out."""
    with np.load(GOLDEN / name) as arrays:
        numbers = {key: arrays[key] for key in arrays.files if arrays[key].dtype.kind in "fib"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in numbers.items()}


def convert_case(case: str, output: Path, *, weights: str = "best_model.pt", extra: str | None = None, **args) -> Path:
    """Convert a case folder, with other weights or more tensors or settings than it holds, into `output/converted`."""
    source = output / "original"
    source.mkdir(parents=True)
    tensors = torch.load(GOLDEN / case / weights, weights_only=True)
    if extra is not None:
        tensors |= torch.load(GOLDEN / case / extra, weights_only=True)
    torch.save(tensors, source / "best_model.pt")
    settings = json.loads((GOLDEN / case / "args.json").read_text()) | args
    (source / "args.json").write_text(json.dumps(settings))
    shutil.copy(GOLDEN / case / "vocab.json", source)
    convert_checkpoint(source, output / "converted")
    return output / "converted"


def convert_variant(name: str, output: Path) -> Path:
    """Convert one of the small variants, which come as bare weights and constructor arguments."""
    source = output / "original"
    source.mkdir(parents=True)
    shutil.copy(GOLDEN / "variants" / f"{name}.pt", source / "best_model.pt")
    constructor = json.loads((GOLDEN / "variants" / "variants.json").read_text())[name]["ctor"]
    renamed = {"d_model": "embsize", "nhead": "nheads", "nlayers_cls": "n_layers_cls"}
    args = {renamed.get(key, key): value for key, value in constructor.items()}
    (source / "args.json").write_text(json.dumps(args))
    genes = {f"GENE{number}": number for number in range(30)}
    (source / "vocab.json").write_text(json.dumps(genes))
    convert_checkpoint(source, output / "converted")
    return output / "converted"


def variant_names() -> list[str]:
    return sorted(path.stem for path in (GOLDEN / "variants").glob("*.pt"))
