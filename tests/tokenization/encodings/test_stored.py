import numpy as np
import pytest
import scipy.sparse as sp

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.tokenization.encodings.cells import CellTokens
from sclm_hf.tokenization.encodings.stored import StoredEntries, StoredRows

GENES = [f"GENE{number}" for number in range(60)]
CHUNK = 50
GAPS = (0, 24, 0, 0, 8)


def make_processor(**settings) -> CellProcessor:
    if settings.get("encoding") == "rank":
        medians = np.random.default_rng(3).lognormal(size=len(GENES)).tolist()
        settings["gene_medians"] = dict(zip(GENES, medians, strict=True))
    settings = {"encoding": "bins", "expects": "any", **settings}
    return CellProcessor(ExpressionFeatureExtractor(**settings), GeneTokenizer.from_genes(GENES))


def make_matrix(dtype: type, n_cells: int = 90) -> sp.csr_matrix:
    """Cells of 1 to 60 genes; one is alone in having more entries than a chunk."""
    rng = np.random.default_rng(0)
    values = rng.gamma(2, 3, (n_cells, len(GENES))) if np.dtype(dtype).kind == "f" else rng.integers(1, 30, (90, 60))
    values[rng.random(values.shape) > rng.uniform(0.02, 0.8, (n_cells, 1))] = 0
    values[17] = np.arange(1, 61)
    values[np.arange(n_cells), rng.integers(0, 50, n_cells)] = 5
    return sp.csr_matrix(values.astype(dtype))


def store(file, values: np.ndarray) -> StoredEntries:
    """Write the chunks of an array, some with a gap behind them."""
    offsets = []
    for number, start in enumerate(range(0, len(values), CHUNK)):
        offsets.append(file.tell())
        chunk = np.zeros(CHUNK, values.dtype)
        chunk[: len(values[start : start + CHUNK])] = values[start : start + CHUNK]
        file.write(chunk.tobytes() + b"\xff" * GAPS[number % len(GAPS)])
    return StoredEntries(np.array(offsets), CHUNK, values.dtype)


def encode(path, matrix, rows, gene_ids, processor) -> list[tuple[list, list]] | None:
    with open(path, "w+b") as file:
        parts = store(file, matrix.indices), store(file, matrix.data)
        file.flush()
        stored = StoredRows(file.fileno(), matrix.indptr.astype(np.int64), *parts)
        room = processor.stored_room(stored, rows, gene_ids)
        ids, values = np.full(room.sum() + 9, -7, np.int32), np.full(room.sum() + 9, -7, np.float32)
        out = CellTokens(ids, values, room.cumsum() - room + 3, np.full(len(rows), -1))
        which = {"cell_ids": rows + 1000, "seed": 5, "epoch": 2}
        if not processor.encode_stored(stored, rows, gene_ids, out, **which):
            return None
        assert (ids[:3] == -7).all() and (ids[-6:] == -7).all(), "written beyond its room"
        return cells_of(out)


def cells_of(tokens: CellTokens) -> list[tuple[list, list]]:
    parts = [slice(start, start + n) for start, n in zip(tokens.starts, tokens.lengths, strict=True)]
    return [(tokens.ids[part].tolist(), tokens.values[part].tolist()) for part in parts]


SETTINGS = [
    {"max_length": None, "n_bins": 11},
    {"max_length": 12, "n_bins": 11},
    {"max_length": 12, "truncation": "head", "add_cls": False},
    {"max_length": None, "include_zero_genes": True},
    {"encoding": "rank", "max_length": 20, "truncation": "head"},
    {"encoding": "rank", "max_length": None, "truncation": "head", "add_cls": False},
]


def cases():
    """Kernels are compiled for each encoding and type of counts; the default run takes that of most files."""
    for settings in SETTINGS:
        for dtype in (np.float32, np.int64, np.float64, np.int32):
            marks = () if dtype is np.float32 else pytest.mark.slow
            yield pytest.param(settings, dtype, marks=marks, id=f"{settings}-{dtype.__name__}")


@pytest.mark.parametrize(("settings", "dtype"), list(cases()))
def test_rows_of_a_file_are_encoded_as_rows_in_memory(tmp_path, settings, dtype):
    processor, matrix = make_processor(**settings), make_matrix(dtype)
    rows = np.r_[0:40, 43, 45:90]
    gene_ids = processor.map_genes(GENES).gene_ids.copy()
    gene_ids[50:] = -1
    expected = processor.tokens(matrix[rows], gene_ids, cell_ids=rows + 1000, seed=5, epoch=2)
    found = encode(tmp_path / "file", matrix, rows, gene_ids, processor)
    if "expression_values" in processor.model_input_names:
        assert found == cells_of(expected)
    else:
        assert [ids for ids, _ in found] == [ids for ids, _ in cells_of(expected)]


@pytest.mark.parametrize(
    "encoding", [{}, {"include_zero_genes": True}, {"encoding": "rank", "truncation": "head"}], ids=str
)
def test_columns_in_any_order_and_columns_of_one_gene_are_read_alike(tmp_path, encoding):
    processor, matrix, rows = make_processor(**encoding), make_matrix(np.float32), np.arange(90)
    order = np.random.default_rng(3).permutation(len(GENES))
    gene_ids = processor.map_genes([GENES[column] for column in order]).gene_ids.copy()
    gene_ids[[4, 9]] = -2 - 3
    expected = processor.tokens(matrix, gene_ids, cell_ids=rows + 1000, seed=5, epoch=2)
    found = encode(tmp_path / "file", matrix, rows, gene_ids, processor)
    assert [ids for ids, _ in found] == [ids for ids, _ in cells_of(expected)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_values_that_are_not_as_they_should_be_are_left_to_others(tmp_path, value):
    processor, matrix = make_processor(), make_matrix(np.float32)
    matrix.data[matrix.indptr[60] : matrix.indptr[61]] = value
    gene_ids = processor.map_genes(GENES).gene_ids
    assert encode(tmp_path / "file", matrix, np.arange(60), gene_ids, processor) is not None
    assert encode(tmp_path / "file", matrix, np.arange(90), gene_ids, processor) is None


@pytest.mark.parametrize("indices", [[0, 60], [-1, 5], [7, 3], [7, 7]])
def test_indices_that_are_not_as_they_should_be_are_left_to_others(tmp_path, indices):
    processor, matrix = make_processor(), make_matrix(np.float32)
    matrix.indices[matrix.indptr[18] - 2 : matrix.indptr[18]] = indices
    gene_ids = processor.map_genes(GENES).gene_ids
    assert encode(tmp_path / "file", matrix, np.arange(90), gene_ids, processor) is None


def test_a_file_that_ends_too_soon_is_left_to_others(tmp_path):
    processor, matrix = make_processor(), make_matrix(np.float32)
    gene_ids, rows = processor.map_genes(GENES).gene_ids, np.arange(90)
    with open(tmp_path / "file", "w+b") as file:
        parts = store(file, matrix.indices), store(file, matrix.data)
        file.truncate(file.tell() - 400)
        stored = StoredRows(file.fileno(), matrix.indptr.astype(np.int64), *parts)
        room = processor.stored_room(stored, rows, gene_ids)
        out = CellTokens(np.empty(room.sum(), np.int32), np.empty(room.sum(), np.float32), room.cumsum() - room, room)
        assert not processor.encode_stored(stored, rows, gene_ids, out, cell_ids=rows)


def test_encodings_that_it_is_not_for(tmp_path):
    matrix, rows = make_matrix(np.float32), np.arange(90)
    with open(tmp_path / "file", "w+b") as file:
        parts = store(file, matrix.indices), store(file, matrix.data)
        stored = StoredRows(file.fileno(), matrix.indptr.astype(np.int64), *parts)
    gene_ids = make_processor().map_genes(GENES).gene_ids.copy()
    assert make_processor(encoding="continuous").stored_room(stored, rows, gene_ids) is None
