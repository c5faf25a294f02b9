"""Randomness that belongs to a cell: a counter-based generator keyed by (cell id, seed, epoch).

The generator is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) with
random access: draw number `c` of a key is `mix(key + (c + 1) * GAMMA)`, so a draw depends on its key and its counter
alone, never on what was drawn before, by whom, or in which batch. A cell's key is mixed from its id, the seed and the
epoch; each purpose draws from its own stream of the cell. Gene-wise draws use the gene's token id as the counter, so
they do not depend on the order of the columns either.
"""

from collections.abc import Sequence
from enum import IntEnum, unique

import numpy as np

from ...errors import ExpressionError
from .kernels import kernel, part


@unique
class Stream(IntEnum):
    """What is drawn about a cell: each purpose has a stream of its own, whose number never changes.

    The counter is the token id of the gene where a draw belongs to a gene, else 0, 1, …
    """

    TIES = 0
    """Over which bins tied values are spread; with the encoding `chromosomes`: which genes are drawn."""
    SUBSET = 1
    """Which genes a long cell keeps; with the encoding `chromosomes`: the order of the chromosomes."""
    MASK = 2
    """Which genes an objective hides."""
    RATIO = 3
    """Which of several mask ratios a cell or batch gets."""
    HELD_OUT = 4
    """Whether a cell or sample is held out for evaluation."""
    GENE_HIDDEN = 5
    """Masked genes: whether a chosen gene becomes `<mask>`."""
    GENE_CHANGED = 6
    """Masked genes: whether one that does not becomes another gene."""
    GENE_TOKEN = 7
    """Masked genes: which gene it becomes."""
    VALUE_HIDDEN = 8
    """Masked expression: whether a drawn value is hidden."""
    DEPTH_HIDDEN = 9
    """Read depth: whether a drawn value is hidden or replaced."""
    DEPTH_VALUE = 10
    """Read depth: by which value it is replaced."""
    DEPTH_READS = 11
    """Read depth: how many reads of a gene are kept."""
    DEPTH_RATE = 12
    """Read depth: whether a cell is made shallower, and the share of its reads that is kept."""
    SAMPLE_CELL = 13
    """Masked samples: whether a cell is masked, and how much of it."""
    VIEW = 14
    """Which of several views of a cell it is."""
    THINNED = 15
    """Augmentation: whether a cell is thinned, and to which share of its reads."""
    THINNED_READS = 16
    """Augmentation: how many reads of a gene are kept."""
    CUT = 17
    """Augmentation: whether a cell is cut to the genes of another source, which, and the share of genes left out."""
    CUT_GENES = 18
    """Augmentation: which genes are left out."""
    SHALLOW_READS = 19
    """Cells thinned to evaluate on them, or for a baseline: how many reads of a gene are kept."""
    BALANCE = 20
    """Balanced epochs: which cells come once more than others of the same weight."""
    TEXT = 21
    """Cells and texts: which of several texts of its label a cell is trained with."""
    QUESTION = 24
    """Cells and language models: which question is asked about a cell."""
    FOLD = 25
    """Cells held out: the fold in which a choice that was made on the others is scored."""
    OTHER_CELLS = 28
    """Questions about several cells: how many there are, which, and in which order."""
    OTHER_LABELS = 29
    """Questions about several cells: of which labels the others are."""
    COUNT_HIDDEN = 30
    """Imputation that is scored: which counts are hidden; the counter is made from the name of the gene."""
    LEAVING = 31
    """Explanations: the random order in which genes leave a cell."""
    BASELINE_CELLS = 32
    """Scores of labels: which cells the simple method beside them is fitted and tested on."""


_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_WORD = (1 << 64) - 1
_U1, _U11, _U27, _U30, _U31 = (np.uint64(n) for n in (1, 11, 27, 30, 31))


@part
def mix(word):
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves every output bit."""
    word = (word ^ (word >> _U30)) * _MIX_1
    word = (word ^ (word >> _U27)) * _MIX_2
    return word ^ (word >> _U31)


@part
def substream(key, stream):
    """The key of stream number `stream` of a cell."""
    return mix(key ^ mix(np.uint64(stream) + _GAMMA))


@kernel
def draw(stream_key, counter):
    """Draw number `counter` of a stream: a 64-bit word; different counters never collide."""
    return mix(stream_key + (np.uint64(counter) + _U1) * _GAMMA)


@part
def uniform(stream_key, counter):
    """Draw number `counter` of a stream as a float64 in [0, 1), with 53 random bits."""
    return np.float64(np.int64(draw(stream_key, counter) >> _U11)) * 1.1102230246251565e-16


@kernel
def _keys(cell_ids, seed, epoch):
    keys = np.empty(cell_ids.size, np.uint64)
    for i in range(cell_ids.size):
        keys[i] = substream(substream(mix(cell_ids[i] + _GAMMA), seed), epoch)
    return keys


@kernel
def _uniforms(keys, stream, counters):
    out = np.empty(counters.shape, np.float64)
    for i in range(keys.size):
        stream_key = substream(keys[i], stream)
        for j in range(counters.shape[1]):
            out[i, j] = uniform(stream_key, counters[i, j])
    return out


@kernel
def _hash_separated(text, hashes):
    """FNV-1a of the pieces of `text` (bytes that end in 0), finalised by `mix`."""
    word, i = _FNV_OFFSET, 0
    for byte in text:
        if byte == 0:
            hashes[i] = mix(word)
            word = _FNV_OFFSET
            i += 1
        else:
            word = (word ^ np.uint64(byte)) * _FNV_PRIME


def as_cell_ids(cell_ids) -> np.ndarray:
    """Integer cell ids as uint64, negative ones (uint64 stored as int64) by their bits.

    Raises:
        ExpressionError: they are not integers in one dimension.
    """
    if isinstance(cell_ids, (list, tuple)) and all(type(one) is int for one in cell_ids):
        # numpy makes floats of a list with numbers below 0 or 2**63 and above
        cell_ids = np.array([one & _WORD for one in cell_ids], np.uint64)
    ids = np.atleast_1d(np.asarray(cell_ids))
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        raise ExpressionError(
            f"Cell ids are integers in one dimension, got {ids.dtype} with shape {ids.shape}: turn names into ids "
            "with `sclm_hf.tokenization.encodings.keys.hash_names`."
        )
    return ids.astype(np.uint64)


def cell_keys(cell_ids, seed: int, epoch: int) -> np.ndarray:
    """Keys of cells under a seed and an epoch.

    Args:
        cell_ids: (cells,) integers, as from [`hash_names`].
        seed: any integer; taken modulo 2**64.
        epoch: any integer; taken modulo 2**64.

    Returns:
        (cells,) uint64.
    """
    return _keys(as_cell_ids(cell_ids), np.uint64(int(seed) & _WORD), np.uint64(int(epoch) & _WORD))


def uniforms_for(keys: np.ndarray, stream: Stream, counters: int | np.ndarray) -> np.ndarray:
    """Uniform draws in [0, 1) of many cells.

    Args:
        keys: (cells,) uint64 from [`cell_keys`].
        stream: what they are for.
        counters: how many draws per cell, or a (cells, draws) array of non-negative counters. With `input_ids` as
            counters a draw belongs to a (cell, gene) pair, wherever the gene stands.

    Returns:
        (cells, draws) float64.

    Raises:
        ExpressionError: `counters` has another shape.
    """
    if isinstance(counters, (int, np.integer)):
        counters = np.broadcast_to(np.arange(counters), (len(keys), counters))
    if np.ndim(counters) != 2 or len(counters) != len(keys):
        raise ExpressionError(
            f"`counters` must have one row for each of the {len(keys):,} cells, got shape {np.shape(counters)}."
        )
    return _uniforms(np.asarray(keys, np.uint64), np.uint64(stream), np.ascontiguousarray(counters, dtype=np.int64))


def hash_names(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Stable 64-bit ids of names, the same in every process and on every machine: FNV-1a over UTF-8, then `mix`.

    Among a million different names a collision has probability 3e-8; two cells with one id would merely share their
    random draws.

    Returns:
        (names,) uint64.

    Raises:
        ExpressionError: a name contains the character NUL.
    """
    names = [str(name) for name in names]
    text = "\0".join(names).encode()
    if text.count(0) != max(len(names) - 1, 0):
        name = next(name for name in names if "\0" in name)
        raise ExpressionError(f"The name {name!r} contains the character NUL: rename the cell.")
    return hash_joined(text, len(names))


def gene_counters(names: Sequence[str]) -> np.ndarray:
    """(names,) int64 counters of draws that belong to genes by their names; errors are those of [`hash_names`]."""
    return (hash_names(names) >> np.uint64(1)).astype(np.int64)


def hash_joined(text: bytes, n_names: int) -> np.ndarray:
    """What [`hash_names`] gives of names in UTF-8 that stand in one text, parted by the character NUL."""
    hashes = np.empty(n_names, np.uint64)
    if n_names:
        _hash_separated(np.frombuffer(text + b"\0", np.uint8), hashes)
    return hashes
