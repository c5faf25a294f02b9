import numpy as np
import pytest
import scipy.sparse

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.perturbations.screen import Condition, Screen, check_separator
from sclm_hf.evaluation.perturbations.splits import PerturbationSplit, held_out

STATE = """
[datasets]
replogle = "/data/replogle/"

[training]
replogle = "train"

[zeroshot]
"replogle.jurkat" = "test"

[fewshot."replogle.rpe1"]
val = ["AARS"]
test = ["NUP107", "RPUSD4"]
"""


def screen(contexts=("jurkat", "rpe1"), perturbations=("AARS", "NUP107", "RPUSD4", "TUFM"), **settings):
    pairs = [(context, name) for context in contexts for name in (*perturbations, "control")]
    of_cell = np.array(pairs, dtype=object)
    values = scipy.sparse.csr_matrix(np.ones((len(pairs), 2), np.float32))
    return Screen(values, ("A", "B"), of_cell[:, 1], of_cell[:, 0], "control", **settings)


def test_a_split_of_state_says_what_each_condition_is_for(tmp_path):
    (tmp_path / "split.toml").write_text(STATE)
    parts = PerturbationSplit.read(tmp_path / "split.toml").parts(screen())
    assert parts["train"] == [Condition("rpe1", "TUFM")] and parts["val"] == [Condition("rpe1", "AARS")]
    assert {name for context, name in parts["test"] if context == "jurkat"} == {"AARS", "NUP107", "RPUSD4", "TUFM"}
    assert {name for context, name in parts["test"] if context == "rpe1"} == {"NUP107", "RPUSD4"}


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "split.toml").write_text(STATE)
    split = PerturbationSplit.read(tmp_path / "split.toml")
    split.write(tmp_path / "again.toml")
    assert PerturbationSplit.read(tmp_path / "again.toml") == split
    held_out(screen(), 0.5, seed=0).write(tmp_path / "drawn.toml")
    assert len(PerturbationSplit.read(tmp_path / "drawn.toml").parts(screen())["test"]) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[zeroshot]", "[zero_shot]", r"table \[zero_shot\]"),
        ('= "test"\n\n[fewshot', '= "tset"\n\n[fewshot', "'tset' in .zeroshot.: expected val or test"),
        ('val = ["AARS"]', 'val = ["NUP107"]', "'NUP107' in two lists"),
        ("AARS", "AARS9", "'AARS9' for 'rpe1', of which the data have no cell"),
        ("replogle.jurkat", "replogle.k562", "cell type 'k562'.*`--cell-type-key`"),
        ("[training]", "[training", "cannot be read as TOML"),
        ('val = ["AARS"]', 'val = "AARS"', "must hold lists"),
        ('replogle = "/data/replogle/"', 'a = "/a/"\nb = "/b/"', "`--dataset`"),
    ],
)
def test_splits_that_do_not_fit_are_refused(tmp_path, old, new, message):
    (tmp_path / "split.toml").write_text(STATE.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=message):
        PerturbationSplit.read(tmp_path / "split.toml").parts(screen())


def test_holding_out_none_or_all_is_refused():
    for share in (0.01, 0.99):
        with pytest.raises(ConfigurationError, match="`--hold-out`"):
            held_out(screen(), share, seed=0)


def test_parts_of_a_combination_are_its_genes_without_the_control():
    assert screen().parts("B + A") == ("A", "B") and screen().parts("A+control") == ("A",)


def test_combinations_joined_by_something_else_are_named():
    joined = screen(perturbations=("A", "B", "A_B"))
    with pytest.raises(ConfigurationError, match=r"'A_B' seems to be A and B together, joined by '_'.*`--separator`"):
        check_separator(joined, list(joined.perturbations), {"A", "B"})
    check_separator(screen(perturbations=("A", "A_B"), separator="_"), ["A_B"], {"A", "B"})
