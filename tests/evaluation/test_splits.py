import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.splits import group_splits, stratified_splits

LABELS = ["B"] * 50 + ["T"] * 30 + ["NK"] * 20


def test_stratified_splits_keep_proportions_and_separate_the_cells():
    splits = stratified_splits(LABELS, seeds=(3, 7), test_share=0.2)
    assert [split.name for split in splits] == ["seed 3", "seed 7"]
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate([split.train, split.test])), np.arange(100))
        tested = np.array(LABELS)[split.test]
        assert [(tested == name).sum() for name in ("B", "T", "NK")] == [10, 6, 4]
    assert not np.array_equal(splits[0].test, splits[1].test)


def test_stratified_splits_depend_on_nothing_but_labels_and_seed():
    first = stratified_splits(LABELS, seeds=(0, 1))
    second = stratified_splits(LABELS, seeds=(1, 0))[::-1]
    assert all(np.array_equal(one.test, other.test) for one, other in zip(first, second, strict=True))


def test_group_splits_leave_one_group_out():
    splits = group_splits(["b", "a", "b", "c"], name="donor")
    assert [split.name for split in splits] == ["donor a", "donor b", "donor c"]
    assert splits[1].train.tolist() == [1, 3] and splits[1].test.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stratified_splits(["B", "B", None]), "1 of 3 cells have no label"),
        (lambda: stratified_splits(["B", "B", "T"]), r"\['T'\] have one"),
        (lambda: group_splits(["a", "a"], name="donor"), "needs at least two"),
    ],
)
def test_bad_labels_are_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
