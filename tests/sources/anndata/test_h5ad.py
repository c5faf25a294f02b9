import os
import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm_hf.errors import CorpusError
from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.sources.anndata.hdf5_ranges import RangeReader
from sclm_hf.sources.anndata.source import AnnDataSource

from ...corpora.conftest import GENES, make_cells
from ..old_files import write_compound

ROWS = np.array([0, 1, 2, 5, 30, 31, 59])


@pytest.fixture
def cells():
    return make_cells(60)


def write(cells, path, **kwargs):
    cells.write_h5ad(path, **kwargs)
    return path


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_read_gives_the_rows_as_stored(cells, tmp_path, storage, compression):
    counts = cells.X.toarray()
    cells.X = storage(cells.X)
    source = H5adSource(write(cells, tmp_path / "cells.h5ad", compression=compression))
    assert (source.n_cells, source.n_genes, source.name) == (60, 40, "cells")
    for rows in (ROWS, np.arange(60), np.array([59]), np.array([], int)):
        matrix = source.read(rows)
        assert matrix.dtype == np.float32
        np.testing.assert_array_equal(matrix.toarray(), counts[rows])


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
@pytest.mark.parametrize(("values", "numbers"), [(">f4", ">i4"), (">i4", ">i8"), ("f2", "i4")])
def test_types_that_scipy_and_kernels_do_not_know_are_read_as_others(cells, tmp_path, storage, values, numbers):
    counts = cells.X.toarray()
    cells.X = storage(cells.X)
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        stored = {"X": values} if storage is sp.csr_matrix.toarray else {"X/data": values, "X/indices": numbers}
        for name, dtype in stored.items():
            data, attributes = file[name][:].astype(dtype), dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, data=data).attrs.update(attributes)
    source = H5adSource(path)
    for _ in range(20):
        matrix = source.read(ROWS)
        assert matrix.dtype.isnative and matrix.indices.dtype.isnative
        np.testing.assert_array_equal(matrix.toarray(), counts[ROWS])


@pytest.mark.parametrize("chunks", [None, 7, 4096])
def test_read_copes_with_any_chunks_and_types(cells, tmp_path, chunks):
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        for name, dtype in (("data", "u2"), ("indices", "i8"), ("indptr", "i8")):
            values = file["X"][name][:].astype(dtype)
            del file["X"][name]
            file["X"].create_dataset(name, data=values, chunks=chunks and (min(chunks, len(values)),))
    matrix = H5adSource(path).read(ROWS)
    assert matrix.data.dtype == np.uint16
    np.testing.assert_array_equal(matrix.toarray(), cells.X.toarray()[ROWS])


def test_counts_are_looked_for_in_the_stated_order(cells, tmp_path):
    cells.raw = cells.copy()
    cells = cells[:, 10:].copy()
    cells.X = sp.csr_matrix(cells.X.multiply(0.5))
    cells.layers["counts"], cells.layers["other"] = cells.X * 4, cells.X * 6
    path = write(cells, tmp_path / "cells.h5ad")
    half = cells.X.toarray()[ROWS]
    np.testing.assert_array_equal(H5adSource(path).read(ROWS).toarray(), half * 4)
    np.testing.assert_array_equal(H5adSource(path, layer="other").read(ROWS).toarray(), half * 6)
    np.testing.assert_array_equal(H5adSource(path, layer="X").read(ROWS).toarray(), half)
    np.testing.assert_array_equal(H5adSource(path, expects="normalized").read(ROWS).toarray(), half)
    raw = H5adSource(path, layer="raw")
    np.testing.assert_array_equal(raw.read(ROWS).toarray(), cells.raw.X.toarray()[ROWS])
    assert list(raw.genes()[0]) == GENES
    assert list(H5adSource(path).genes()[0]) == GENES[10:]
    del cells.layers["counts"]
    source = H5adSource(write(cells, tmp_path / "without.h5ad"))
    np.testing.assert_array_equal(source.read(ROWS).toarray(), raw.read(ROWS).toarray())
    with pytest.raises(CorpusError, match=r"without\.h5ad.*no layer `nothing`.*other"):
        H5adSource(tmp_path / "without.h5ad", layer="nothing")


def test_names_and_ensembl_ids(cells, tmp_path):
    path = write(cells, tmp_path / "plain.h5ad")
    names, ensembl_ids = H5adSource(path).genes()
    assert (list(names), ensembl_ids) == (GENES, None)
    assert H5adSource(path).obs_names().tolist() == list(cells.obs_names)
    ids = [f"ENSG{number:011}" for number in range(40)]
    cells.var["gene_ids"] = pd.Categorical(ids)
    names, ensembl_ids = H5adSource(write(cells, tmp_path / "ids.h5ad")).genes()
    assert (list(names), list(ensembl_ids)) == (GENES, ids)


def test_column_is_compact_whatever_its_type(cells, tmp_path):
    cells.obs["number"] = np.arange(60) % 3
    cells.obs["nullable"] = pd.array([None, *["x"] * 59], dtype="string")
    cells.obs["gap"] = pd.Categorical(["u", None, *["v"] * 58])
    cells.obs["fraction"] = [np.nan, *[0.5] * 59]
    source = H5adSource(write(cells, tmp_path / "cells.h5ad"))
    for name in ("cell_type", "donor", "number"):
        column = source.column(name)
        assert column.codes.dtype == np.int8
        assert [column.categories[code] for code in column.codes] == cells.obs[name].astype(str).tolist()
    for name in ("nullable", "fraction"):
        assert source.column(name).codes.tolist() == [-1, *[0] * 59]
    assert source.column("gap").codes.tolist() == [0, -1, *[1] * 58]
    with pytest.raises(CorpusError, match=r"no obs column `kind`.*'cell_type', 'donor'"):
        source.column("kind")


def test_column_of_old_files(cells, tmp_path):
    path = write(cells, tmp_path / "old.h5ad")
    with h5py.File(path, "r+") as file:
        group = file["obs"]["cell_type"]
        codes, categories = group["codes"][:], group["categories"][:]
        del file["obs"]["cell_type"]
        stored = file["obs"].create_dataset("__categories/cell_type", data=categories)
        file["obs"]["cell_type"] = codes
        file["obs"]["cell_type"].attrs["categories"] = stored.ref
    column = H5adSource(path).column("cell_type")
    assert [column.categories[code] for code in column.codes] == cells.obs["cell_type"].tolist()


def test_nullable_strings_may_be_names_and_categories(cells, tmp_path):
    path = write(cells, tmp_path / "new.h5ad")
    kind = cells.obs["cell_type"]
    with h5py.File(path, "r+") as file:
        for place in ("var/_index", "obs/cell_type/categories"):
            values = file[place][:]
            del file[place]
            group = file.create_group(place)
            group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
            for name, array in (("values", values), ("mask", np.zeros(len(values), bool))):
                group.create_dataset(name, data=array)
                kinds = {"values": ("string-array", "0.2.0"), "mask": ("array", "0.2.0")}
                group[name].attrs.update(dict(zip(("encoding-type", "encoding-version"), kinds[name], strict=True)))
    source = H5adSource(path)
    assert list(source.genes()[0]) == GENES
    column = source.column("cell_type")
    assert [column.categories[code] for code in column.codes] == kind.tolist()


def test_source_is_pickled_without_its_file(cells, tmp_path):
    source = H5adSource(write(cells, tmp_path / "cells.h5ad"))
    source.read(ROWS)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(ROWS).toarray(), source.read(ROWS).toarray())
    source.close()
    np.testing.assert_array_equal(copy.read(ROWS).toarray(), source.read(ROWS).toarray())


def damaged(kind, path):
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "no HDF5":
        path.write_text("these are no cells " * 100)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        with h5py.File(path, "r+") as file:
            if kind == "no X":
                del file["X"]
            elif kind == "indptr":
                file["X/indptr"][20] = 10**6
            elif kind == "indices":
                replace(file, "X/indices", lambda values: values[:-3])
            elif kind == "indptr that overflows":
                replace(file, "X/indptr", lambda n: [*n[:20].tolist(), 2**62 + 5, -(2**62), *n[22:].tolist()])
            elif kind == "table":
                replace(file, "X/indices", lambda values: values[:, None])
                replace(file, "X/data", lambda values: values[:, None])
            elif kind == "group":
                del file["X/data"]
                file.create_group("X/data")
            elif kind == "fractional indices":
                replace(file, "X/indices", lambda values: values + 0.5)
            elif kind == "complex values":
                replace(file, "X/data", lambda values: values + 1j)


def replace(file, name, change):
    values = file[name][:]
    del file[name]
    file[name] = change(values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"is empty \(0 bytes\)"),
        ("no HDF5", "no HDF5 file"),
        ("truncated", "truncated"),
        ("no X", "`X`"),
        ("indptr", "do not fit together"),
        ("indices", "do not fit together"),
        ("indptr that overflows", "do not fit together"),
        ("table", "`/X/indices` is missing or no one-dimensional array"),
        ("group", "`/X/data` is missing or no one-dimensional array"),
        ("fractional indices", "indices of `/X` are of type float64, expected whole numbers"),
        ("complex values", "`/X` holds values of type complex64, expected real numbers"),
    ],
)
def test_damaged_files_are_named(cells, tmp_path, kind, message):
    path = write(cells, tmp_path / "cells.h5ad")
    damaged(kind, path)
    with pytest.raises(CorpusError, match=message) as caught:
        H5adSource(path).read(ROWS)
    assert str(path) in str(caught.value)


def test_numbers_with_fractions_are_no_names(cells, tmp_path):
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        attributes = dict(file["var/_index"].attrs)
        replace(file, "var/_index", lambda names: np.arange(len(names)) + 0.5)
        file["var/_index"].attrs.update(attributes)
    with pytest.raises(CorpusError, match="`/var/_index` holds values of type float64, expected names"):
        H5adSource(path).genes()


@pytest.mark.parametrize("kind", ["indices", "table", "group", "fractional indices", "complex values"])
@pytest.mark.parametrize("read", [H5adSource.genes, H5adSource.cell_ids, H5adSource.empty_rows])
def test_a_lazy_source_checks_its_file_before_anything_is_read_of_it(cells, tmp_path, kind, read):
    path = write(cells, tmp_path / "cells.h5ad")
    damaged(kind, path)
    with pytest.raises(CorpusError) as eager:
        H5adSource(path)
    source = pickle.loads(pickle.dumps(H5adSource(path, lazy=True)))
    with pytest.raises(CorpusError) as lazy:
        read(source)
    assert str(lazy.value) == str(eager.value)


def test_a_lazy_source_is_checked_once(cells, tmp_path, monkeypatch):
    checks = []
    check = AnnDataSource._check
    monkeypatch.setattr(AnnDataSource, "_check", lambda *args: checks.append(args) or check(*args))
    source = H5adSource(write(cells, tmp_path / "cells.h5ad"), lazy=True)
    for _ in range(2):
        assert source.read(ROWS).shape == (7, 40)
        source.close()
    pickle.loads(pickle.dumps(source)).read(ROWS)
    assert len(checks) == 1


def test_files_without_cells_or_genes_are_refused(cells, tmp_path):
    with pytest.raises(CorpusError, match=r"none\.h5ad.*0 cells and 40 genes"):
        H5adSource(write(cells[:0].copy(), tmp_path / "none.h5ad"))
    with pytest.raises(CorpusError, match="60 cells and 0 genes"):
        H5adSource(write(cells[:, :0].copy(), tmp_path / "none.h5ad"))


def test_files_that_change_or_vanish_are_noticed(cells, tmp_path):
    path = write(cells, tmp_path / "cells.h5ad")
    source = H5adSource(path)
    source.read(ROWS)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorpusError, match=r"cells\.h5ad` changed"):
        source.read(ROWS)
    path.unlink()
    with pytest.raises(CorpusError, match=r"cells\.h5ad` cannot be read"):
        source.read(ROWS)


def test_files_that_change_while_they_are_read_are_noticed(cells, tmp_path, monkeypatch):
    source = H5adSource(write(cells, tmp_path / "cells.h5ad"))
    with pytest.raises(CorpusError, match=r"cells\.h5ad` changed"), source.stored_rows():
        os.utime(source.path, ns=(1, 1))
    source = H5adSource(source.path)
    read = RangeReader.read_into
    monkeypatch.setattr(RangeReader, "read_into", lambda *args: read(*args) or os.utime(source.path, ns=(2, 2)))
    with pytest.raises(CorpusError, match=r"cells\.h5ad` changed"):
        source.read(ROWS)


def test_large_matrices_stored_by_columns_are_refused(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.sources.anndata.source._MAX_CSC_ENTRIES", 10)
    cells.X = cells.X.tocsc()
    with pytest.raises(CorpusError, match=r"stored by columns.*tocsr"):
        H5adSource(write(cells, tmp_path / "cells.h5ad")).read(ROWS)


@pytest.mark.parametrize("raw", [False, True])
def test_compound_frames_of_anndata_before_07(cells, tmp_path, raw):
    write_compound(tmp_path / "old.h5ad", cells, raw=raw)
    source = H5adSource(tmp_path / "old.h5ad")
    np.testing.assert_array_equal(source.read(ROWS).toarray(), cells.X.toarray()[ROWS])
    assert list(source.genes()[0]) == GENES
    assert source.obs_names().tolist() == list(cells.obs_names)
    assert source.column_names() == ["cell_type", "donor", "score"]
    for name in ("cell_type", "donor"):
        column = source.column(name)
        assert [column.categories[code] for code in column.codes] == cells.obs[name].astype(str).tolist()
    assert len(source.column("score").categories) == 60


def test_codes_beyond_their_categories_are_named(cells, tmp_path):
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs/cell_type/codes"][3] = 9
    with pytest.raises(CorpusError, match=r"cells\.h5ad.*codes -?\d\.\.9 for 3 categories"):
        H5adSource(path).column("cell_type")


def test_row_indices_out_of_range_of_a_matrix_by_columns_are_noticed(cells, tmp_path):
    cells.X = cells.X.tocsc()
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 60
    with pytest.raises(CorpusError, match=r"cells\.h5ad.*row indices beyond its 60 cells"):
        H5adSource(path).read(ROWS)
