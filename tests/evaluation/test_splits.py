import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.splits import few_shot_splits, group_splits, stratified_folds, stratified_splits

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


def test_folds_test_each_cell_once_and_divide_every_label():
    folds = stratified_folds(LABELS, 5, seed=1)
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(100))
    for fold in folds:
        assert not set(fold.train) & set(fold.test) and len(fold.train) == 80
        assert [(np.array(LABELS)[fold.test] == name).sum() for name in ("B", "T", "NK")] == [10, 6, 4]
    with pytest.raises(ConfigurationError, match=r"5 folds need 5 cells of every label, and \['rare'\]"):
        stratified_folds([*LABELS, *["rare"] * 4])


def test_group_splits_leave_one_group_out():
    splits = group_splits(["b", "a", "b", "c"], name="donor")
    assert [split.name for split in splits] == ["donor a", "donor b", "donor c"]
    assert splits[1].train.tolist() == [1, 3] and splits[1].test.tolist() == [0, 2]


def test_few_shot_splits_draw_a_few_cells_of_every_label():
    splits = few_shot_splits(LABELS, per_label=5, seeds=(0, 4))
    assert [split.name for split in splits] == ["5 per label, seed 0", "5 per label, seed 4"]
    for split in splits:
        assert sorted(np.array(LABELS)[split.train]) == ["B"] * 5 + ["NK"] * 5 + ["T"] * 5
        assert np.array_equal(np.sort(np.concatenate([split.train, split.test])), np.arange(100))
    assert not np.array_equal(splits[0].train, splits[1].train)
    again = few_shot_splits(LABELS, per_label=5, seeds=(4,))[0]
    assert np.array_equal(again.train, splits[1].train)


def test_few_shot_splits_draw_within_a_split():
    platforms = ["v2", "v3"] * 50
    outer = group_splits(platforms, name="platform")[1]
    split = few_shot_splits(LABELS, per_label=3, seeds=(1,), within=outer)[0]
    assert split.name == "platform v3, 3 per label, seed 1"
    assert set(split.train) <= set(outer.train) and len(split.train) == 9
    assert np.array_equal(split.test, outer.test)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stratified_splits(["B", "B", None]), "1 of 3 cells have no label"),
        (lambda: stratified_splits(["B", "B", "T"]), r"\['T'\] have one"),
        (lambda: few_shot_splits(LABELS, per_label=25), r"25 .* \['NK'\] have fewer"),
        (lambda: group_splits(["a", "a"], name="donor"), "needs at least two"),
    ],
)
def test_bad_labels_are_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
