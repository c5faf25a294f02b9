"""Effects of perturbations as a table to read."""

import anndata
import numpy as np
import pandas as pd
import pytest

from sclm_hf import perturb
from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.perturb import States
from sclm_hf.tasks.perturbation.effects import effect_table

from ..tiny import GENES, make_cells, make_model, make_processor


def result(**settings):
    cells = make_cells()
    cells.obs["state"] = pd.Categorical(["ill", "well"] * 11 + ["ill"])
    return perturb(cells, make_model(), make_processor(), genes=GENES[:12], mode="overexpress", **settings)


def test_the_strongest_shift_to_the_goal_comes_first_with_its_interval_and_effect_size():
    found = result(states=States("state", "ill", "well"))
    table = effect_table(found)
    shifts, low, high = (
        table[name] for name in ("shift to well (cosine)", "95 % interval, low", "95 % interval, high")
    )
    assert list(shifts) == sorted(shifts, reverse=True) and ((low <= shifts) & (shifts <= high)).all()
    assert table["effect size (rank-biserial)"].between(-1, 1).all()
    assert (
        "false discovery rate (Benjamini-Hochberg)" in table
        and "Benjamini" in found.uns["sclm_hf"]["perturb"]["test"]["method"]
    )
    assert found.uns["sclm_hf"]["perturb"]["interval"]["of"] == "shift_well"


def test_without_states_the_least_similar_come_first_and_donors_widen_intervals():
    cells, donors = effect_table(result()), effect_table(result(donor_key="batch"))
    similarity = cells["similarity to itself before (cosine)"]
    assert list(similarity) == sorted(similarity) and list(cells["perturbation"]) == list(donors["perturbation"])
    np.testing.assert_array_equal(similarity, donors["similarity to itself before (cosine)"])
    # two batches are too few
    assert cells["95 % interval, low"].notna().all() and donors["95 % interval, low"].isna().all()


@pytest.mark.parametrize("states", [None, States("state", "ill", "well")])
def test_what_was_not_tested_comes_last_in_the_same_order(states):
    found = result(states=states)
    before, column = effect_table(found), "similarity_low" if states is None else "p_value"
    untested = before["perturbation"].iloc[[0, 3]].tolist()
    found.var.loc[untested, column] = np.nan
    expected = [name for name in before["perturbation"] if name not in untested] + untested
    assert effect_table(found)["perturbation"].tolist() == expected


def test_what_is_no_result_is_refused():
    with pytest.raises(ConfigurationError, match="no effects of perturbations"):
        effect_table(anndata.AnnData(np.zeros((2, 2))))
