"""What a machine has for the package, and whether a model folder is sound."""

import importlib.util
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...corpora.training_manifest import TRAINED, read_manifest
from ...errors import SclmError
from ...evaluation.collapse import FEWEST_CELLS, measure_collapse
from ...files import require_regular_file
from ...opening.families import family_of, read_config
from ...opening.files import find_file
from ...opening.loading import load_model
from ...opening.names import resolve_name
from ...opening.partners import PARTNERS_FILE
from ...opening.specialists import is_specialist, load_specialist
from ...versions import package_versions
from ..embed import embed
from ..files.h5ad import read_h5ad

PACKAGES = {
    "": ("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "numpy", "scipy", "numba"),
    "anndata": ("anndata", "scanpy", "h5py"),
    "corpora": ("datasets", "pyarrow", "zarr"),
    "train": ("accelerate", "peft", "scikit-learn"),
    "text": ("trl", "sentence-transformers", "faiss-cpu"),
    "integration": ("scib-metrics", "harmonypy"),
}
"""Extra -> what it brings; the first is the package without any."""

N_CELLS = 200
"""Cells that are embedded to see whether a model tells them apart."""


@dataclass
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        says: what was found.
        is_well: whether it is as it should be.
    """

    what: str
    says: str
    is_well: bool = True


@dataclass
class Health:
    """What was found.

    Attributes:
        machine: versions, devices, attention and caches.
        model: the model folder; empty where none was named.
    """

    machine: list[Finding] = field(default_factory=list)
    model: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether all is as it should be."""
        return all(one.is_well for one in [*self.machine, *self.model])

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON holds them."""
        return asdict(self) | {"is_well": self.is_well}


def examine(model: str | None = None, cells: str | Path | None = None, revision: str | None = None) -> Health:
    """Look at the machine, and at a model.

    Args:
        model: folder or repository id of a checkpoint or an adapter; None = the machine alone.
        cells: an `.h5ad` file with raw counts, some of which the model embeds, to see whether it tells cells apart.
        revision: branch, tag or commit on the Hub.

    Raises:
        SclmError: the file of cells cannot be read. What is wrong with the model is a finding, and raises nothing.
    """
    if cells is not None:
        require_regular_file(Path(cells), SclmError)
    return Health(_machine(), [] if model is None else _model(model, cells, revision))


def _machine() -> list[Finding]:
    found = []
    for extra, names in PACKAGES.items():
        versions = package_versions(*names)
        listed = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
        missing = [name for name in names if name not in versions]
        install = f"; for {', '.join(missing)}: pip install 'sclm_hf[{extra}]'" if missing else ""
        what = f"extra {extra}" if extra else f"sclm_hf {versions['sclm_hf']}, Python {versions['python']}"
        found.append(Finding(what, (listed or "nothing installed") + install, bool(extra) or not missing))
    return [*found, _devices(), _attention(), *_caches()]


def _devices() -> Finding:
    import torch

    from ...modeling.common.cpu import has_fast_bfloat16

    says = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads of torch, "
    says += "bfloat16 is faster than float32" if has_fast_bfloat16() else "bfloat16 is no faster"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("devices", f"{', '.join(gpus)}; {says}")
    return Finding("devices", f"{'MPS' if torch.backends.mps.is_available() else 'no accelerator'}; {says}")


def _attention() -> Finding:
    there = ["eager", "sdpa", "flex_attention"]
    there += ["flash_attention_2"] if importlib.util.find_spec("flash_attn") else []
    return Finding("attention", f"{', '.join(there)} (`attn_implementation=`)")


def _caches() -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    places = {"cache of the Hub": Path(HF_HUB_CACHE)}
    if os.environ.get("NUMBA_CACHE_DIR"):
        places["cache of compiled kernels"] = Path(os.environ["NUMBA_CACHE_DIR"])
    found = []
    for what, place in places.items():
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        can_write = os.access(existing, os.W_OK)
        says = f"{place}{'' if can_write else ', which cannot be written'}"
        found.append(Finding(what, says + (", offline (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else ""), can_write))
    return found


def _model(name: str, cells: str | Path | None, revision: str | None) -> list[Finding]:
    """What is found of a model, up to the first thing that makes the rest impossible."""
    found: list[Finding] = []
    try:
        revision = resolve_name(name, revision)
        if is_specialist(name, revision):
            loaded = load_specialist(name, revision=revision)
            found.append(Finding("model", _described(loaded.model)))
            return [*found, _seen(name, revision)]
        config, (family, _) = read_config(name, revision), family_of(name, revision)
        found.append(Finding("family", f"{getattr(family, 'title', family.name)}, {_architecture(config)}"))
        loaded = load_model(name, "AutoModel", revision=revision)
        found.append(Finding("weights", f"{_described(loaded.model)}, all finite"))
        n_genes = len(loaded.processor.tokenizer.gene_vocabulary)
        found.append(Finding("processor", f"{n_genes:,} tokens, {loaded.processor.feature_extractor.encoding}"))
        found += [_seen(name, revision), _beside(name, revision)]
        if cells is not None:
            found.append(_told_apart(loaded, cells))
    except SclmError as error:
        found.append(Finding("model" if not found else "what follows", str(error), is_well=False))
    return found


def _architecture(config: dict[str, Any]) -> str:
    return ", ".join(config.get("architectures") or ["no class named"])


def _described(model: Any) -> str:
    return f"{type(model).__name__}, {sum(one.numel() for one in model.parameters()):,} parameters"


def _seen(name: str, revision: str | None) -> Finding:
    manifest = read_manifest(name, revision)
    if manifest is None:
        return Finding("training manifest", "none: which cells it has seen cannot be checked")
    return Finding("training manifest", f"{len(manifest.part(TRAINED)):,} cells it was trained on")


def _beside(name: str, revision: str | None) -> Finding:
    files = {"README.md": "a card", PARTNERS_FILE: "partners that annotate with it"}
    there = [what for file, what in files.items() if find_file(name, file, revision) is not None]
    return Finding("beside it", ", ".join(there) or "no card: `sclm-hf card FOLDER --license …` writes one")


def _told_apart(loaded: Any, cells: str | Path) -> Finding:
    adata = read_h5ad(cells)[:N_CELLS].copy()
    collapse = measure_collapse(embed(adata, loaded.model, loaded.processor, key_added="X").obsm["X"])
    if collapse.n_cells < FEWEST_CELLS:
        return Finding("embedding", f"{collapse.n_cells} cells say little: give {FEWEST_CELLS} or more")
    return Finding("embedding", f"{collapse} ({collapse.n_cells} cells)", not collapse.is_likely)
