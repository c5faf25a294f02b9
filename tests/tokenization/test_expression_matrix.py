import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from sclm_hf.errors import ExpressionError
from sclm_hf.tokenization.encodings.cells import columns_of, tokens_of_columns
from sclm_hf.tokenization.expression_matrix import as_csr, read_cells, read_genes, select_counts

ENSEMBL = ["ENSG00000141510", "ENSG00000012048", "ENSG00000139618"]
SYMBOLS = ["TP53", "BRCA1", "BRCA2"]
TOKENS = np.array([3, 4, 5], np.int32)


def an_adata(var_names=SYMBOLS, layers=(), raw=False, **var):
    adata = anndata.AnnData(np.ones((2, 3), np.float32), var=pd.DataFrame(var, index=list(var_names)))
    if raw:
        adata.raw = adata.copy()
    for number, layer in enumerate(layers):
        adata.layers[layer] = np.full((2, 3), number + 2, np.float32)
    return adata


@pytest.mark.parametrize(
    ("adata", "layer", "expects", "source"),
    [
        (an_adata(), None, "counts", "X"),
        (an_adata(raw=True), None, "counts", "raw"),
        (an_adata(raw=True, layers=["log", "counts"]), None, "counts", 'layers["counts"]'),
        (an_adata(raw=True, layers=["log", "counts"]), "log", "counts", 'layers["log"]'),
        (an_adata(raw=True, layers=["counts"]), "X", "counts", "X"),
        (an_adata(raw=True, layers=["counts"]), "raw", "any", "raw"),
        (an_adata(raw=True, layers=["counts"]), None, "normalized", "X"),
        (an_adata(raw=True, layers=["log"]), "log", "normalized", 'layers["log"]'),
    ],
)
def test_where_the_data_are_found(adata, layer, expects, source):
    matrix, names, ensembl_ids, found = select_counts(adata, layer, expects=expects)
    assert (list(names), ensembl_ids, found) == (SYMBOLS, None, source)
    assert matrix.shape == (2, 3)


def test_a_missing_layer_is_refused():
    with pytest.raises(ExpressionError, match="no layer `count`: expected one of counts, X, raw"):
        select_counts(an_adata(raw=True, layers=["counts"]), "count")
    with pytest.raises(ExpressionError, match="`X` of the AnnData is empty"):
        select_counts(anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["TP53"])))


@pytest.mark.parametrize(
    ("adata", "names", "ensembl_ids"),
    [
        (an_adata(gene_ids=ENSEMBL), SYMBOLS, ENSEMBL),
        (an_adata(feature_id=["a", "b", "c"]), SYMBOLS, None),
        (an_adata(ENSEMBL), ENSEMBL, None),
        (an_adata(ENSEMBL, feature_name=SYMBOLS), SYMBOLS, ENSEMBL),
    ],
)
def test_names_and_ensembl_ids(adata, names, ensembl_ids):
    assert select_counts(adata)[1:3] == (names, ensembl_ids)


DENSE = np.array([[0, 2, 1], [5, 0, 0]])


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u2", "u1", "i4", ">f4", "g"])
@pytest.mark.parametrize(
    "make", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_matrix, np.asarray]
)
def test_any_form_and_type_is_read(make, dtype):
    if make is not np.asarray and dtype in ("f2", "g", ">f4"):
        matrix = scipy.sparse.csr_matrix(DENSE.astype("f4"))
        matrix.data = matrix.data.astype(dtype)
    else:
        matrix = make(DENSE.astype(dtype))
    cells, found = read_cells(matrix, columns_of(TOKENS))
    assert found.genes.tolist() == [2, 1]
    assert cells.data.tolist() == [2, 1, 5]


def test_booleans_one_row_and_backed_matrices_are_read():
    class Backed:
        def to_memory(self):
            return scipy.sparse.csr_matrix(DENSE)

    assert read_cells(DENSE[0] > 0, columns_of(TOKENS))[1].genes.tolist() == [2]
    assert read_cells(Backed(), columns_of(TOKENS))[1].genes.tolist() == [2, 1]
    assert read_cells(scipy.sparse.csr_matrix(DENSE > 0), columns_of(TOKENS))[1].values.tolist() == [2, 1]


def test_stored_zeros_are_not_expressed():
    matrix = scipy.sparse.csr_matrix(([0.0, 2.0], [0, 2], [0, 2]), shape=(1, 3))
    assert read_cells(matrix, columns_of(TOKENS))[1].genes.tolist() == [1]


def test_unsorted_and_doubled_entries_are_put_in_order_on_a_copy():
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0, 4.0, 3.0], [2, 0, 2, 1], [0, 3, 4]), shape=(2, 3))
    cells, found = read_cells(matrix, columns_of(TOKENS), rows=[1, 0])
    assert found.genes.tolist() == [1, 2] and (found.problems == 0).all()
    assert cells.indices.tolist() == [1, 0, 2] and cells.data.tolist() == [3, 2, 5]
    assert matrix.indices.tolist() == [2, 0, 2, 1]
    with pytest.raises(ExpressionError, match="`uniforms` need sorted, distinct"):
        read_cells(matrix, columns_of(TOKENS), uniforms=np.zeros(4))


class Csr:
    shape = (2, 3)

    def __init__(self, indptr, indices, data):
        self.indptr, self.indices, self.data = np.array(indptr), np.array(indices), np.array(data)


def test_anything_with_csr_arrays_is_read():
    assert read_cells(Csr([0, 1, 2], [2, 0], [1.0, 1.0]), columns_of(TOKENS))[1].genes.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (Csr([0, 1, 2], [2, 3], [1.0, 1.0]), r"1 of 2 cells have column indices out of range \(rows 1\)"),
        (Csr([0, 1, 2], [-1, 0], [1.0, 1.0]), r"column indices out of range \(rows 0\)"),
        (Csr([0, 1, 9], [2, 0], [1.0, 1.0]), r"bounds \(`indptr`\) outside the stored values \(rows 1\)"),
        (Csr([0, 2, 1], [2, 0], [1.0, 1.0]), r"bounds \(`indptr`\)"),
        (Csr([0, 2], [2, 0], [1.0, 1.0]), "1 row bounds .*, but 2 rows"),
        (Csr([0, 1, 2], [2, 0, 1], [1.0, 1.0]), "3 column indices, but 2 stored value"),
        (Csr([0, 1, 2], [2.0, 0.0], [1.0, 1.0]), "integers"),
        (Csr([0, 1, 2], [2, 0], ["a", "b"]), "Expression values are numbers"),
        (Csr([0, 1, 2], [2, 0], [1.0, np.nan]), r"NaN or infinite values \(rows 1\)"),
        (Csr([0, 1, 2], [2, 0], [np.inf, 1.0]), r"NaN or infinite values \(rows 0\)"),
        (Csr([0, 1, 2], [2, 0], [-1, 1]), r"negative values \(rows 0\): give counts or log-normalised"),
        (np.ones((2, 4)), "3 gene ids, but 4 columns"),
        (np.ones((1, 2, 3)), "Expected a .* matrix of numbers"),
        ("matrix.h5ad", "Expected a .* matrix of numbers"),
    ],
)
def test_damaged_or_unfit_matrices_are_refused(matrix, message):
    with pytest.raises(ExpressionError, match=message):
        read_cells(matrix, columns_of(TOKENS))


@pytest.mark.parametrize(
    ("rows", "message"),
    [([2], "holds 2: expected 0…1"), ([-1], "holds -1"), ([0.5], "row numbers"), ([[0]], "row numbers")],
)
def test_rows_that_do_not_exist_are_refused(rows, message):
    with pytest.raises(ExpressionError, match=message):
        read_cells(DENSE, columns_of(TOKENS), rows=rows)


@pytest.mark.parametrize("uniforms", [[0.5], [0.1, 0.2, 1.0], [0.1, 0.2, np.nan]])
def test_wrong_uniforms_are_refused(uniforms):
    with pytest.raises(ExpressionError, match="uniforms"):
        read_cells(DENSE, columns_of(TOKENS), uniforms=uniforms)


@pytest.mark.parametrize(
    "gene_ids", [[1, 2, 1], [-2, 3, 4], [0, 1, 2], [1.0, 2.0, 3.0], [[1, 2, 3]], [1, 2, 2**40 + 3]]
)
def test_gene_ids_that_no_mapping_makes_are_refused(gene_ids):
    with pytest.raises(ExpressionError, match="take `gene_ids` of the result of `map_genes`"):
        tokens_of_columns(np.array(gene_ids), (0, 9))


def test_as_csr_leaves_csr_alone():
    matrix = scipy.sparse.csr_matrix(DENSE)
    assert as_csr(matrix) is matrix


def test_columns_of_one_gene_are_added_up():
    matrix = scipy.sparse.csr_matrix(np.array([[1, 2, 0, 4], [0, 5, 6, 0]]))
    tokens = tokens_of_columns(np.array([7, -2, 3, -2]), ())
    genes, found, _ = read_genes(matrix, columns_of(tokens))
    assert (genes.ids.tolist()[:3], genes.values.tolist()[:3]) == ([7, 3, 7], [7, 6, 5])
    assert genes.indptr.tolist() == [0, 1, 3] and found.genes.tolist() == [1, 2]
    assert read_cells(matrix, columns_of(tokens))[1].genes.tolist() == [1, 2]
    assert genes.totals.tolist() == [7, 11]


@pytest.mark.parametrize("gene_ids", [[-3, -1, 4], [-5, 3, 4], [-3, -4, 5]])
def test_a_column_cannot_add_to_one_that_is_not_used(gene_ids):
    with pytest.raises(ExpressionError, match="Column 0 has the gene id"):
        tokens_of_columns(np.array(gene_ids), ())


def test_genes_of_a_cell_are_in_the_order_of_their_ids_whatever_the_columns():
    random = np.random.default_rng(0)
    dense, tokens = random.poisson(0.5, (20, 300)), random.permutation(100_000)[:300].astype(np.int32)
    tokens[::7] = -1
    order = random.permutation(300)
    one, _, _ = read_genes(dense, columns_of(tokens))
    other, _, _ = read_genes(dense[:, order], columns_of(tokens[order]))
    assert all((np.diff(one.ids[a:b]) > 0).all() for a, b in zip(one.indptr, one.indptr[1:], strict=False))
    n = one.indptr[-1]
    for name in ("indptr", "ids", "values", "totals", "columns"):
        np.testing.assert_array_equal(getattr(one, name)[:n], getattr(other, name)[:n])


def test_recorded_draws_keep_the_order_of_columns():
    tokens, uniforms = np.array([9, -1, 4], np.int32), np.array([0.1, 0.2, 0.3])
    genes, _, draws = read_genes(np.array([[1, 2, 3]]), columns_of(tokens), None, uniforms)
    assert (genes.ids[:2].tolist(), draws.tolist()) == ([9, 4], [0.1, 0.3])
    assert read_genes(np.array([[1, 2, 3]]), columns_of(tokens), as_columns=True)[0].ids[:2].tolist() == [9, 4]
    with pytest.raises(ExpressionError, match="one column a gene"):
        read_genes(np.array([[1, 2, 3]]), columns_of(np.array([4, -1, 4], np.int32)), None, uniforms)
