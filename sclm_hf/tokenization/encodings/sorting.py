"""A stable sort for one cell: one bucket pass, then insertion within what is nearly in order.

Buckets are equal steps of the key. Keys are the bits of positive float64 values (whose order is the values' order), so
the steps are about logarithmic, which suits expression values; where they do not suit, a merge sort takes over.
"""

import numpy as np
from numba import njit

MAX_BUCKETS = 1 << 13
_MIN_BUCKETS = 1 << 6
_MOVES_PER_KEY = 8


@njit(cache=True, nogil=True)
def _bucket_step(keys, n):
    """The smallest key, the shift of (key - smallest) that makes about four buckets a key, and how many these are."""
    low = high = keys[0]
    for i in range(n):
        low = min(low, keys[i])
        high = max(high, keys[i])
    buckets = _MIN_BUCKETS
    while buckets < 4 * n and buckets < MAX_BUCKETS:
        buckets *= 2
    shift = np.uint64(0)
    while ((high - low) >> shift) >= np.uint64(buckets):
        shift += np.uint64(1)
    return low, shift, np.int64((high - low) >> shift) + 1


@njit(cache=True, nogil=True)
def _fill_buckets(keys, n, sorted_keys, order, places, starts):
    low, shift, buckets = _bucket_step(keys, n)
    for i in range(n):
        places[i] = (keys[i] - low) >> shift
    starts[:buckets] = 0
    for i in range(n):
        starts[places[i]] += 1
    before = 0
    for bucket in range(buckets):
        here = starts[bucket]
        starts[bucket] = before
        before += here
    for i in range(n):
        rank = starts[places[i]]
        starts[places[i]] = rank + 1
        sorted_keys[rank] = keys[i]
        order[rank] = i


@njit(cache=True, nogil=True)
def _insertion_sort(keys, order):
    """Sort in place; False (with a permutation that is stable so far) when it takes too many moves."""
    moves = 0
    for i in range(1, keys.size):
        key = keys[i]
        if key < keys[i - 1]:
            index = order[i]
            j = i
            while j > 0 and keys[j - 1] > key:
                keys[j] = keys[j - 1]
                order[j] = order[j - 1]
                j -= 1
            keys[j] = key
            order[j] = index
            moves += i - j
            if moves > _MOVES_PER_KEY * keys.size:
                return False
    return True


@njit(cache=True, nogil=True)
def _merge_sort(keys, order):
    n, width = keys.size, 1
    while width < n:
        merged_keys, merged_order = np.empty(n, keys.dtype), np.empty(n, order.dtype)
        for start in range(0, n, 2 * width):
            middle, stop = min(start + width, n), min(start + 2 * width, n)
            i, j = start, middle
            for place in range(start, stop):
                if i < middle and (j >= stop or keys[i] <= keys[j]):
                    merged_keys[place], merged_order[place] = keys[i], order[i]
                    i += 1
                else:
                    merged_keys[place], merged_order[place] = keys[j], order[j]
                    j += 1
        for place in range(n):
            keys[place], order[place] = merged_keys[place], merged_order[place]
        width *= 2


@njit(cache=True, nogil=True)
def stable_sort(keys, n, sorted_keys, order, places, starts):
    """Sort the first `n` uint64 `keys` ascending, equal keys in the order given.

    Args:
        keys: (>= n,) uint64, left as they are.
        n: how many, at least 1.
        sorted_keys: (>= n,) uint64, receives the keys in order.
        order: (>= n,) int32, receives where each of them stood.
        places: (>= n,) uint16 of scratch.
        starts: (MAX_BUCKETS,) int32 of scratch.
    """
    _fill_buckets(keys, n, sorted_keys, order, places, starts)
    if not _insertion_sort(sorted_keys[:n], order[:n]):
        _merge_sort(sorted_keys[:n], order[:n])
