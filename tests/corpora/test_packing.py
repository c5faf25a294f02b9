import numpy as np

from sclm_hf.corpora.packing import Packed, allocate, flat_sizes, unpack

SHAPES = [{"ids": (2, 3), "labels": (2,)}, {}, {"ids": (1, 4), "labels": (1,)}]


def test_batches_are_views_of_flat_arrays_in_order():
    assert flat_sizes(SHAPES) == {"ids": 10, "labels": 3}
    flat = allocate({"ids": (np.int64, 10), "labels": (np.float32, 3)})
    assert flat["labels"].dtype == np.float32
    flat["ids"][:] = range(10)
    flat["labels"][:] = range(3)
    first, empty, last = unpack(Packed(flat, SHAPES))
    assert first["ids"].tolist() == [[0, 1, 2], [3, 4, 5]] and last["ids"].tolist() == [[6, 7, 8, 9]]
    assert empty == {} and last["labels"].tolist() == [2]
    assert np.shares_memory(first["ids"], flat["ids"])
