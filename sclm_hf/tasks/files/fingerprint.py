"""Everything that the results in a file depend on."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...sources.cell_source import CellSource
from ...versions import package_versions
from ..running.settings import RunSettings

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel
    from ...tokenization.processing_cell import CellProcessor
    from ..running.verb import Verb


def make_fingerprint(
    source: Path, cells: CellSource, loaded: "LoadedModel | None", verb: "Verb", settings: RunSettings
) -> dict[str, Any]:
    """The source, the model, its processor and the settings, by name; as values that JSON can hold.

    Args:
        source: the file.
        cells: its cells.
        loaded: the model and its processor; None where the verb needs none.
        verb: the verb.
        settings: its settings.
    """
    family, dtype = ("", "") if loaded is None else (loaded.model.config.model_type, str(loaded.model.dtype))
    return {
        "source": source.name,
        "source files": [list(pair) for pair in cells.stamp],
        **({} if loaded is None else _of_model(loaded)),
        "task": [verb.name, verb.key(settings, family), dtype],
        **settings.depends_on(),
        "versions": package_versions("sclm_hf"),
    }


def _of_model(loaded: "LoadedModel") -> dict[str, Any]:
    """The model, its processor, and what stands beside them."""
    partners = loaded.partners.partners if loaded.partners else ()
    return {
        "model": model_hash(loaded.model),
        "processor": processor_hash(loaded.processor),
        **({"partners": loaded.partners.weights} if loaded.partners else {}),
        **{
            f"partner {one.name}": [model_hash(one.loaded.model), processor_hash(one.loaded.processor)]
            for one in partners
        },
        **({"reference": loaded.reference.hash} if loaded.reference else {}),
    }


def stamp_of(given: Any) -> Any:
    """What tells a file, the files of a folder, a table or a name from others, as JSON can hold it."""
    if hasattr(given, "columns"):
        return hash_of(given.to_csv())
    if given is None or not Path(str(given)).exists():
        return given if given is None else str(given)
    path = Path(str(given))
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def hash_of(content: Any) -> str:
    """A hash of what JSON can hold; of anything else, its text."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def processor_hash(processor: "CellProcessor") -> str:
    """A hash of the encoding and the vocabulary."""
    return hash_of([processor.feature_extractor.to_dict(), processor.tokenizer.get_vocab()])


def loaded_hash(loaded: "LoadedModel") -> str:
    """A hash of a model and its processor: what was saved for one fits no other."""
    return hash_of([model_hash(loaded.model), processor_hash(loaded.processor)])


def model_hash(model: Any) -> str:
    """A hash of the configuration and all tensors."""
    import torch

    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    content = hashlib.blake2b(hash_of(config).encode(), digest_size=16)
    for name, tensor in sorted({**model.state_dict(), **model.frozen_tables()}.items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy())
    return content.hexdigest()
