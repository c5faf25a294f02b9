"""Rank-value encoding against what Geneformer's own tokeniser wrote."""

import json

import numpy as np
import pytest
import scipy.sparse

from sclm_hf.tokenization.encodings.cells import Cells, CellTokens, Layout, take_genes
from sclm_hf.tokenization.encodings.rank import encode_rank

from ..golden import GOLDEN, csr, load

MAX_LENGTH = {"V1": 40, "V2": 48}


def dictionaries(case, version):
    folder = GOLDEN / case
    names = ("token_dictionary", "gene_median", "ensembl_mapping")
    return (json.loads((folder / f"{version}_{name}.json").read_text()) for name in names)


def layout_of(tokens, max_length):
    special = "<cls>" in tokens
    return Layout(
        cls_id=tokens["<cls>"] if special else -1,
        eos_id=tokens["<eos>"] if special else -1,
        pad_id=tokens["<pad>"],
        cls_value=0.0,
        pad_value=0.0,
        max_genes=max_length - 2 * special,
        sample=False,
        zeros=False,
    )


def room_for(lengths):
    starts = np.cumsum(lengths) - lengths
    return CellTokens(np.empty(lengths.sum(), np.int32), np.empty(0, np.float32), starts, lengths)


def rank(matrix, ids, totals, tokens, medians, max_length):
    factors = np.ones(max(tokens.values()) + 1)
    for gene, median in medians.items():
        if gene in tokens:
            factors[tokens[gene]] = 1 / median
    columns = np.array([tokens.get(gene, -1) for gene in ids], np.int32)
    cells = Cells(matrix.indptr, matrix.indices, matrix.data, np.arange(matrix.shape[0]), columns)
    genes, layout = take_genes(cells)[0], layout_of(tokens, max_length)
    specials = (layout.cls_id >= 0) + (layout.eos_id >= 0)
    out = room_for(np.minimum(np.diff(genes.indptr), layout.max_genes) + specials)
    encode_rank(genes, layout, out, factors=factors, totals=totals)
    return np.split(out.ids, out.starts[1:])


def recorded(golden, name):
    return np.split(golden[f"{name}__flat"], np.cumsum(golden[f"{name}__len"])[:-1])


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", ["geneformer/tok_a", "geneformer/tok_b"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_cells_tokenised_by_geneformer(case, version):
    golden, _ = load(case)
    tokens, medians, mapping = dictionaries(case, version)
    ids = [mapping.get(gene, gene) for gene in golden[f"{version}__ensembl_id"]]
    arguments = (csr(golden[f"{version}__X"]), ids, golden[f"{version}__n_counts"], tokens, medians)
    for kind in ("sparse", "dense"):
        if f"{version}_h5ad_{kind}__flat" in golden:
            assert_same(rank(*arguments, MAX_LENGTH[version]), recorded(golden, f"{version}_h5ad_{kind}"))
    untruncated = recorded(golden, f"{version}_untruncated")
    assert_same(rank(*arguments, 1000), untruncated)


@pytest.mark.parametrize("case", ["geneformer/tok_a", "geneformer/tok_b"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_stored_zeros_are_no_tokens(case, version):
    # the original gives stored zeros of sparse data tokens, after all others; those of dense data none, and so do we
    golden, _ = load(case)
    tokens, medians, mapping = dictionaries(case, version)
    name = f"{version}_explicit_zeros"
    parts = tuple(golden[f"{name}__{part}"] for part in ("X_data", "indices", "indptr"))
    matrix = scipy.sparse.csr_matrix(parts, shape=golden[f"{version}__X"].shape)
    ids = [mapping.get(gene, gene) for gene in golden[f"{version}__ensembl_id"]]
    zeros = [{tokens.get(ids[j]) for j in row.indices[row.data == 0]} for row in matrix]
    wanted = [
        [token for token in row if token not in zero] for row, zero in zip(recorded(golden, name), zeros, strict=True)
    ]
    assert sum(map(len, wanted)) < golden[f"{name}__flat"].size
    np.testing.assert_array_equal(golden[f"{name}__length_col"], [len(row) for row in recorded(golden, name)])
    np.testing.assert_array_equal(golden[f"{name}__cell_id"], range(len(wanted)))
    assert_same(rank(matrix, ids, golden[f"{version}__n_counts"], tokens, medians, 1000), wanted)


def test_equal_values_keep_their_columns_order():
    matrix = csr(np.array([[2.0, 3.0, 2.0, 3.0, 0.0, 2.0]]))
    tokens = {"<pad>": 0, "a": 3, "b": 2, "c": 1, "d": 6, "e": 5, "f": 4}
    (found,) = rank(matrix, "abcdef", None, tokens, {}, 10)
    np.testing.assert_array_equal(found, [2, 6, 3, 1, 4])


def test_the_total_is_the_rows_sum_unless_given():
    # the total scales all of a cell's values alike: it can only show where rounding makes ties
    matrix = csr(np.array([[1.0, 2.0, 3.0]]))
    tokens = {"<pad>": 0, "a": 1, "b": 2, "c": 3}
    np.testing.assert_array_equal(rank(matrix, "abc", None, tokens, {}, 10)[0], [3, 2, 1])
    np.testing.assert_array_equal(rank(matrix, "abc", np.array([np.inf]), tokens, {}, 10)[0], [1, 2, 3])
