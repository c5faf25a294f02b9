"""Objectives are compared with the same encoder before its first step, and what they took is told."""

import numpy as np
import pytest

from sclm_hf.experiments.objectives import OBJECTIVES, TARGETS, logged, page

TRUE = ["a", "b"] * 20


@pytest.fixture
def found():
    good, bad = TRUE, ["a"] * 40
    predicted = {"PCA + LR": good, "z-scored LR": good}
    predicted |= {f"{name}, probe": bad if name.startswith("untrained") else good for name in OBJECTIVES}
    one = {"cells": list(range(40)), "true": TRUE, "predicted": predicted}
    return {
        target: {seed: one | {"seconds": dict.fromkeys(OBJECTIVES, 10.0 + seed)} for seed in (0, 2)}
        for target in TARGETS
    }


def test_each_is_compared_with_its_own_encoder_untrained(found):
    answers = [one for one in page(found).answers if "encoder `causal`" in one]
    assert len(answers) == len(TARGETS)
    assert "better than untrained, causal, probe: next gene, causal, probe (+0.67)" in answers[0]
    assert "contrastive" not in answers[0]


def test_steps_and_seconds_of_each_are_told(found):
    table = page(found).tables[-1]
    assert [row[0] for row in table.rows] == list(OBJECTIVES)
    assert {tuple(row[3:]) for row in table.rows} == {("11.0", "10.0 to 12.0")}


def test_values_are_those_of_the_counts_scaled_and_logged():
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    cells = anndata.AnnData(sparse.csr_matrix(np.array([[1.0, 3.0], [0.0, 2.0]], np.float32)))
    expected = np.log1p([[2500, 7500], [0, 10000]])
    np.testing.assert_allclose(logged(cells).X.toarray(), expected, rtol=1e-6)
    assert cells.X.max() == 3
