"""A stable sort for one cell: two counting passes over leading bits, then insertion where these agree.

The leading bits are taken of the differences from the smallest key. Keys are the bits of positive float64 values,
whose order is the values' order, so equal steps of the key are about logarithmic, which suits expression values:
hardly any two of a cell share their leading 20 bits without being equal. Where they do not suit, a merge sort takes
over.
"""

import numpy as np

from .kernels import kernel, part

_BITS = 10
_BUCKETS = 1 << _BITS
_LOW_BITS = np.uint32(_BUCKETS - 1)
_SHIFT = np.uint32(_BITS)
_MOVES_PER_KEY = 8


def sort_scratch(size: int) -> tuple[np.ndarray, ...]:
    """What [`stable_sort`] works in, for at most `size` keys."""
    return np.empty(size, np.uint32), np.empty(size, np.int32), np.empty((2, _BUCKETS), np.uint32)


@part
def _leading_bits(keys, n, digits):
    """The leading 20 bits of (key - smallest key)."""
    low = high = keys[0]
    for i in range(n):
        low = min(low, keys[i])
        high = max(high, keys[i])
    shift = np.uint64(0)
    while (high - low) >> shift >= np.uint64(_BUCKETS * _BUCKETS):
        shift += np.uint64(1)
    for i in range(n):
        digits[i] = (keys[i] - low) >> shift


@part
def _bucket_starts(digits, n, starts):
    """Where each bucket of the lower (row 0) and upper (row 1) half of the digits begins."""
    starts[:] = 0
    for i in range(n):
        starts[0, digits[i] & _LOW_BITS] += np.uint32(1)
        starts[1, digits[i] >> _SHIFT] += np.uint32(1)
    low = high = np.uint32(0)
    for bucket in range(_BUCKETS):
        low_here, high_here = starts[0, bucket], starts[1, bucket]
        starts[0, bucket], starts[1, bucket] = low, high
        low += low_here
        high += high_here


@part
def _order_of_digits(digits, n, first, order, starts):
    for i in range(n):
        bucket = digits[i] & _LOW_BITS
        place = starts[0, bucket]
        starts[0, bucket] = place + np.uint32(1)
        first[place] = i
    for j in range(n):
        i = np.uint32(first[j])
        bucket = digits[i] >> _SHIFT
        place = starts[1, bucket]
        starts[1, bucket] = place + np.uint32(1)
        order[place] = i


@part
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


@part
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


@kernel
def stable_sort(keys, n, sorted_keys, order, scratch):
    """Sort the first `n` uint64 `keys` ascending, equal keys in the order given.

    Args:
        keys: (>= n,) uint64, left as they are.
        n: how many, at least 1.
        sorted_keys: (>= n,) uint64, receives the keys in order.
        order: (>= n,) int32, receives where each of them stood.
        scratch: from [`sort_scratch`].
    """
    digits, first, starts = scratch
    _leading_bits(keys, n, digits)
    _bucket_starts(digits, n, starts)
    _order_of_digits(digits, n, first, order, starts)
    for j in range(n):
        sorted_keys[j] = keys[np.uint32(order[j])]
    if not _insertion_sort(sorted_keys[:n], order[:n]):
        _merge_sort(sorted_keys[:n], order[:n])
