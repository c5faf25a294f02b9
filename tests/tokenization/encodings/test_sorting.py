import numpy as np
import pytest

from sclm_hf.tokenization.encodings.sorting import sort_scratch, stable_sort

random = np.random.default_rng(0)
CASES = {
    "one": [3.0],
    "equal": np.ones(50),
    "counts": random.negative_binomial(1, 0.2, 3000) + 1.0,
    "logs": np.log1p(random.integers(1, 40, 2000)),
    "lognormal": random.lognormal(0, 2, 5000),
    "more than buckets": random.random(20_000),
    "descending": np.arange(4000, 0, -1.0),
    "all but one in a bucket": np.r_[1e300, random.permutation(3000) + 1.0],
    "subnormal and huge": np.r_[5e-324, 1e308, random.random(100)],
}


@pytest.mark.parametrize("case", CASES)
def test_as_numpy_sorts(case):
    values = np.asarray(CASES[case], np.float64)
    n = values.size
    ordered, order = np.empty(n, np.uint64), np.empty(n, np.int32)
    stable_sort(values.view(np.uint64), n, ordered, order, sort_scratch(n))
    np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(ordered.view(np.float64), np.sort(values))
