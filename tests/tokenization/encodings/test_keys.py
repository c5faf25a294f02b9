import subprocess
import sys

import numpy as np
import pytest

from sclm_hf.errors import ExpressionError
from sclm_hf.tokenization.encodings.keys import Stream, cell_keys, draw, hash_names, uniforms_for


def test_splitmix64_reference():
    # the first outputs of SplitMix64 seeded with 1234567, as published with the reference implementation
    seed = np.uint64(1234567)
    assert [int(draw(seed, counter)) for counter in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_a_draw_depends_on_cell_seed_epoch_stream_and_counter_alone():
    keys = cell_keys([5, 7, 9], seed=1, epoch=2)
    draws = uniforms_for(keys, 3, 4)
    np.testing.assert_array_equal(uniforms_for(keys[[2, 0]], 3, 4), draws[[2, 0]])
    np.testing.assert_array_equal(uniforms_for(keys, 3, np.array([[3, 0]] * 3)), draws[:, [3, 0]])
    others = [cell_keys([5, 7, 9], seed=1, epoch=3), cell_keys([5, 7, 9], seed=2, epoch=2)]
    for other in [*(uniforms_for(key, 3, 4) for key in others), uniforms_for(keys, 4, 4)]:
        assert not np.isin(other, draws).any()


def test_no_two_streams_share_a_number():
    numbers = [member.value for member in Stream.__members__.values()]
    assert sorted(numbers) == sorted(set(numbers))


def test_draws_are_uniform_and_uncorrelated():
    draws = uniforms_for(cell_keys(np.arange(2000), seed=0, epoch=0), 0, 500)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.bincount((draws.ravel() * 100).astype(int), minlength=100)
    chi_square = ((counts - draws.size / 100) ** 2 / (draws.size / 100)).sum()
    assert chi_square < 148  # the 99.9 % point of chi-square with 99 degrees of freedom
    for first, second in ((draws[:-1], draws[1:]), (draws[:, :-1], draws[:, 1:])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / np.sqrt(first.size)


@pytest.mark.parametrize("neighbours", ["cell", "seed", "epoch"])
def test_keys_of_neighbours_share_half_their_bits(neighbours):
    near = {
        "cell": lambda i: cell_keys([i], 0, 0),
        "seed": lambda i: cell_keys([0], i, 0),
        "epoch": lambda i: cell_keys([0], 0, i),
    }[neighbours]
    keys = np.concatenate([near(i) for i in range(2000)])
    assert np.unique(keys).size == keys.size
    flipped = np.bitwise_count(keys[1:] ^ keys[:-1])
    assert abs(flipped.mean() - 32) < 0.4


def test_cell_ids_may_be_uint64_stored_as_int64():
    ids = hash_names(["AAAC-1", "AAAG-1"])
    np.testing.assert_array_equal(cell_keys(ids, 0, 0), cell_keys(ids.view(np.int64), 0, 0))
    np.testing.assert_array_equal(cell_keys([3], 2**64 + 1, -1), cell_keys([3], 1, 2**64 - 1))


@pytest.mark.parametrize("ids", [["a"], [0.5], [[1, 2]]])
def test_other_cell_ids_are_refused(ids):
    with pytest.raises(ExpressionError, match=r"integers in one dimension.*hash_names"):
        cell_keys(ids, 0, 0)


HASHES = ["0xf52a15e9a9b5e89b", "0xfc59ff7b978ec6b5", "0xf1839c3bd867ef83"]  # from a plain-Python FNV-1a and `mix`


def test_counters_of_another_shape_are_refused():
    with pytest.raises(ExpressionError, match=r"one row for each of the 2 cells, got shape \(3, 4\)"):
        uniforms_for(cell_keys([1, 2], 0, 0), 3, np.zeros((3, 4), np.int64))


def test_hash_names_is_stable():
    assert [hex(value) for value in hash_names(["", "AAAC-1", "Zelle-ü"])] == HASHES
    code = (
        "from sclm_hf.tokenization.encodings.keys import hash_names\n"
        "print(*map(hex, hash_names(['', 'AAAC-1', 'Zelle-ü'])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == HASHES


def test_hash_names_tells_names_apart():
    names = [f"cell-{i}" for i in range(100_000)] + [f"{i}-cell" for i in range(100_000)]
    assert np.unique(hash_names(names)).size == len(names)
    np.testing.assert_array_equal(hash_names(names[::-1]), hash_names(names)[::-1])
    assert hash_names([]).shape == (0,)


def test_names_with_nul_are_refused():
    with pytest.raises(ExpressionError, match="NUL"):
        hash_names(["a", "b\0c"])
