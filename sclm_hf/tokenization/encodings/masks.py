"""What objectives draw about cells: which genes are hidden, and what becomes of them.

Everything is keyed by the cell and, through the token id, by the gene: the same in whatever batch, order or process a
cell arrives. All arrays are (cells, genes) unless stated otherwise. The types of results follow those of what comes
in: a batch in narrow types (uint16, int16, uint8) stays narrow.
"""

from typing import NamedTuple

import numpy as np

from .kernels import kernel, part
from .keys import Stream, cell_keys, draw, substream, uniform

IGNORED = -100
"""Label of what the loss leaves out."""

_NOTHING_GIVEN, _NO_DRAWS = np.empty((0, 0, 0)), np.empty(0)
_DEVIATIONS, _FEW = 4.0, 24
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


@part
def _copy_inside(words, n, low, high, inside):
    """Copy those of the first `n` words from `low` to below `high`; returns how many lie below and how many in."""
    below, n_inside = np.int32(0), np.uint32(0)
    for i in range(n):
        below = np.int32(below + (words[i] < low))
    for i in range(n):
        word = words[i]
        inside[n_inside] = word
        n_inside += np.uint32((word >= low) & (word < high))
    return np.int64(below), np.int64(n_inside)


@part
def at_rank(words, rank):
    """The word that stands at `rank` in ascending order; the words are moved about.

    Quickselect as in Hoare, "Algorithm 65: find", CACM 4 (1961); numpy's sort and partition take seconds to compile.
    """
    first, last = 0, words.size - 1
    while first < last:
        pivot, i, j = words[(first + last) // 2], first, last
        while i <= j:
            while words[i] < pivot:
                i += 1
            while words[j] > pivot:
                j -= 1
            if i <= j:
                words[i], words[j] = words[j], words[i]
                i, j = i + 1, j - 1
        if rank <= j:
            last = j
        elif rank >= i:
            first = i
        else:
            break
    return words[rank]


@kernel
def smallest(words, n_smallest, n_words):
    """The word below which `n_smallest` of the others lie (fewer, where several words equal it).

    Args:
        words: uint64, of which `n_words` are uniform over their range; others are the largest possible.
        n_smallest: how many, less than `n_words`.
        n_words: how many words are uniform.
    """
    inside, rank, n = np.empty(words.size, np.uint64), n_smallest, n_words
    start, width = 0.0, _RANGE
    left, n_left = words, words.size
    while n > _FEW:
        # the number sought lies within a few standard deviations of its share of the range
        share = rank / n
        spread = _DEVIATIONS * np.sqrt(share * (1 - share) / n) + 1 / n
        low, high = start + width * max(share - spread, 0.0), start + width * min(share + spread, _BELOW_1)
        below, n_inside = _copy_inside(left, n_left, np.uint64(low), np.uint64(high), inside)
        if not below <= rank < below + n_inside or n_inside == n:
            return at_rank(words.copy(), n_smallest)
        rank, n, start, width = rank - below, n_inside, low, high - low
        left, n_left = inside, n
    return at_rank(left[:n_left].copy(), rank)


@part
def _choose_smallest(words, n_smallest, n_words, chosen):
    """Mark the `n_smallest` smallest words, of equal ones the first."""
    bound = smallest(words, n_smallest, n_words)
    n_chosen = np.int32(0)
    for j in range(words.size):
        chosen[j] = words[j] < bound
        n_chosen = np.int32(n_chosen + (words[j] < bound))
    for j in range(words.size):
        if n_chosen == n_smallest:
            break
        if words[j] == bound:
            chosen[j] = True
            n_chosen = np.int32(n_chosen + 1)


@part
def _words(ids, where, stream_key, given, words):
    """Words of a cell, in the order of its uniforms; the largest where not asked for. Returns how many are."""
    n = np.int32(0)
    for j in range(words.size):
        # that of 2**11 words makes the same uniform; `where - 1` has all bits where it is False
        words[j] = (draw(stream_key, ids[j]) & _BITS_OF_UNIFORMS) | (np.uint64(where[j]) - np.uint64(1))
    if given.size:
        for j in range(words.size):
            # rounded up: a given draw that equals a rate is not below it
            word = np.uint64(np.ceil(min(given[j], _BELOW_1) * 2.0**53)) << np.uint64(11)
            words[j] = word | (np.uint64(where[j]) - np.uint64(1))
    for j in range(words.size):
        n = np.int32(n + where[j])
    return np.int64(n)


@kernel
def _choose(ids, allowed, draws, ratios, up, chosen):
    words = np.empty(ids.shape[1], np.uint64)
    for i in range(ids.shape[0]):
        given = draws.given[0, i] if draws.given.size else _NO_DRAWS
        n_allowed = _words(ids[i], allowed[i], substream(draws.keys[i], Stream.MASK), given, words)
        if up:
            n_drawn = np.int64(np.ceil(np.float32(n_allowed) * np.float32(ratios[i])))
        else:
            n_drawn = np.int64(np.floor(n_allowed * ratios[i]))
        if n_drawn < n_allowed:
            _choose_smallest(words, n_drawn, n_allowed, chosen[i])
        else:
            for j in range(ids.shape[1]):
                chosen[i, j] = allowed[i, j]


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


@kernel
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


@kernel
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
    limits = np.iinfo(ids.dtype)
    # of their type, so that as many are compared at a time as can be
    special = np.array([one for one in special_ids if limits.min <= one <= limits.max], ids.dtype)
    _genes_of(ids, mask, special, found)
    return found


@kernel
def _fill(values, where, fill, out):
    for i in range(values.shape[0]):
        row, its_values, asked = out[i], values[i], where[i]
        for j in range(row.size):
            # read in either case, so that the compiler chooses without a jump: 30 times as fast where it is by chance
            value = its_values[j]
            row[j] = fill if asked[j] else value


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


@part
def _chosen_places(words, rate, places):
    """Places of the words whose uniform is below `rate`; returns how many."""
    # a uniform is its word over 2**64: the comparison of whole numbers is exact
    n, limit = np.uint32(0), np.uint64(min(np.ceil(rate * 2.0**53), 2.0**53 - 1)) << np.uint64(11)
    for j in range(words.size):
        places[n] = j
        n += np.uint32(words[j] < limit)
    return n


@kernel
def _mask_genes(ids, maskable, draws, ratios, hidden_ratio, changed_ratio, mask_id, n_tokens, out_ids, labels):
    words, places, given = np.empty(ids.shape[1], np.uint64), np.empty(ids.shape[1], np.uint32), draws.given
    for i in range(ids.shape[0]):
        key, row, out, its_labels = draws.keys[i], ids[i], out_ids[i], labels[i]
        _words(row, maskable[i], substream(key, Stream.MASK), given[0, i] if given.size else _NO_DRAWS, words)
        hiding, changing = substream(key, Stream.GENE_HIDDEN), substream(key, Stream.GENE_CHANGED)
        tokens = substream(key, Stream.GENE_TOKEN)
        for j in range(row.size):
            out[j] = row[j]
        its_labels[:] = IGNORED
        for place in range(_chosen_places(words, ratios[i], places)):
            j = places[place]
            token = row[j]
            its_labels[j] = token
            if (given[1, i, j] if given.size else uniform(hiding, token)) < hidden_ratio:
                out[j] = mask_id
            elif (given[2, i, j] if given.size else uniform(changing, token)) < changed_ratio:
                out[j] = np.int64((given[3, i, j] if given.size else uniform(tokens, token)) * n_tokens)


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


@kernel
def _longest_parts(mask, generated):
    n_known = n_generated = 1
    for i in range(mask.shape[0]):
        known = moved = np.int32(0)
        for j in range(mask.shape[1]):
            known = np.int32(known + (mask[i, j] != 0) - generated[i, j])
            moved = np.int32(moved + generated[i, j])
        n_known, n_generated = max(n_known, np.int64(known)), max(n_generated, np.int64(moved))
    return n_known, n_generated


@part
def _part(ids, values, mask, generated, room_ids, room_values):
    """Copy the tokens of a cell to either end of a room, those to generate backwards; returns how many are at either.

    What does not stay is overwritten, so that nothing depends on which way a token goes.
    """
    known, moved = np.uint32(0), np.uint32(room_ids.size - 1)
    for j in range(ids.size):
        is_moved = np.uint32(generated[j])
        place = moved if is_moved else known
        room_ids[place], room_values[place] = ids[j], values[j]
        known += np.uint32(mask[j] != 0) - is_moved
        moved -= is_moved
    return known, np.uint32(room_ids.size - 1) - moved


@part
def _fill_row(tokens, n, fill, row):
    for j in range(n):
        row[j] = tokens[j]
    row[n:] = fill


@part
def _fill_backwards(tokens, n, fill, row):
    last = tokens.size - 1
    for j in range(n):
        row[j] = tokens[last - j]
    row[n:] = fill


@part
def _fill_mask(n, row):
    row[:n] = 1
    row[n:] = 0


@kernel
def _split(ids, values, mask, generated, pad_id, pad_value, out):
    width, n_known = ids.shape[1] + 1, out.known_ids.shape[1]
    room_ids, room_values = np.empty(width, ids.dtype), np.empty(width, values.dtype)
    for i in range(ids.shape[0]):
        known, moved = _part(ids[i], values[i], mask[i], generated[i], room_ids, room_values)
        _fill_row(room_ids, known, pad_id, out.known_ids[i])
        _fill_row(room_values, known, pad_value, out.known_values[i])
        _fill_mask(known, out.known_mask[i])
        _fill_backwards(room_ids, moved, pad_id, out.generated_ids[i])
        _fill_mask(moved, out.generated_mask[i])
        out.labels[i, :n_known] = IGNORED
        _fill_backwards(room_values, moved, IGNORED, out.labels[i, n_known:])


def split(
    ids: np.ndarray, values: np.ndarray, mask: np.ndarray, generated: np.ndarray, *, pad_id: int, pad_value: float
) -> SplitCells:
    """Part every cell into genes that are known and genes that are to be generated, each in their order.

    Args:
        ids, values, mask: tokens, what goes with them, and which positions are real.
        generated: bool, real positions that go to the second part; False at padding.
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
