"""Recorded numbers of the originals, and the draws that they were made with."""

import json
from pathlib import Path

import numpy as np
import scipy.sparse

GOLDEN = Path(__file__).parents[1] / "golden"


def load(case: str) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and facts of a case, for example `"scgpt/preproc_a"`."""
    with np.load(GOLDEN / case / "io.npz") as arrays:
        return dict(arrays), json.loads((GOLDEN / case / "meta.json").read_text())


def recorded_uniforms(seed: int, n: int) -> np.ndarray:
    """The first `n` numbers of numpy's global generator after `numpy.random.seed(seed)`."""
    return np.random.RandomState(seed).random_sample(n)


def csr(dense: np.ndarray) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(dense)
