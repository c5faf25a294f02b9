import numpy as np
import torch

from sclm_hf.corpora.packing import unpack
from sclm_hf.corpora.shared_memory import SharedBuffers, received


def fill(buffers, n, value):
    arrays = buffers.arrays({"ids": (np.int64, n), "values": (np.float32, n)})
    arrays["ids"][:], arrays["values"][:] = value, value / 2
    return buffers.parcel([{"ids": (n,), "values": (n,)}])


def test_what_is_received_stays_and_a_buffer_is_filled_again_after_the_next_but_one():
    buffers = SharedBuffers()
    parcels = [fill(buffers, 7, value) for value in (1, 2)]
    copies = [received(parcel) for parcel in parcels]
    third = fill(buffers, 7, 3)
    assert third.buffer.data_ptr() == parcels[0].buffer.data_ptr() != parcels[1].buffer.data_ptr()
    assert parcels[0].buffer.is_shared()
    (batch,) = unpack(copies[0])
    assert torch.equal(batch["ids"], torch.ones(7, dtype=torch.int64)) and batch["values"].tolist() == [0.5] * 7
    assert received(parcels[1]).flat["ids"].tolist() == [2] * 7


def test_a_larger_window_gets_a_larger_buffer():
    buffers = SharedBuffers()
    for n in (1, 10, 100, 1000):
        assert received(fill(buffers, n, n)).flat["ids"].tolist() == [n] * n


def test_any_type_of_tensor_goes_through():
    buffers = SharedBuffers()
    tensors = buffers.tensors({"half": (torch.bfloat16, 3), "flags": (torch.bool, 3)})
    tensors["half"].copy_(torch.tensor([1.0, 2.0, 3.0]))
    tensors["flags"].copy_(torch.tensor([True, False, True]))
    flat = received(buffers.parcel([{"half": (3,), "flags": (3,)}])).flat
    assert flat["half"].dtype == torch.bfloat16 and flat["half"].tolist() == [1, 2, 3]
    assert flat["flags"].tolist() == [True, False, True]
