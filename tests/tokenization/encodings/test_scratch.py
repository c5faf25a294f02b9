"""Memory that is filled again."""

import gc

import torch

from sclm_hf.tokenization.encodings.scratch import lent


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_not_lent_again_while_a_view_or_a_tensor_of_it_is_left():
    first = lent(1000)
    kept = [first[8:16].view("float32"), torch.from_numpy(first)[5:]]
    before = address(first)
    del first
    for _ in range(2):
        gc.collect()
        others = [lent(1000) for _ in range(4)]
        for other in others:
            other[:] = 7
        assert all(abs(address(other) - before) >= 1000 for other in others)
        kept.pop()


def test_memory_given_back_is_lent_again_when_large_enough():
    large, larger = lent(1_000_000), lent(2_000_000)
    places = {address(large), address(larger)}
    del large, larger
    again = lent(900_000)
    assert again.size == 900_000
    assert again.flags.writeable
    assert address(again) in places


def test_too_small_memory_is_not_lent():
    small = lent(10)
    del small
    lent(3_000_000)[:] = 1  # would write beyond the end
    assert lent(3_000_000).size == 3_000_000


def test_tensors_of_a_loan_are_not_changed_by_later_loans():
    tensors = [torch.from_numpy(lent(64)).fill_(number) for number in range(8)]
    assert [tensor.unique().tolist() for tensor in tensors] == [[number] for number in range(8)]
