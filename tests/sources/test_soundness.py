import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus, hash_file
from sclm_hf.errors import CorpusError, ExpressionError
from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.sources.opening import open_source
from sclm_hf.sources.soundness import check_rows, to_counts
from sclm_hf.sources.survey import look_at, survey_cells

from ..corpora.conftest import make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12}


def change_row(path, row, change):
    """Write a file in which `change` was applied to the gene indices of a row."""
    path.parent.mkdir(exist_ok=True)
    make_cells(300).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        start, stop = file["X/indptr"][row : row + 2]
        file["X/indices"][start:stop] = change(file["X/indices"][start:stop])
    return path


def doubled(indices):
    return np.concatenate([indices[:1], indices[:-1]])


@pytest.mark.parametrize("change", [lambda indices: indices + 40, lambda indices: indices - 40])
@pytest.mark.parametrize("row", [5, 30])
def test_indices_are_checked_at_opening_and_in_mid_stream(tmp_path, processor, change, row):
    """Row 5 is among those by which the source is judged, row 30 is met later."""
    path = change_row(tmp_path / "cells.h5ad", row, change)
    with pytest.raises(CorpusError, match=rf"cells\.h5ad`, row {row} .*indices in X beyond its 40 genes"):
        list(CellCorpus(path, processor, **SMALL).batches(12))


@pytest.mark.parametrize("change", [doubled, lambda indices: indices[::-1]])
@pytest.mark.parametrize("row", [5, 30])
def test_rows_that_are_unsorted_or_doubled_are_read_as_scipy_reads_them(tmp_path, processor, change, row):
    while make_cells(300).X[row].nnz < 2:
        row += 1
    path = change_row(tmp_path / "unsound" / "cells.h5ad", row, change)
    cells = anndata.read_h5ad(path)
    cells.X.sum_duplicates()
    (tmp_path / "sound").mkdir()
    cells.write_h5ad(tmp_path / "sound" / "cells.h5ad")
    streams = [CellCorpus(tmp_path / name, processor, **SMALL).batches(12) for name in ("unsound", "sound")]
    for unsound, sound in zip(*streams, strict=True):
        for name, values in sound.items():
            np.testing.assert_array_equal(unsound[name], values)
    for name in ("unsound", "sound"):
        build_corpus(tmp_path / name, tmp_path / f"{name} shards")
    shard = "data/cells/00000.parquet"
    assert hash_file(tmp_path / "unsound shards" / shard) == hash_file(tmp_path / "sound shards" / shard)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csr_matrix.toarray])
@pytest.mark.parametrize(("value", "message"), [(-1.0, "negative"), (np.nan, "NaN"), (0.5, "fractional|is no count")])
def test_what_a_sample_does_not_show_is_noticed_while_the_rest_is_read(
    tmp_path, processor, storage, compression, value, message
):
    cells = make_cells(3000)
    cells.X[1000] = cells.X[1000] * value
    cells.X = storage(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad", compression=compression)
    corpus = CellCorpus(tmp_path / "cells.h5ad", processor, shuffle=False)
    with pytest.raises(ExpressionError, match=rf"cells\.h5ad`: 1 of \d+ cells have .*({message}).*rows 1000\)"):
        list(corpus.batches(64))
    with pytest.raises(CorpusError, match=r"cells\.h5ad`, row 1000 .*is no count"):
        build_corpus(tmp_path / "cells.h5ad", tmp_path / "out")


def test_empty_rows_are_sound(tmp_path):
    matrix = sp.csr_matrix(np.array([[0, 0, 0], [0, 1, 2], [0, 0, 0]]))
    make_cells(3).write_h5ad(tmp_path / "cells.h5ad")
    check_rows(matrix, H5adSource(tmp_path / "cells.h5ad"), np.arange(3), "counts")


@pytest.mark.parametrize(("expects", "wrong"), [("counts", "normalised"), ("normalized", "counts")])
def test_the_kind_of_values_is_that_of_the_source(tmp_path, expects, wrong):
    cells = make_cells(60)
    cells.write_h5ad(tmp_path / "counts.h5ad")
    cells.X = cells.X.log1p()
    cells.write_h5ad(tmp_path / "normalised.h5ad")
    for kind in ("counts", "normalised"):
        source = H5adSource(tmp_path / f"{kind}.h5ad")
        look_at(source, [np.arange(50)], "any")
        if kind != wrong:
            look_at(source, [np.arange(50)], expects)
            continue
        with pytest.raises(ExpressionError, match=rf"{kind}\.h5ad`: .* in X are fractional|{kind}.*X holds whole"):
            look_at(source, [np.arange(50)], expects)


def test_a_batch_of_whole_numbers_in_normalised_data_is_no_error(tmp_path):
    """What decides is the source: cells with one gene each have whole numbers by chance."""
    from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer

    from ..corpora.conftest import GENES

    cells = make_cells(300)
    values = cells.X.log1p().toarray()
    values[100:164] = 0
    values[100:164, 3] = 1
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    extractor = ExpressionFeatureExtractor(encoding="bins", expects="normalized", n_bins=7, max_length=25)
    processor = CellProcessor(extractor, GeneTokenizer.from_genes(GENES))
    corpus = CellCorpus(tmp_path, processor, shuffle=False, block_size=4, window_size=4, group_size=4)
    assert sum(len(batch["cell_ids"]) for batch in corpus.batches(4)) == 300


def test_to_counts_sorts_and_refuses(tmp_path):
    make_cells(5).write_h5ad(tmp_path / "cells.h5ad")
    source, rows = H5adSource(tmp_path / "cells.h5ad"), np.array([7, 8])
    indptr = np.array([0, 2, 4])
    matrix = sp.csr_matrix((np.array([1.0, 2, 0, 4]), np.array([9, 3, 0, 1]), indptr), shape=(2, 40))
    counts = to_counts(matrix, source, rows)
    assert (counts.indices.tolist(), counts.data.tolist(), counts.dtype) == ([3, 9, 1], [2, 1, 4], np.uint32)
    for value in (-1, 0.5, np.nan, np.inf, 2.0**32):
        matrix = sp.csr_matrix((np.array([1.0, 2, 3, value]), np.array([3, 9, 0, 1]), indptr), shape=(2, 40))
        with pytest.raises(CorpusError, match=r"cells\.h5ad`, row 8 .*is no count"):
            to_counts(matrix, source, rows)


def test_cells_without_counts_are_refused_before_a_run_begins(tmp_path, processor):
    cells = make_cells(40)
    dense = cells.X.toarray()
    dense[[7, 30]] = 0
    cells.X = sp.csr_matrix(dense)
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    with pytest.raises(ExpressionError, match=r"`: 2 of its cells have no counts at all, the first in row 7"):
        CellCorpus(path, processor)
    used = np.setdiff1d(np.arange(40), [7, 30])
    assert len(CellCorpus(path, processor, rows={"cells": used})) == 38


DEFECTS = {
    "unsorted": (lambda file, row: _reverse(file, row), None),
    "doubled": (lambda file, row: _double(file, row), None),
    "stored zeros": (lambda file, row: _set(file, row, 0.0, one=True), None),
    "out of range": (lambda file, row: _shift(file, row, 40), CorpusError),
    "negative": (lambda file, row: _set(file, row, -1.0), ExpressionError),
    "not a number": (lambda file, row: _set(file, row, np.nan), ExpressionError),
    "infinite": (lambda file, row: _set(file, row, np.inf), ExpressionError),
    "fractional": (lambda file, row: _set(file, row, 0.5), ExpressionError),
    "no count": (lambda file, row: _set(file, row, 0.0), ExpressionError),
}


def _entries(file, row):
    return slice(*file["X/indptr"][row : row + 2])


def _reverse(file, row):
    for name in ("X/indices", "X/data"):
        file[name][_entries(file, row)] = file[name][_entries(file, row)][::-1]


def _double(file, row):
    file["X/indices"][_entries(file, row)] = doubled(file["X/indices"][_entries(file, row)])


def _shift(file, row, by):
    file["X/indices"][_entries(file, row)] += by


def _set(file, row, value, one=False):
    entries = _entries(file, row)
    file["X/data"][slice(entries.start, entries.start + 1) if one else entries] = value


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("row", [5, 1000])
@pytest.mark.parametrize("defect", DEFECTS)
def test_what_embed_reads_a_corpus_reads_and_the_other_way_round(tmp_path, processor, defect, row, compression):
    """Row 5 is among those by which a corpus judges a source, row 1000 is met later."""
    make_cells(3000).write_h5ad(tmp_path / "cells.h5ad", compression=compression)
    change, error = DEFECTS[defect]
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        row += int(np.argmax(np.diff(file["X/indptr"][row : row + 50]) > 2))
        change(file, row)

    def surveyed():
        return survey_cells(open_source("cells", tmp_path / "cells.h5ad"), processor).lengths

    def streamed():
        batches = CellCorpus(tmp_path / "cells.h5ad", processor, shuffle=False, group_by_length=False).batches(64)
        return np.concatenate([batch["attention_mask"].sum(axis=1) for batch in batches])

    if error is None:
        np.testing.assert_array_equal(surveyed(), streamed())
        return
    for door in (surveyed, streamed):
        with pytest.raises(error, match=rf"cells\.h5ad`.*(\b{row}\b|judged by 128 .* fractional)"):
            door()
