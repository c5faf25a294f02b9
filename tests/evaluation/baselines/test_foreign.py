"""Labels of other data sets, for those that they name."""

import numpy as np

from sclm_hf.evaluation.baselines.foreign import WithForeignLabels
from sclm_hf.evaluation.baselines.linear import ZScoredLogisticRegression

from .baseline_cells import make_cells


def test_foreign_labels_decide_among_those_that_they_name_and_no_others():
    counts, labels = make_cells()
    own = ZScoredLogisticRegression().fit(counts, labels)
    named = labels != "NK"
    foreign = ZScoredLogisticRegression().fit(counts[named][:20], np.where(labels == "B", "B", "T")[named][:20])
    found = np.exp(
        WithForeignLabels(ZScoredLogisticRegression(), foreign).fit(counts, labels).predict_log_proba(counts)
    )
    alone, theirs = np.exp(own.predict_log_proba(counts)), np.exp(foreign.predict_log_proba(counts))
    np.testing.assert_allclose(found[:, 1], alone[:, 1])
    np.testing.assert_allclose(found[:, [0, 2]], theirs * (1 - alone[:, [1]]), atol=1e-12)


def test_foreign_labels_that_name_none_of_the_types_change_nothing():
    counts, labels = make_cells()
    foreign = ZScoredLogisticRegression().fit(counts, [f"another {label}" for label in labels])
    expected = ZScoredLogisticRegression().fit(counts, labels).predict_log_proba(counts)
    found = WithForeignLabels(ZScoredLogisticRegression(), foreign).fit(counts, labels).predict_log_proba(counts)
    np.testing.assert_array_equal(found, expected)
