"""A file that would not open as an AnnData is refused before anything is added to its copy."""

import h5py
import numpy as np
import pytest

from sclm_hf.errors import CorpusError
from sclm_hf.sources.anndata import whole_file as whole_anndata
from sclm_hf.sources.anndata.h5ad import open_h5ad
from sclm_hf.sources.anndata.whole_file import refuse_unreadable

from ...tasks.tiny import make_cells


@pytest.fixture
def path(tmp_path):
    cells = make_cells()
    cells.obsm["X_pca"] = np.ones((23, 2))
    cells.layers["counts"] = cells.X.copy()
    cells.varm["loadings"] = np.ones((91, 2))
    cells.uns["method"] = {"parameters": [1, 2]}
    cells.raw = cells
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def check(path):
    with open_h5ad(path) as file:
        refuse_unreadable(file, path)


@pytest.mark.parametrize("most_read", [2**28, 1000, 0], ids=["small", "partly large", "large"])
def test_a_sound_file_passes_however_much_of_it_is_read(path, monkeypatch, most_read):
    monkeypatch.setattr(whole_anndata, "_MOST_READ", most_read)
    check(path)


def shorter(name):
    def change(file):
        values = file[name][:-1]
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=values).attrs.update(attributes)

    return change


def wide(file):
    file["X"].attrs["shape"] = [23, 2**40]


def unknown_kind(file):
    file["varm"].attrs["encoding-version"] = "nonsense"


def no_array(file):
    del file["uns/method/parameters"].attrs["encoding-type"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (shorter("obs/batch"), "Length of values"),
        (shorter("obsm/X_pca"), "`obsm/X_pca` is for 22 cells, and `obs` has 23: the file is damaged"),
        (shorter("varm/loadings"), "`varm/loadings` is for 90 genes"),
        (wide, "`X` is for 1,099,511,627,776 genes"),
        (unknown_kind, "encoding_version='nonsense'"),
        (no_array, "read method"),
    ],
    ids=["column", "obsm", "varm", "X", "kind", "attribute"],
)
def test_what_anndata_cannot_open_is_refused_by_name(path, change, told):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(CorpusError, match=r"cells\.h5ad") as error:
        check(path)
    assert told in str(error.value)


@pytest.mark.parametrize("shape", [(200,), (100, 2)])
def test_texts_that_share_their_bytes_are_not_read_as_many(path, shape):
    """Of two dimensions they are not read at all."""
    with h5py.File(path, "r+") as file:
        texts = file["uns"].create_dataset("texts", shape, h5py.string_dtype(), chunks=shape)
        texts[0] = "x" * 10_000
        _, chunk = texts.id.read_direct_chunk((0,) * len(shape))
        texts.id.write_direct_chunk((0,) * len(shape), chunk[:16] * 200)
        texts.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    if len(shape) == 1:
        with pytest.raises(CorpusError, match="`/uns/texts` holds more text than there are bytes in the file"):
            check(path)
    else:
        check(path)
