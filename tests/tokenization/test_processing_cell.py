import json
import multiprocessing
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError
from sclm_hf.tokenization.encodings.keys import hash_names

N_CELLS, N_GENES = 40, 60
GENES = [f"GENE{i}" for i in range(N_GENES)]


@pytest.fixture(scope="module")
def tokenizer():
    return GeneTokenizer.from_genes(GENES[:50])


@pytest.fixture(scope="module")
def counts():
    random = np.random.default_rng(0)
    dense = random.poisson(random.gamma(0.4, 3, (N_CELLS, N_GENES)))
    dense[:, 3] += 1
    return scipy.sparse.csr_matrix(dense.astype(np.float32))


@pytest.fixture(scope="module")
def gene_ids(tokenizer):
    return CellProcessor(ExpressionFeatureExtractor(), tokenizer).map_genes(GENES).gene_ids


def make(tokenizer, **parameters):
    return CellProcessor(ExpressionFeatureExtractor(**{"max_length": 20, **parameters}), tokenizer)


def cells_of(batch):
    """Each cell without its padding."""
    return [
        {name: array[i][mask == 1].tolist() for name, array in batch.items()}
        for i, mask in enumerate(batch["attention_mask"])
    ]


KINDS = [
    {"encoding": "bins"},
    {"encoding": "bins", "include_zero_genes": True},
    {"encoding": "bins", "truncation": "head", "add_cls": False},
    {"encoding": "continuous", "max_length": None},
    {"encoding": "rank", "truncation": "head"},
]


@pytest.mark.parametrize("parameters", KINDS)
def test_a_cell_is_the_same_in_any_batch_order_and_number_of_threads(tokenizer, counts, gene_ids, parameters):
    processor = make(tokenizer, **parameters)
    ids = hash_names([f"cell {i}" for i in range(N_CELLS)])
    whole = cells_of(processor.encode(counts, gene_ids, cell_ids=ids, seed=4, epoch=2))
    order = np.random.default_rng(1).permutation(N_CELLS)
    permuted = processor.encode(counts, gene_ids, cell_ids=ids[order], rows=order, seed=4, epoch=2, num_threads=3)
    assert cells_of(permuted) == [whole[i] for i in order]
    for start, stop in ((0, 1), (1, 8), (8, 40)):
        chunk = processor.encode(counts[start:stop], gene_ids, cell_ids=ids[start:stop], seed=4, epoch=2)
        assert cells_of(chunk) == whole[start:stop]
    columns = np.random.default_rng(2).permutation(N_GENES)
    moved = cells_of(processor.encode(counts[:, columns], gene_ids[columns], cell_ids=ids, seed=4, epoch=2))
    if parameters["encoding"] != "rank" and parameters.get("truncation") != "head":
        pairs = [sorted(zip(cell["input_ids"], cell["expression_values"], strict=True)) for cell in moved]
        assert pairs == [sorted(zip(cell["input_ids"], cell["expression_values"], strict=True)) for cell in whole]


def test_seed_epoch_and_cell_id_change_ties_and_subsets(tokenizer, counts, gene_ids):
    processor = make(tokenizer)
    ids = np.arange(N_CELLS)
    first = processor.encode(counts, gene_ids, cell_ids=ids)
    for other in ({"seed": 1}, {"epoch": 1}, {"cell_ids": ids + 1000}):
        second = processor.encode(counts, gene_ids, **{"cell_ids": ids, **other})
        assert (first["input_ids"] != second["input_ids"]).any()
        assert (first["expression_values"] != second["expression_values"]).any()


def test_layout_of_a_batch(tokenizer, counts, gene_ids):
    batch = make(tokenizer).encode(counts, gene_ids, cell_ids=np.arange(N_CELLS))
    ids, values, mask = batch["input_ids"], batch["expression_values"], batch["attention_mask"]
    assert (ids.dtype, values.dtype, mask.dtype) == (np.int64, np.float32, np.int64)
    assert ids.shape == values.shape == mask.shape == (N_CELLS, mask.sum(1).max())
    assert (np.diff(mask, axis=1) <= 0).all()
    assert (ids[:, 0] == tokenizer.cls_token_id).all() and (values[:, 0] == -2).all()
    np.testing.assert_array_equal(ids == tokenizer.pad_token_id, mask == 0)
    assert (values[mask == 0] == -2).all()
    genes = values[:, 1:][mask[:, 1:] == 1]
    assert genes.min() >= 1 and genes.max() <= 50 and (genes == genes.astype(int)).all()
    dense = counts.toarray()
    for row, cell in zip(dense, cells_of(batch), strict=True):
        known = gene_ids[(row > 0) & (gene_ids >= 0)]
        assert len(cell["input_ids"]) == min(20, known.size + 1)
        assert cell["input_ids"][1:] == [i for i in known if i in cell["input_ids"]]


def test_every_gene_is_as_likely_to_be_kept(tokenizer):
    processor = make(tokenizer, max_length=11)
    n = 4000
    batch = processor.encode(np.ones((n, 50), np.float32), np.arange(3, 53), cell_ids=np.arange(n))
    kept = np.bincount(batch["input_ids"][:, 1:].ravel(), minlength=53)[3:]
    assert abs(kept - n * 10 / 50).max() < 4.5 * np.sqrt(n * 0.2 * 0.8)


def test_lengths_foretell_tokens(tokenizer, counts, gene_ids):
    for parameters in KINDS:
        processor = make(tokenizer, **parameters)
        batch = processor.encode(counts, gene_ids, cell_ids=np.arange(N_CELLS))
        np.testing.assert_array_equal(processor.lengths(counts, gene_ids), batch["attention_mask"].sum(1))
        rows = np.array([7, 2])
        np.testing.assert_array_equal(
            processor.lengths(counts, gene_ids, rows=rows), batch["attention_mask"].sum(1)[rows]
        )
    empty = scipy.sparse.csr_matrix((1, N_GENES), dtype=np.float32)
    assert make(tokenizer).lengths(empty, gene_ids).tolist() == [0]


def test_zero_genes_and_stored_zeros(tokenizer, gene_ids):
    matrix = scipy.sparse.csr_matrix(([4.0, 0.0, 2.0], [0, 1, 2], [0, 3]), shape=(1, N_GENES))
    sparse = make(tokenizer).encode(matrix, gene_ids, cell_ids=[0])
    assert sparse["input_ids"][0, 1:].tolist() == [gene_ids[0], gene_ids[2]]
    full = make(tokenizer, include_zero_genes=True, max_length=None).encode(matrix, gene_ids, cell_ids=[0])
    assert full["input_ids"][0, 1:].tolist() == gene_ids[gene_ids >= 0].tolist()
    assert full["expression_values"][0, 1:4].tolist() == [50, 0, 1]
    assert (full["expression_values"][0, 4:] == 0).all()


def test_eos_and_medians_of_ranks(counts):
    tokenizer = GeneTokenizer.from_genes(
        ["A", "B", "C"], special_tokens=("<pad>", "<cls>", "<eos>"), eos_token="<eos>"
    )
    medians = {"A": 1.0, "B": 10.0, "C": 2.0}
    processor = make(tokenizer, encoding="rank", truncation="head", gene_medians=medians, add_eos=True, max_length=4)
    batch = processor.encode(np.array([[3, 20, 8]]), np.array([3, 4, 5]), cell_ids=[0])
    assert batch["input_ids"].tolist() == [[1, 5, 3, 2]]
    assert set(batch) == {"input_ids", "attention_mask"}
    del medians["C"]
    with pytest.raises(ConfigurationError, match="lacks 1 of the tokenizer's 3 genes, such as C"):
        make(tokenizer, encoding="rank", truncation="head", gene_medians=medians).encode(
            np.array([[3, 20, 8]]), np.array([3, 4, 5]), cell_ids=[0]
        )
    with pytest.raises(ConfigurationError, match="asks for a `eos_token`, which the tokenizer does not have"):
        make(GeneTokenizer.from_genes(["A"]), add_eos=True).encode(np.array([[3]]), np.array([3]), cell_ids=[0])


def with_value(counts, row, value):
    changed = counts.astype(np.float64)
    changed.data[changed.indptr[row]] = value
    return changed


@pytest.mark.parametrize(
    ("matrix", "arguments", "message"),
    [
        (lambda x: with_value(x, 3, -1), {}, r"1 of 40 cells have negative values \(rows 3\)"),
        (lambda x: with_value(x, 5, np.nan), {}, r"NaN or infinite values \(rows 5\)"),
        (lambda x: x * 0.7, {}, "expects counts, but .*% of the values in the matrix are fractional"),
        (lambda x: x, {"cell_ids": [1, 2]}, "2 cell ids, but 40 rows"),
        (lambda x: x, {"rows": [1, 2]}, "40 cell ids, but 2 rows"),
        (lambda x: x, {"uniforms": np.zeros(3)}, "3 uniforms, but .* stored value"),
        (lambda x: x[:, :5], {}, "60 gene ids, but 5 columns"),
        (
            lambda x: scipy.sparse.vstack([x[:30], x[30:].multiply([0] * 50 + [1] * 10)]).tocsr(),
            {},
            r"10 of 40 cells have no expressed gene that the model knows \(rows 30, 31, 32, 33, 34, …\): leave them",
        ),
    ],
)
def test_unfit_cells_are_refused(tokenizer, counts, gene_ids, matrix, arguments, message):
    with pytest.raises(ExpressionError, match=message):
        make(tokenizer).encode(matrix(counts), gene_ids, **{"cell_ids": np.arange(N_CELLS), **arguments})


def test_gene_ids_of_another_vocabulary_are_refused(tokenizer, counts, gene_ids):
    size = tokenizer.gene_vocabulary.size
    foreign = np.where(gene_ids == gene_ids.max(), size, gene_ids)
    with pytest.raises(ExpressionError, match=f"gene id {size} is not in the vocabulary, whose ids end at {size - 1}"):
        make(tokenizer, encoding="rank", truncation="head").encode(counts, foreign, cell_ids=np.arange(N_CELLS))


@pytest.mark.parametrize(
    ("encoding", "arguments", "error", "message"),
    [
        ("rank", {"totals": np.ones(3)}, ExpressionError, "3 totals, but 40 rows"),
        ("rank", {"totals": np.zeros(N_CELLS)}, ExpressionError, "`totals` must be positive"),
        (
            "rank",
            {"uniforms": np.zeros(3)},
            ConfigurationError,
            "`uniforms` is for the encoding `bins`, not for `rank`",
        ),
        ("bins", {"totals": np.ones(N_CELLS)}, ConfigurationError, "`totals` is for the encoding `rank`"),
    ],
)
def test_unfit_arguments_are_refused(tokenizer, counts, gene_ids, encoding, arguments, error, message):
    with pytest.raises(error, match=message):
        make(tokenizer, encoding=encoding, truncation="head").encode(
            counts, gene_ids, cell_ids=np.arange(N_CELLS), **arguments
        )


def test_no_cells_and_no_genes(tokenizer, counts, gene_ids):
    processor = make(tokenizer)
    assert processor.encode(counts[:0], gene_ids, cell_ids=np.empty(0, np.int64))["input_ids"].shape == (0, 0)
    with pytest.raises(ExpressionError, match="2 of 2 cells have no expressed gene"):
        processor.encode(np.empty((2, 0)), np.empty(0, np.int64), cell_ids=[1, 2])


def test_refusals_name_the_rows_of_the_matrix(tokenizer, counts, gene_ids):
    changed = counts.astype(np.int64)
    changed.data[changed.indptr[7] : changed.indptr[8]] = 0
    with pytest.raises(ExpressionError, match=r"1 of 2 cells have no expressed gene .* \(rows 7\)"):
        make(tokenizer).encode(changed, gene_ids, rows=[3, 7], cell_ids=[3, 7])


@pytest.mark.slow
def test_the_next_process_finds_compiled_kernels(tokenizer, counts, gene_ids):
    make(tokenizer).encode(counts, gene_ids, cell_ids=np.arange(N_CELLS))
    done = subprocess.run([sys.executable, "-c", ANOTHER_PROCESS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


ANOTHER_PROCESS = """
import numpy as np, scipy.sparse
from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.tokenization.encodings import bins
processor = CellProcessor(ExpressionFeatureExtractor(), GeneTokenizer.from_genes(["A", "B"]))
matrix = scipy.sparse.csr_matrix(np.ones((2, 2), np.float32))
processor.encode(matrix, np.array([3, 4]), cell_ids=np.arange(2))
stats = bins.bin_cells.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()))
"""


def test_works_in_a_forked_process(tokenizer, counts, gene_ids):
    processor = make(tokenizer)
    arguments = {"cell_ids": np.arange(N_CELLS), "num_threads": 2}
    wanted = processor.encode(counts, gene_ids, **arguments)["expression_values"]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply(processor.encode, (counts, gene_ids), arguments)["expression_values"]
    np.testing.assert_array_equal(found, wanted)


def test_kind_of_data(tokenizer, counts, gene_ids):
    ids = np.arange(N_CELLS)
    logs = counts.log1p()
    with pytest.raises(
        ExpressionError, match=r"expects normalised data, but the matrix holds whole numbers \(0.0% frac"
    ):
        make(tokenizer, expects="normalized").encode(counts, gene_ids, cell_ids=ids)
    make(tokenizer, expects="normalized").encode(logs, gene_ids, cell_ids=ids)
    make(tokenizer, expects="any").encode(logs, gene_ids, cell_ids=ids)
    make(tokenizer).encode(logs, gene_ids, cell_ids=ids, check=False)
    almost = with_value(counts, 0, 0.5)
    make(tokenizer).encode(almost, gene_ids, cell_ids=ids)
    with pytest.raises(ExpressionError, match="fractional"):
        make(tokenizer).encode(almost, gene_ids, rows=[0], cell_ids=[0])


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float64, np.uint8])
def test_counts_of_any_type_give_the_same_batch(tokenizer, counts, gene_ids, dtype):
    processor, ids = make(tokenizer), np.arange(N_CELLS)
    wanted = processor.encode(counts, gene_ids, cell_ids=ids)
    for matrix in (counts.astype(dtype), counts.tocsc().astype(dtype), counts.toarray().astype(dtype)):
        for name, array in processor.encode(matrix, gene_ids, cell_ids=ids).items():
            np.testing.assert_array_equal(array, wanted[name])


def test_an_anndata_a_matrix_and_a_row(tokenizer, counts):
    processor = make(tokenizer)
    adata = anndata.AnnData(counts.log1p(), var=pd.DataFrame(index=GENES))
    adata.layers["counts"] = counts
    batch = processor(adata, return_tensors="pt")
    assert batch["input_ids"].dtype == torch.int64 and batch["expression_values"].dtype == torch.float32
    assert processor.last_coverage.n_genes == N_GENES and len(processor.last_coverage.missing) == 10
    backwards = processor(adata[::-1])
    assert cells_of(backwards) == cells_of({name: array.numpy() for name, array in batch.items()})[::-1]
    matrix = processor(counts, gene_names=GENES, cell_ids=hash_names(adata.obs_names))
    np.testing.assert_array_equal(matrix["expression_values"], batch["expression_values"])
    row = processor(counts.toarray()[4], gene_names=GENES, cell_ids=hash_names(adata.obs_names[4:5]))
    assert cells_of(row) == cells_of(matrix)[4:5]
    with pytest.raises(ExpressionError, match=r"the values in X are fractional: name with `layer`"):
        processor(adata, layer="X")
    with pytest.raises(ExpressionError, match="no layer `log`: expected one of counts, X"):
        processor(adata, layer="log")


def test_calls_that_say_too_little_or_too_much(tokenizer, counts):
    processor = make(tokenizer)
    with pytest.raises(ExpressionError, match="give `gene_names`"):
        processor(counts)
    with pytest.raises(ExpressionError, match="59 gene names, but 60 columns"):
        processor(counts, gene_names=GENES[:59])
    with pytest.raises(ExpressionError, match="A matrix has no layers"):
        processor(counts, gene_names=GENES, layer="counts")
    with pytest.raises(ExpressionError, match="no cells to encode"):
        processor(counts[:0], gene_names=GENES)
    with pytest.raises(GeneCoverageError, match="knows few of the genes"):
        processor(counts, gene_names=[f"NOT{i}" for i in range(N_GENES)])
    with pytest.raises(ExpressionError, match="negative values"):
        processor(with_value(counts, 0, -3), gene_names=GENES)


@pytest.mark.parametrize("parameters", KINDS)
def test_saved_and_found_by_auto_classes(tokenizer, counts, gene_ids, tmp_path, parameters):
    processor = make(tokenizer, **parameters)
    processor.encode(counts, gene_ids, cell_ids=np.arange(N_CELLS))
    processor.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CellProcessor
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is GeneTokenizer
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ExpressionFeatureExtractor
    assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert loaded.model_input_names == processor.model_input_names
    wanted = processor.encode(counts, gene_ids, cell_ids=np.arange(N_CELLS))
    for name, array in loaded.encode(counts, gene_ids, cell_ids=np.arange(N_CELLS)).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_found_beside_a_models_config(tokenizer, tmp_path):
    make(tokenizer).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "scgpt"}))
    assert type(AutoProcessor.from_pretrained(tmp_path)) is CellProcessor


@pytest.mark.parametrize(
    ("parameters", "values"),
    [
        ({}, np.int16),
        ({"cls_value": 0.5}, np.float32),
        ({"n_bins": 40_000}, np.float32),
        ({"pad_value": -40_000.0}, np.float32),
        ({"encoding": "continuous"}, np.float32),
    ],
    ids=str,
)
def test_narrow_types_hold_what_is_encoded(tokenizer, counts, gene_ids, parameters, values):
    processor = make(tokenizer, **parameters)
    assert processor.token_types == (np.uint16, values)
    tokens = processor.tokens(counts, gene_ids, cell_ids=np.arange(N_CELLS))
    narrow = tokens._replace(
        ids=tokens.ids.astype(processor.token_types[0]), values=tokens.values.astype(processor.token_types[1])
    )
    padded, expected = processor.padded(narrow), processor.padded(tokens)
    for name in expected:
        assert padded[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(padded[name], expected[name])


def test_ids_of_a_large_vocabulary_are_not_narrowed_too_far():
    largest = GeneTokenizer.from_genes([f"G{number}" for number in range(2**16)])
    assert make(largest).token_types[0] == np.int32
