import numpy as np
import torch

from sclm_hf.corpora.shared_memory import SharedArrays, SharedBatches, WindowParcel
from sclm_hf.corpora.token_buffer import TokenBuffer
from sclm_hf.corpora.window_reader import Window
from sclm_hf.tokenization.encodings.cells import CellTokens


def parcel_of(batches, n, value):
    return batches.parcel([{"ids": torch.full((n, 2), value), "values": torch.full((n,), value / 2)}, {}])


def test_batches_come_out_as_they_went_in_and_a_buffer_is_filled_again_after_the_next_but_one():
    batches = SharedBatches()
    first, second = parcel_of(batches, 7, 1), parcel_of(batches, 7, 2)
    batch, empty = first.opened()
    third = parcel_of(batches, 7, 3)
    assert third.buffer.data_ptr() == first.buffer.data_ptr() != second.buffer.data_ptr()
    assert first.buffer.is_shared()
    assert torch.equal(batch["ids"], torch.ones(7, 2, dtype=torch.int64)) and batch["values"].tolist() == [0.5] * 7
    assert empty == {}
    assert next(second.opened())["ids"].tolist() == [[2, 2]] * 7


def test_a_larger_window_gets_a_larger_buffer():
    batches = SharedBatches()
    for n in (1, 10, 100, 1000):
        assert next(parcel_of(batches, n, n).opened())["ids"].tolist() == [[n, n]] * n


def test_any_type_of_tensor_goes_through():
    half, flags = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), torch.tensor([True, False, True])
    (found,) = SharedBatches().parcel([{"half": half, "flags": flags}]).opened()
    assert torch.equal(found["half"], half) and found["half"].dtype == torch.bfloat16
    assert torch.equal(found["flags"], flags)


def test_a_window_lies_in_shared_memory_also_after_its_buffer_has_grown():
    shared, buffer = SharedArrays(), None
    buffer = TokenBuffer(shared.allocate)
    for n in (3, 300):
        buffer.clear(1)
        ids, values = np.arange(n, dtype=np.int32), np.arange(n, dtype=np.float32)
        buffer.put(CellTokens(ids, values, np.array([0]), np.array([n])), slice(0, 1))
        parcel = WindowParcel.wrap(Window(buffer.tokens, {}, [np.array([0])]), shared)
        assert parcel.ids.is_shared() and parcel.values.is_shared()
        opened = parcel.opened()
        np.testing.assert_array_equal(opened.tokens.ids, ids)
        np.testing.assert_array_equal(opened.tokens.values, values)
    assert len(shared._tensors) == 2
