"""The poison of `conftest.py` is there."""

import numpy as np
import torch

from sclm_hf.tokenization.encodings import scratch


def test_fresh_memory_is_nan():
    assert np.isnan(np.empty(3)).all() and np.isnan(np.empty_like(np.zeros(3, np.float32))).all()
    assert (np.empty(3, np.int64) == -1).all()
    assert torch.empty(3).isnan().all()
    assert np.isnan(scratch.lent(8).view(np.float64)).all()
    assert np.isnan(scratch.Scratch().empty("a", 3, np.float32)).all()
