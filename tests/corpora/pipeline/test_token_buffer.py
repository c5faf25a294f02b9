from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import numpy as np

from sclm_hf.corpora.pipeline.token_buffer import TokenBuffer
from sclm_hf.tokenization.encodings.cells import CellTokens


def cells(*lengths, first=0):
    lengths = np.array(lengths)
    ids = np.arange(first, first + lengths.sum(), dtype=np.int32)
    return CellTokens(ids, ids / np.float32(2), lengths.cumsum() - lengths, lengths)


def test_cells_put_in_any_order_are_found_at_their_places():
    buffer = TokenBuffer()
    buffer.clear(5)
    buffer.put(cells(4, 1, first=100), slice(3, 5))
    buffer.put(cells(2, 3, 1), slice(0, 3))
    tokens = buffer.tokens
    found = [tokens.ids[start : start + n].tolist() for start, n in zip(tokens.starts, tokens.lengths, strict=True)]
    assert found == [[0, 1], [2, 3, 4], [5], [100, 101, 102, 103], [104]]
    np.testing.assert_array_equal(tokens.values, tokens.ids / 2)


def test_memory_is_used_again_and_grows_once_where_cells_are_alike():
    buffer, memories = TokenBuffer(), set()
    for _ in range(3):
        buffer.clear(10)
        for place in range(0, 10, 2):
            buffer.put(cells(6, 7), slice(place, place + 2))
            memories.add(buffer.tokens.ids.ctypes.data)
    assert len(memories) == 1


def test_ids_without_values():
    buffer = TokenBuffer()
    buffer.clear(2)
    buffer.put(cells(3, 2)._replace(values=np.empty(0, np.float32)), slice(0, 2))
    assert buffer.tokens.values.size == 0 and buffer.tokens.ids.tolist() == [0, 1, 2, 3, 4]


def test_no_array_is_replaced_while_another_thread_writes_into_it():
    buffer, lengths = TokenBuffer(), np.full(2, 5)
    buffer.clear(4)
    with ThreadPoolExecutor(1) as pool, buffer.room(lengths, slice(0, 2), with_values=True) as first:
        put = pool.submit(buffer.put, cells(300, 400, first=1000), slice(2, 4))
        assert wait([put], timeout=0.2).not_done
        first.ids[first.starts[0] : first.starts[0] + 10] = range(10)
        first.lengths[:] = 5, 4
    tokens = buffer.tokens
    found = [tokens.ids[start : start + n] for start, n in zip(tokens.starts, tokens.lengths, strict=True)]
    assert put.done() and [part[0] for part in found] == [0, 5, 1000, 1300] and len(found[1]) == 4


def test_room_that_was_given_up_leaves_enough_for_the_cells_when_they_come_again():
    buffer = TokenBuffer()
    buffer.clear(2)
    with buffer.room(np.full(2, 50), slice(0, 2), with_values=True):
        pass
    buffer.put(cells(50, 50), slice(0, 2))
    tokens = buffer.tokens
    assert tokens.ids[tokens.starts[0] :].tolist() == list(range(100))


def test_who_waits_for_room_goes_on_when_the_others_fail():
    buffer = TokenBuffer()
    buffer.clear(4)
    with ThreadPoolExecutor(1) as pool:
        with suppress(ValueError), buffer.room(np.full(2, 5), slice(0, 2), with_values=True):
            put = pool.submit(buffer.put, cells(300, 400), slice(2, 4))
            assert wait([put], timeout=0.2).not_done
            raise ValueError
        assert wait([put], timeout=60).done and put.exception() is None
