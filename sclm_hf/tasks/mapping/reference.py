"""A reference: labelled cells embedded by a model, with what tells whether they fit another model or file."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cell_index import FACTS, CellIndex, directions, read_cells, read_facts
from ...corpora.training_manifest import hash_counts, hash_genes
from ...errors import CheckpointError, ConfigurationError, ExpressionError
from ...files import check_new_folder, new_folder
from ...modeling.common.outputs import cells_alone, embedding_of
from ...opening.files import find_file
from ...sources.categories import labelled_column
from ...sources.cell_source import CellSource
from ...sources.in_memory import InMemorySource
from ...sources.opening import open_source
from ...sources.survey import refuse_alike, row_blocks
from ..files.fingerprint import hash_of, loaded_hash
from ..running.batches import run_cells
from ..running.prepared_cells import prepare_cells

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from ..map import MapSettings

FOLDER = "reference_index"
"""Where an index lies in the folder of a model."""

_FORMAT = "sclm_hf reference 1"
_MODEL_FILES = (FACTS, "embeddings.safetensors", "cells.parquet")
_SAID = {
    "label_key": "label_key",
    "group_key": "group_key",
    "cells": "reference",
    "genes": "genes",
    "model": "model",
}
"""Fact of a reference -> the setting that it follows from."""

_FACTS = {
    **dict.fromkeys(("format", "model", "label_key", "cells", "model_name", "source"), str),
    "genes": list | None,
    "group_key": str | None,
    "model_revision": str | None,
    "n_cells": int,
}
"""All facts with their types; what else stands in the file of an index goes into no result."""


@dataclass(frozen=True)
class Reference:
    """Labelled cells, embedded when they are first needed.

    Attributes:
        names: (cells,) names of the cells.
        facts: how their embeddings are made.
        make_index: embeds them, or gives what was read.
    """

    names: np.ndarray
    facts: dict[str, Any]
    make_index: Callable[[], CellIndex]

    @property
    def hash(self) -> str:
        """A hash of what the index follows from."""
        return hash_of([self.facts.get(fact) for fact in _SAID])

    @cached_property
    def index(self) -> CellIndex:
        """The embedded cells."""
        return self.make_index()


def find_reference(loaded: "LoadedModel", settings: "MapSettings") -> Reference:
    """The reference that settings ask for: built, read from its folder, or the one that came with the model.

    Raises:
        ConfigurationError: there is none, it has cells of the same name, or too few for the neighbours asked for.
        CheckpointError: it was built with another model or from other cells, or is damaged.
        CorpusError: the cells cannot be read, or lack a column or a label.
        ExpressionError: there are no cells, or they are not what the model's encoding expects.
    """
    folder = None if settings.index is None else Path(settings.index)
    if settings.reference is not None:
        return _of_cells(loaded, settings, folder)
    folder = folder or _beside_model(loaded)
    if folder is None:
        raise ConfigurationError(
            f"`{loaded.name}` has no `{FOLDER}`: name labelled cells with `reference` (`--reference`), or the folder "
            "of an index with `index` (`--index`)."
        )
    return _read(folder, settings, {"model": loaded_hash(loaded), "genes": settings.genes_read})


def _of_cells(loaded: "LoadedModel", settings: "MapSettings", folder: Path | None) -> Reference:
    """The index of cells: read where a folder holds it, else built, and saved where there is a folder for it."""
    source = _opened(loaded, settings)
    labels = _values(source, settings.label_key)
    groups = None if settings.group_key is None else _values(source, settings.group_key)
    facts = {
        "format": _FORMAT,
        "model": loaded_hash(loaded),
        "label_key": settings.label_key,
        "group_key": settings.group_key,
        "cells": _cells_fact(source, labels, groups),
        "genes": settings.genes_read,
        "model_name": _public_name(loaded.name),
        "model_revision": loaded.revision,
        "source": Path(source.location).name,
        "n_cells": source.n_cells,
    }
    if folder is not None and (folder / FACTS).exists():
        return _read(folder, settings, facts)
    if len(kinds := set(labels)) < 2:
        raise ConfigurationError(
            f"`obs[{settings.label_key!r}]` of the reference holds one label only, {kinds.pop()!r}, which all cells "
            "would get: name another column with `label_key` (`--label-key`)."
        )
    _check_size(source.n_cells, groups, settings)
    refuse_alike(source)
    names = np.asarray(source.obs_names(), object)
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"`{source.location}` has cells of the same name: tell them apart, `reference.obs_names_make_unique()`."
        )

    def build() -> CellIndex:
        return CellIndex(_embedded(loaded, settings, source), labels, names, groups, settings.backend)

    reference = Reference(names, facts, build)
    if folder is not None:
        check_new_folder(folder)
        # at once: it is asked for even where all results are there
        index = reference.index
        with new_folder(folder) as unfinished:
            unfinished.mkdir()
            index.write(unfinished, facts)
    return reference


def _opened(loaded: "LoadedModel", settings: "MapSettings") -> CellSource:
    cells, expects = settings.reference, loaded.processor.feature_extractor.expects
    layer = settings.layer if settings.reference_layer is None else settings.reference_layer
    if hasattr(cells, "obs"):
        if not cells.n_obs:
            raise ExpressionError("The reference has no cells.")
        return InMemorySource(cells, layer, expects=expects, name="reference")
    return open_source(Path(cells).stem, cells, layer=layer, expects=expects)


def _embedded(loaded: "LoadedModel", settings: "MapSettings", source: CellSource) -> np.ndarray:
    cells = prepare_cells(
        source, loaded, species=settings.species, batch_key=settings.batch_key, genes=settings.genes_read
    )
    embeddings = run_cells(
        loaded,
        cells,
        _embeddings,
        batch_size=settings.batch_size,
        seed=settings.seed,
        description="reference",
    )
    source.close()
    return directions(embeddings)


def _embeddings(model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
    return embedding_of(model(**batch, **cells_alone(model)), model.config)


def _values(source: CellSource, name: str) -> np.ndarray:
    column = labelled_column(source, name)
    return np.array(column.categories, object)[column.codes]


def _cells_fact(source: CellSource, labels: np.ndarray, groups: np.ndarray | None) -> str:
    """A hash of the names, the labels and the counts of the cells."""
    genes, rows = hash_genes(source), np.arange(source.n_cells)
    counts = [hash_counts(source.read(rows[block]), genes).tolist() for block in row_blocks(source.n_cells)]
    names = list(source.obs_names())
    return hash_of([names, list(labels), None if groups is None else list(groups), counts])


def _public_name(model: str) -> str:
    """The name of a repository, or of a folder without where it lies, as an index travels with its model."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _beside_model(loaded: "LoadedModel") -> Path | None:
    if loaded.name == "in memory":
        return None
    found = [find_file(loaded.name, f"{FOLDER}/{file}", loaded.revision or None) for file in _MODEL_FILES]
    return None if None in found else found[0].parent


def _read(folder: Path, settings: "MapSettings", asked: dict[str, Any]) -> Reference:
    """The index of a folder, which must say what is asked."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"There is no index `{folder}`: name with `reference` (`--reference`) the cells to build it from."
        )
    facts = read_facts(folder, _FORMAT)
    embeddings, columns = read_cells(folder)
    labels, names, groups = columns["label"], columns["cell"], columns.get("group")
    is_sound = all(isinstance(facts.get(name), kind) for name, kind in _FACTS.items())
    if not is_sound or facts["n_cells"] != len(names):
        raise CheckpointError(
            f"`{folder / FACTS}` does not tell of the {len(names):,} cells beside it: build it anew."
        )
    if len(set(names)) < len(names):
        raise CheckpointError(f"The index `{folder}` has cells of the same name: build it anew.")
    _check_facts(folder, facts, asked)
    _check_size(len(names), groups, settings)
    # a folder that came with a model stays as it is
    keeps = settings.index is not None
    index = CellIndex(embeddings, labels, names, groups, settings.backend, folder=folder, keeps=keeps)
    return Reference(names, {name: facts[name] for name in _FACTS}, lambda: index)


def _check_facts(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    differs = [setting for fact, setting in _SAID.items() if fact in asked and found.get(fact) != asked[fact]]
    if differs == ["model"]:
        raise CheckpointError(
            f"The index `{folder}` was built with another model, `{found.get('model_name')}` "
            f"{found.get('model_revision') or ''}".rstrip()
            + ": take that one, or build an index of this one in another folder (`index`, `--index`)."
        )
    if differs:
        raise CheckpointError(
            f"The index `{folder}` was built with another {', another '.join(f'`{one}`' for one in differs)}: name "
            "another folder with `index` (`--index`), or leave out `reference` (`--reference`) to use it as it is."
        )


def _check_size(n_cells: int, groups: np.ndarray | None, settings: "MapSettings") -> None:
    # to leave out a cell itself takes one more
    if n_cells <= settings.n_neighbours:
        raise ConfigurationError(
            f"The reference has {n_cells:,} cells: `n_neighbours` (`--n-neighbours`) must be smaller, got "
            f"{settings.n_neighbours}."
        )
    if groups is None:
        return
    names, sizes = np.unique(groups.astype(str), return_counts=True)
    others = sizes.sum() - sizes
    if (others < settings.n_neighbours).any():
        raise ConfigurationError(
            f"Cells of the group {str(names[others.argmin()])!r} are tested against the {others.min():,} reference "
            "cells of other groups: `n_neighbours` (`--n-neighbours`) must be no larger, got "
            f"{settings.n_neighbours}; or leave out `group_key` (`--group-key`)."
        )
