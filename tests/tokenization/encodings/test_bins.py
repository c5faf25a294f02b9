"""Quantile bins against numpy and against what scGPT itself computed."""

import numpy as np
import pytest

from sclm_hf.tokenization.encodings.bins import bin_cell, bin_scratch, encode_bins
from sclm_hf.tokenization.encodings.cells import Cells, CellTokens, Layout, pad, take_genes, taken_entries
from sclm_hf.tokenization.encodings.keys import cell_keys

from ..golden import csr, load, recorded_uniforms

BARE = Layout(
    cls_id=-1, eos_id=-1, pad_id=0, cls_value=0.0, pad_value=0.0, max_genes=1 << 40, sample=False, zeros=False
)


def bins_of(values, n_bins, uniforms, single=False):
    n = len(values)
    out = np.empty(n, np.float32)
    quantiles = np.linspace(0, 1, n_bins - 1)
    bin_cell(np.asarray(values, np.float64), n, uniforms, quantiles, single, bin_scratch(n, n_bins - 1), out)
    return out


def published(values, n_bins, uniforms):
    """The method as the paper's supplement and the specification state it, through numpy."""
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return np.ceil(uniforms * (right - left) + left)


random = np.random.default_rng(0)
CELLS = {
    "counts": random.negative_binomial(0.5, 0.05, 2000) + 1,
    "mostly ones": np.where(random.random(500) < 0.9, 1, random.integers(2, 2000, 500)),
    "large counts": random.integers(1, 10**6, 1000),
    "around the table": random.integers(4090, 4100, 100),
    "logs": np.log1p(random.integers(1, 60, 1500) * np.float32(3.7)).astype(np.float32),
    "floats": random.lognormal(0, 1.5, 2000).astype(np.float32),
    "doubles": random.lognormal(0, 1.5, 2000),
    "fractional and whole": np.r_[np.arange(1, 200), 0.5, 2.5],
    "one": np.array([7]),
    "two equal": np.array([2.5, 2.5]),
    "few": np.array([3, 1, 2]),
}


@pytest.mark.parametrize("n_bins", [2, 3, 7, 51, 1000])
@pytest.mark.parametrize("case", CELLS)
def test_as_published(case, n_bins):
    values = CELLS[case]
    uniforms = random.random(values.size)
    ours = bins_of(values, n_bins, uniforms, single=values.dtype == np.float32)
    np.testing.assert_array_equal(ours, published(values, n_bins, uniforms))
    assert ours.min() >= 1 and ours.max() <= n_bins - 1


@pytest.mark.parametrize("case", ["scgpt/preproc_a", "scgpt/preproc_b"])
@pytest.mark.parametrize("n_bins", [51, 10])
def test_rows_binned_by_scgpt(case, n_bins):
    golden, meta = load(case)
    matrix = csr(golden["binning__rows"])
    cells = Cells(
        matrix.indptr,
        matrix.indices,
        matrix.data,
        np.arange(matrix.shape[0]),
        np.arange(1, matrix.shape[1] + 1, dtype="i4"),
    )
    uniforms = recorded_uniforms(meta["seed"] + n_bins, matrix.nnz)
    layout, shape = BARE._replace(zeros=True), matrix.shape
    lengths = np.full(shape[0], shape[1])
    out = CellTokens(
        np.empty(matrix.shape[0] * shape[1], "i4"), np.empty(lengths.sum(), "f4"), lengths.cumsum() - shape[1], lengths
    )
    genes, keys = take_genes(cells)[0], cell_keys(cells.rows, 0, 0)
    encode_bins(genes, keys, layout, out, n_bins=n_bins, uniforms=uniforms[taken_entries(cells)])
    ids, bins, mask = pad(out, np.arange(shape[0]), 0, 0.0)
    np.testing.assert_array_equal(bins, golden[f"binning__nb{n_bins}__result_np"])
    np.testing.assert_array_equal(ids, np.broadcast_to(cells.tokens, ids.shape))
    assert (mask == 1).all()


def test_ties_are_spread_evenly():
    uniforms = random.random(100_000)
    counts = np.bincount(bins_of(np.ones(100_000), 51, uniforms).astype(int), minlength=51)
    assert counts[0] == 0
    assert abs(counts[1:] - 2000).max() < 5 * np.sqrt(2000)


def test_scratch_is_clean_after_each_cell():
    scratch, out = bin_scratch(100, 50), np.empty(100, np.float32)
    quantiles, uniforms = np.linspace(0, 1, 50), random.random(100)
    for values in ([5.0] * 50, [1.0, 9000.0], [1.0, 2.0, 0.5], [1.0, 2.0, 3.0]):
        values = np.array(values)
        bin_cell(values, values.size, uniforms, quantiles, False, scratch, out)
        np.testing.assert_array_equal(out[: values.size], published(values, 51, uniforms[: values.size]))


def test_counts_have_any_number_of_bins():
    values, uniforms = CELLS["counts"], random.random(2000)
    for n_bins in (2**15, 2**15 + 1, 2**15 + 2, 40_000):
        np.testing.assert_array_equal(bins_of(values, n_bins, uniforms), published(values, n_bins, uniforms))
