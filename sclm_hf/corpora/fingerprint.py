"""Whether the cells of a corpus are still those that they were, told from their names and the counts of some."""

import hashlib
from collections.abc import Mapping

import numpy as np

from .contents import Contents
from .training_manifest import TrainingManifest, hash_counts, hash_genes

CELLS_A_SOURCE = 64
"""So many cells of a source, evenly spread, are known by their counts; all are known by their names."""

_PARTS = ("names", "counts", "labels")

Fingerprint = dict[str, dict[str, str]]
"""Name of a source -> `names`, `counts` and, where there are some, `labels`, each a hash in hexadecimal digits."""


def fingerprint(corpus: Contents) -> Fingerprint:
    """The fingerprint of the cells used, whatever kind of file they lie in.

    Raises:
        CorpusError: a file vanished, changed or is damaged.
    """
    return {
        corpus.sources[index].name: _of_source(corpus, index, size) for index, size in enumerate(corpus.sizes) if size
    }


def _of_source(corpus: Contents, index: int, size: int) -> dict[str, str]:
    rows, source = corpus.rows_at(index, np.arange(size)), corpus.opened(index)
    some = rows[np.linspace(0, size - 1, min(size, CELLS_A_SOURCE)).astype(np.int64)]
    counts = hash_counts(source.read(some), hash_genes(source))
    return {"names": _digest(source.cell_ids(rows)), "counts": _digest(counts)}


def _digest(hashes: np.ndarray) -> str:
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def fingerprint_of(manifest: TrainingManifest, labels: np.ndarray | None = None) -> Fingerprint:
    """The fingerprint of cells whose manifest there is already.

    Args:
        manifest: of one source.
        labels: (n_cells,) what they are to be called, or None.
    """
    found = {"names": _digest(manifest.cells), "counts": _digest(manifest.counts)}
    if labels is not None:
        found["labels"] = hashlib.sha256(repr(list(map(str, labels))).encode()).hexdigest()[:16]
    return {str(name): found for name in dict.fromkeys(manifest.datasets)}


def changes(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What differs between two fingerprints, in words, source by source."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            found.append(f"`{name}` is missing")
        elif name not in before:
            found.append(f"`{name}` is new")
        elif differing := [what for what in _PARTS if before[name].get(what) != now[name].get(what)]:
            found.append(f"the cells of `{name}` have other {' and '.join(differing)}")
    return found
