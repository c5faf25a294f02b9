"""What objectives draw about cells: which genes are hidden, and what becomes of them.

Everything is keyed by the cell and, through the token id, by the gene: the same in whatever batch, order or process a
cell arrives. All arrays are (cells, genes) unless stated otherwise. The types of results follow those of what comes
in: a batch in narrow types (uint16, int16, uint8) stays narrow.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .keys import Stream, cell_keys, draw, substream, uniform

IGNORED = -100
"""Label of what the loss leaves out."""

_NOTHING_GIVEN = np.empty((0, 0, 0))
_DEVIATIONS = 4.0
_RANGE, _BELOW_1 = 2.0**64, 1 - 2.0**-53
_LAST = np.uint64(2**64 - 1)
_BITS_OF_UNIFORMS = np.uint64(2**64 - 2**11)


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) for every gene of cells, from one or more streams.

    Attributes:
        keys: (cells,) uint64, from `cell_keys`.
        given: (streams, cells, genes) float64, the draws of each stream in the order in which a function names its
            streams; of no entries where keys decide. For comparisons with recorded draws.
    """

    keys: np.ndarray
    given: np.ndarray = _NOTHING_GIVEN

    @classmethod
    def of(cls, cell_ids: np.ndarray, seed: int, epoch: int) -> "Draws":
        """The draws that belong to cells under a seed and an epoch."""
        return cls(cell_keys(cell_ids, seed, epoch))


@njit(cache=True, nogil=True)
def smallest(words, n_smallest, n_words):
    """The word below which `n_smallest` of the others lie (fewer, where several words equal it).

    Args:
        words: uint64, of which `n_words` are uniform over their range; others are the largest possible.
        n_smallest: how many, less than `n_words`.
        n_words: how many words are uniform.
    """
    share = n_smallest / n_words
    # the number sought lies within a few standard deviations of this share of the range
    spread = _DEVIATIONS * np.sqrt(share * (1 - share) / n_words)
    low = np.uint64(max(share - spread, 0.0) * _RANGE)
    high = np.uint64(min(share + spread, _BELOW_1) * _RANGE)
    below = np.int32(0)
    for word in words:
        below += np.int32(word < low)
    inside, n_inside = np.empty(words.size, np.uint64), np.uint32(0)
    for i in range(words.size):
        inside[n_inside] = words[i]
        n_inside += np.uint32((words[i] >= low) & (words[i] < high))
    if below <= n_smallest < below + n_inside:
        return np.partition(inside[:n_inside], n_smallest - below)[n_smallest - below]
    return np.partition(words, n_smallest)[n_smallest]


@njit(cache=True, nogil=True)
def _choose_smallest(words, n_smallest, n_words, chosen):
    """Mark the `n_smallest` smallest words, of equal ones the first."""
    bound = smallest(words, n_smallest, n_words)
    n_chosen = np.int32(0)
    for j in range(words.size):
        chosen[j] = words[j] < bound
        n_chosen += np.int32(words[j] < bound)
    for j in range(words.size):
        if n_chosen == n_smallest:
            break
        if words[j] == bound:
            chosen[j] = True
            n_chosen += np.int32(1)


@njit(cache=True, nogil=True)
def _choose(ids, allowed, draws, ratios, up, chosen):
    words = np.empty(ids.shape[1], np.uint64)
    for i in range(ids.shape[0]):
        stream_key, n_allowed = substream(draws.keys[i], Stream.MASK), np.int32(0)
        for j in range(words.size):
            # words in the order of the uniforms that they make
            word = draw(stream_key, ids[i, j]) & _BITS_OF_UNIFORMS
            words[j] = word if allowed[i, j] else _LAST
            n_allowed += np.int32(allowed[i, j])
        if draws.given.size:
            for j in range(words.size):
                if allowed[i, j]:
                    words[j] = np.uint64(min(draws.given[0, i, j], _BELOW_1) * _RANGE)
        if up:
            n_drawn = np.int64(np.ceil(np.float32(n_allowed) * np.float32(ratios[i])))
        else:
            n_drawn = np.int64(np.floor(n_allowed * ratios[i]))
        if n_drawn < n_allowed:
            _choose_smallest(words, n_drawn, n_allowed, chosen[i])
        else:
            chosen[i] = allowed[i]


def choose(ids: np.ndarray, allowed: np.ndarray, draws: Draws, ratios: np.ndarray, *, up: bool = False) -> np.ndarray:
    """Draw `ratio × allowed positions` of the positions of every cell without replacement (stream `MASK`).

    Args:
        ids: token ids.
        allowed: bool, positions that may be drawn.
        draws: what decides; those with the smallest draws are taken.
        ratios: (cells,) float64, share of them to draw.
        up: round the number up in single precision, as `torch.ceil(n * ratio)`, instead of down in double precision,
            as Python's `int(n * ratio)`.

    Returns:
        bool.
    """
    chosen = np.empty(ids.shape, np.bool_)
    _choose(ids, allowed, draws, ratios, up, chosen)
    return chosen


@njit(cache=True, nogil=True)
def _keep(ids, where, draws, stream, rates, kept):
    for i in range(ids.shape[0]):
        stream_key = substream(draws.keys[i], stream)
        for j in range(ids.shape[1]):
            kept[i, j] = False
            if where[i, j]:
                number = draws.given[0, i, j] if draws.given.size else uniform(stream_key, ids[i, j])
                kept[i, j] = number < rates[i]


def keep(ids: np.ndarray, where: np.ndarray, draws: Draws, stream: Stream, rates: np.ndarray) -> np.ndarray:
    """Keep each of some positions with the probability of its cell.

    Args:
        ids: token ids.
        where: bool, the positions.
        draws, stream: what decides; a position is kept where its draw is below the probability.
        rates: (cells,) float64, the probabilities.

    Returns:
        bool.
    """
    kept = np.empty(ids.shape, np.bool_)
    _keep(ids, where, draws, stream, rates, kept)
    return kept


@njit(cache=True, nogil=True)
def _genes_of(ids, mask, special_ids, found):
    for i in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            found[i, j] = mask[i, j] != 0
        for special in special_ids:
            for j in range(ids.shape[1]):
                found[i, j] &= ids[i, j] != special


def genes_of(ids: np.ndarray, mask: np.ndarray, special_ids: tuple[int, ...]) -> np.ndarray:
    """bool: real positions that hold none of `special_ids`."""
    found = np.empty(ids.shape, np.bool_)
    _genes_of(ids, mask, np.array(special_ids, np.int64), found)
    return found


@njit(cache=True, nogil=True)
def _fill(values, where, fill, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = fill if where[i, j] else values[i, j]


def filled(values: np.ndarray, where: np.ndarray, fill: float, dtype: type | np.dtype | None = None) -> np.ndarray:
    """A copy of `values` with `fill` at some positions.

    Args:
        values: numbers.
        where: bool.
        fill: what to put there.
        dtype: type of the result; by default that of `values` where it holds `fill`, else float32.
    """
    out = np.empty(values.shape, dtype or holding(values, fill).dtype)
    _fill(values, where, out.dtype.type(fill), out)
    return out


def holding(values: np.ndarray, *fills: float) -> np.ndarray:
    """`values`, as float32 where they are integers of a type that does not hold `fills`."""
    if values.dtype.kind == "f":
        return values
    limits = np.iinfo(values.dtype)
    sound = all(float(fill).is_integer() and limits.min <= fill <= limits.max for fill in fills)
    return values if sound else values.astype(np.float32)


def value_labels(values: np.ndarray, asked_for: np.ndarray) -> np.ndarray:
    """`values` where asked for, else `IGNORED`: int16 where they are, else float32."""
    return filled(values, ~asked_for, IGNORED, np.int16 if values.dtype == np.int16 else np.float32)


def gene_labels(ids: np.ndarray, asked_for: np.ndarray) -> np.ndarray:
    """`ids` where asked for, else `IGNORED`: int32 for uint16, else of their type."""
    return filled(ids, ~asked_for, IGNORED, _signed(ids.dtype))


def _signed(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int32) if dtype == np.uint16 else dtype


@njit(cache=True, nogil=True)
def _mask_genes(ids, maskable, draws, ratios, hidden_ratio, changed_ratio, mask_id, n_tokens, out_ids, labels):
    given = draws.given
    for i in range(ids.shape[0]):
        choosing, hiding = substream(draws.keys[i], Stream.MASK), substream(draws.keys[i], Stream.GENE_HIDDEN)
        changing, tokens = substream(draws.keys[i], Stream.GENE_CHANGED), substream(draws.keys[i], Stream.GENE_TOKEN)
        for j in range(ids.shape[1]):
            token = ids[i, j]
            out_ids[i, j], labels[i, j] = token, IGNORED
            if not maskable[i, j]:
                continue
            if (given[0, i, j] if given.size else uniform(choosing, token)) < ratios[i]:
                labels[i, j] = token
                if (given[1, i, j] if given.size else uniform(hiding, token)) < hidden_ratio:
                    out_ids[i, j] = mask_id
                elif (given[2, i, j] if given.size else uniform(changing, token)) < changed_ratio:
                    out_ids[i, j] = np.int64((given[3, i, j] if given.size else uniform(tokens, token)) * n_tokens)


def mask_genes(
    ids: np.ndarray,
    maskable: np.ndarray,
    draws: Draws,
    ratios: np.ndarray,
    *,
    hidden_ratio: float,
    changed_ratio: float,
    mask_id: int,
    n_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace tokens and ask for the true ones.

    Args:
        ids: token ids.
        maskable: bool, positions that may be chosen.
        draws: of the streams `MASK`, `GENE_HIDDEN`, `GENE_CHANGED` and `GENE_TOKEN`.
        ratios: (cells,) float64; a token is chosen where its draw is below,
        hidden_ratio: becomes `mask_id` where the next draw is below this,
        changed_ratio: else another token where the third is below this,
        mask_id: id of `<mask>`.
        n_tokens: the other token is number `int(n_tokens × fourth draw)`.

    Returns:
        The replaced ids, and the labels: the true token where chosen, else `IGNORED`.
    """
    ids = ids.astype(np.int32) if ids.dtype == np.uint16 and n_tokens > 2**16 else ids
    out_ids, labels = np.empty_like(ids), np.empty(ids.shape, _signed(ids.dtype))
    rates = float(hidden_ratio), float(changed_ratio)
    _mask_genes(ids, maskable, draws, ratios, *rates, mask_id, n_tokens, out_ids, labels)
    return out_ids, labels


class SplitCells(NamedTuple):
    """Cells in two parts, each padded to its longest.

    Attributes:
        known_ids, known_values, known_mask: (cells, P).
        generated_ids, generated_mask: (cells, Q).
        labels: (cells, P + Q), the values of the second part, `IGNORED` in the first and at padding.
    """

    known_ids: np.ndarray
    known_values: np.ndarray
    known_mask: np.ndarray
    generated_ids: np.ndarray
    generated_mask: np.ndarray
    labels: np.ndarray


@njit(cache=True, nogil=True)
def _longest_parts(mask, generated):
    n_known = n_generated = 1
    for i in range(mask.shape[0]):
        known = moved = np.int32(0)
        for j in range(mask.shape[1]):
            known += np.int32((mask[i, j] != 0) & ~generated[i, j])
            moved += np.int32(generated[i, j])
        n_known, n_generated = max(n_known, known), max(n_generated, moved)
    return n_known, n_generated


@njit(cache=True, nogil=True)
def _split(ids, values, mask, generated, pad_id, pad_value, out):
    n_known = out.known_ids.shape[1]
    for i in range(ids.shape[0]):
        known = moved = 0
        for j in range(ids.shape[1]):
            if generated[i, j]:
                out.generated_ids[i, moved] = ids[i, j]
                out.labels[i, n_known + moved] = values[i, j]
                moved += 1
            elif mask[i, j]:
                out.known_ids[i, known] = ids[i, j]
                out.known_values[i, known] = values[i, j]
                known += 1
        out.known_ids[i, known:] = pad_id
        out.known_values[i, known:] = pad_value
        out.known_mask[i, :known] = 1
        out.known_mask[i, known:] = 0
        out.generated_ids[i, moved:] = pad_id
        out.generated_mask[i, :moved] = 1
        out.generated_mask[i, moved:] = 0
        out.labels[i, :n_known] = IGNORED
        out.labels[i, n_known + moved :] = IGNORED


def split(
    ids: np.ndarray, values: np.ndarray, mask: np.ndarray, generated: np.ndarray, *, pad_id: int, pad_value: float
) -> SplitCells:
    """Part every cell into genes that are known and genes that are to be generated, each in their order.

    Args:
        ids, values, mask: tokens, what goes with them, and which positions are real.
        generated: bool, real positions that go to the second part.
        pad_id, pad_value: what padding is.
    """
    values = holding(values if values.dtype == np.int16 else values.astype(np.float32, copy=False), pad_value)
    cells, (known, moved) = len(ids), _longest_parts(mask, generated)
    out = SplitCells(
        known_ids=np.empty((cells, known), ids.dtype),
        known_values=np.empty((cells, known), values.dtype),
        known_mask=np.empty((cells, known), mask.dtype),
        generated_ids=np.empty((cells, moved), ids.dtype),
        generated_mask=np.empty((cells, moved), mask.dtype),
        labels=np.empty((cells, known + moved), values.dtype),
    )
    _split(ids, values, mask, generated, ids.dtype.type(pad_id), values.dtype.type(pad_value), out)
    return out
