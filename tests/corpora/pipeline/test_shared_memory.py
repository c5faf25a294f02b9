import torch

from sclm_hf.corpora.pipeline.shared_memory import SharedBatches


def parcel_of(batches, n, value):
    filled = [{"ids": torch.full((n, 2), value), "values": torch.full((n,), value / 2)}, {}]
    return batches.parcel(iter(filled), len(filled))


def test_batches_come_out_as_they_went_in_and_a_buffer_is_filled_again_after_the_next_but_one():
    batches = SharedBatches()
    first, second = parcel_of(batches, 7, 1), parcel_of(batches, 7, 2)
    batch, empty = first.opened()
    assert torch.equal(batch["ids"], torch.ones(7, 2, dtype=torch.int64)) and batch["values"].tolist() == [0.5] * 7
    assert empty == {}
    third = parcel_of(batches, 7, 3)
    assert third.buffer.data_ptr() == first.buffer.data_ptr() != second.buffer.data_ptr()
    assert first.buffer.is_shared()
    assert next(second.opened())["ids"].tolist() == [[2, 2]] * 7


def test_a_larger_window_gets_a_larger_buffer():
    batches = SharedBatches()
    for n in (1, 10, 100, 1000):
        assert next(parcel_of(batches, n, n).opened())["ids"].tolist() == [[n, n]] * n


def test_batches_that_grow_within_a_window_are_all_there():
    made = [{"ids": torch.full((n, 50), n)} for n in (1, 1, 400, 3000)]
    parcel = SharedBatches().parcel(iter(made), len(made))
    for found, expected in zip(parcel.opened(), made, strict=True):
        assert torch.equal(found["ids"], expected["ids"])
    assert parcel.buffer.is_shared()


def test_any_type_of_tensor_goes_through():
    half, flags = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), torch.tensor([True, False, True])
    small = torch.tensor([1, 2, 60_000], dtype=torch.uint16)
    (found,) = SharedBatches().parcel([{"half": half, "flags": flags, "small": small}], 1).opened()
    assert torch.equal(found["half"], half) and found["half"].dtype == torch.bfloat16
    assert torch.equal(found["flags"], flags) and found["small"].tolist() == [1, 2, 60_000]
