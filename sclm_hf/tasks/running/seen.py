"""Which cells stand in the training manifest of a model."""

from typing import NamedTuple

import numpy as np

from ...corpora.training_manifest import MANIFEST, TRAINED, hash_counts, hash_genes, read_manifest
from ...opening.files import find_file
from ...opening.names import resolve_name
from ...sources.cell_source import CellSource
from ...sources.survey import row_blocks


class Seen(NamedTuple):
    """What a model knows of cells.

    Attributes:
        trained: (n_cells,) bool, which it was trained on.
        chose: (n_cells,) bool, which were held out and chose it.
        has_manifest: whether it says so; an adapter that has no manifest of its own says nothing of its own cells.
    """

    trained: np.ndarray
    chose: np.ndarray
    has_manifest: bool


def seen_by(model: str | None, revision: str, source: CellSource, cell_ids: np.ndarray) -> Seen:
    """Which of the cells of a source a model was trained on, or chosen by.

    Args:
        model: folder or repository; None where there is none to ask.
        revision: commit on the Hub.
        source: the cells.
        cell_ids: (n_cells,) uint64 made from their names.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    manifest = None if model is None else read_manifest(model, revision or None)
    if manifest is None:
        return Seen(np.zeros(source.n_cells, bool), np.zeros(source.n_cells, bool), False)
    # counts are known by those of all genes
    source = getattr(source, "whole", source)
    genes, rows = hash_genes(source), np.arange(source.n_cells)
    hashes = [hash_counts(source.read(rows[block]), genes) for block in row_blocks(source.n_cells)]
    source.close()
    cells = source.name, cell_ids, np.concatenate(hashes)
    trained = manifest.part(TRAINED).holds(*cells)
    says_itself = find_file(model, MANIFEST, resolve_name(model, revision or None)) is not None
    return Seen(trained, manifest.holds(*cells) & ~trained, says_itself)
