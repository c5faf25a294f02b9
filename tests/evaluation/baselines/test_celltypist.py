import logging

import pytest

from sclm_hf.evaluation.baselines.baseline import predict_splits
from sclm_hf.evaluation.baselines.celltypist import CellTypist
from sclm_hf.evaluation.metrics import estimate
from sclm_hf.evaluation.splits import stratified_splits

from .baseline_cells import make_cells


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_celltypist_learns_and_leaves_logging_alone():
    pytest.importorskip("celltypist")
    counts, labels = make_cells()
    handlers = logging.getLogger().handlers[:]
    predictions = predict_splits(CellTypist(), counts, labels, stratified_splits(labels, seeds=(0,)))
    assert estimate(predictions, "accuracy", n_resamples=10).mean > 0.9
    assert logging.getLogger().handlers == handlers
