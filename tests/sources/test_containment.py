import os
import shutil

import anndata
import h5py
import numpy as np
import pytest

from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import CorpusError
from sclm_hf.sources.anndata.elements import read_column
from sclm_hf.sources.anndata.h5ad import H5adSource, open_h5ad
from sclm_hf.sources.anndata.zarr_folder import AnnDataZarrSource
from sclm_hf.sources.containment import refuse_links
from sclm_hf.sources.shards.parquet import ParquetSource
from sclm_hf.tasks.files.h5ad import read_h5ad

from ..corpora.conftest import make_cells
from .anndata.test_zarr_folder import write


@pytest.fixture
def path(tmp_path):
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    shutil.copy(tmp_path / "cells.h5ad", tmp_path / "other.h5ad")
    return tmp_path / "cells.h5ad"


def external_link(file):
    file["uns/elsewhere"] = h5py.ExternalLink("other.h5ad", "/X")


def external_matrix(file):
    del file["X"]
    file["X"] = h5py.ExternalLink("other.h5ad", "/X")


def external_storage(file):
    del file["obs/_index"]
    file["obs"].create_dataset("_index", (20,), "S20", external=[("secret", 0, 400)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((20,), "i8")
    layout[:] = h5py.VirtualSource("other.h5ad", "/X/indptr", (21,))[:20]
    file["obs"].create_virtual_dataset("elsewhere", layout)


@pytest.mark.parametrize(
    ("add", "what"),
    [
        (external_link, "`/uns/elsewhere` is an external link"),
        (external_matrix, "`/X` is an external link"),
        (external_storage, "`/obs/_index` is a dataset with external storage"),
        (virtual_dataset, "`/obs/elsewhere` is a virtual dataset"),
    ],
)
def test_h5ad_files_whose_data_lie_elsewhere_are_refused(path, add, what):
    with h5py.File(path, "r+") as file:
        add(file)
    for read in (H5adSource, open_h5ad, read_h5ad):
        with pytest.raises(CorpusError, match=rf"cells\.h5ad`: {what}"):
            read(path)


@pytest.mark.parametrize("add", [external_link, external_matrix])
def test_links_that_lead_out_are_refused_before_anything_is_looked_at(path, add):
    with h5py.File(path, "r+") as file:
        add(file)
    with pytest.raises(CorpusError, match=r"cells\.h5ad`: .* is an external link"):
        H5adSource(path, lazy=True)


def virtual_matrix(file):
    """Its size depends on what lies in the other file."""
    del file["X"]
    layout = h5py.VirtualLayout((20, 40), "f4", maxshape=(None, 40))
    layout[:20] = h5py.VirtualSource("other.h5ad", "/X", (20, 40), "f4", maxshape=(None, 40))[:20]
    file.create_virtual_dataset("X", layout)


def test_the_size_of_a_virtual_matrix_is_not_asked_for(path):
    with h5py.File(path, "r+") as file:
        virtual_matrix(file)
    with pytest.raises(CorpusError, match=r"cells\.h5ad`: `/X` is a virtual dataset"):
        H5adSource(path, lazy=True)


@pytest.mark.parametrize("add", [external_storage, virtual_dataset])
@pytest.mark.parametrize(
    "read", [H5adSource.genes, H5adSource.column_names, H5adSource.obs_names, H5adSource.cell_ids]
)
def test_lazy_sources_refuse_datasets_elsewhere_before_they_read_any(path, add, read):
    with h5py.File(path, "r+") as file:
        add(file)
    source = H5adSource(path, lazy=True)
    for _ in range(2):
        with pytest.raises(
            CorpusError, match=r"cells\.h5ad`: `/obs/\w+` is a (virtual dataset|dataset with external)"
        ):
            read(source)


def test_groups_within_groups_without_end_are_refused(path):
    with h5py.File(path, "r+") as file:
        file.create_group("uns" + "/deeper" * 70)
    with pytest.raises(CorpusError, match="the groups below `/uns` lead to one another in circles or without end"):
        H5adSource(path)


def test_what_only_a_reference_leads_to_is_looked_at_too(path):
    """Categories of old files are found by references, to what no group of the file need name."""
    with h5py.File(path, "r+") as file:
        hidden = file.create_dataset(None, (3,), "S20", external=[("secret", 0, 60)])
        del file["obs/cell_type"]
        file["obs/cell_type"] = np.zeros(20, np.int8)
        file["obs/cell_type"].attrs["categories"] = hidden.ref
        # closed, the file would hold on to nothing that only a reference leads to
        with pytest.raises(CorpusError, match="external storage"):
            read_column(file, file["obs"], "cell_type")


def test_links_within_the_file_and_in_circles_are_fine(path):
    with h5py.File(path, "r+") as file:
        file["layers/counts"] = h5py.SoftLink("/X")
        file["uns/again"] = file["X"]
        file["uns/circle"] = file["uns"]
    assert H5adSource(path).read(np.arange(20)).nnz == make_cells(20).X.nnz
    with h5py.File(path) as file:
        refuse_links(file, path)


def hard_circle(file):
    file["uns/within/circle"] = file["uns"]


def soft_circle(file):
    file["uns/within/circle"] = h5py.SoftLink("/uns")


def doubling(file):
    """Each of 40 groups holds the next one twice: as many as 2**40 to a reader that follows all links."""
    group = file["uns"]
    for _ in range(40):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def never_written(file):
    file["uns"].create_dataset("scores", (2**40,), "f4", chunks=(2**20,))


@pytest.mark.parametrize("add", [hard_circle, soft_circle, doubling, never_written])
def test_what_has_no_end_is_refused_where_a_file_is_read_as_a_whole(path, add):
    with h5py.File(path, "r+") as file:
        file.create_group("uns/within")
        add(file)
    with pytest.raises(CorpusError, match=r"cells\.h5ad`: .*(`/uns` lead|`/uns/scores` are missing)"):
        read_h5ad(path)
    assert H5adSource(path).read(np.arange(20)).shape == (20, 40)


def test_a_symbolic_link_to_itself_leads_nowhere(tmp_path):
    path = write(make_cells(20), tmp_path / "cells.zarr")
    (path / "loop").symlink_to(path / "loop")
    with pytest.raises(CorpusError, match=r"loop` is a symbolic link that leads (nowhere|out of)"):
        AnnDataZarrSource(path)


def test_a_symbolic_link_may_name_a_source(path, tmp_path):
    write(make_cells(20), tmp_path / "cells.zarr")
    for name in ("cells.h5ad", "cells.zarr"):
        (tmp_path / f"link.{name}").symlink_to(tmp_path / name)
    assert H5adSource(tmp_path / "link.cells.h5ad").n_cells == 20
    assert AnnDataZarrSource(tmp_path / "link.cells.zarr").n_cells == 20


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("entry", ["obs", "X/data", "uns/file"])
def test_zarr_folders_with_links_out_of_them_are_refused(tmp_path, entry, version):
    for name in ("cells.zarr", "other.zarr"):
        write(make_cells(20), tmp_path / name, version)
    inside = tmp_path / "cells.zarr" / entry
    if inside.exists():
        shutil.rmtree(inside)
    inside.symlink_to(tmp_path / "other.zarr" / entry)
    with pytest.raises(
        CorpusError, match=rf"cells\.zarr/{entry}` is a symbolic link that leads out of `.*cells\.zarr`"
    ):
        AnnDataZarrSource(tmp_path / "cells.zarr")


def test_pipes_are_refused_wherever_a_file_should_be(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(CorpusError, match=r"pipe\.h5ad` is a pipe"):
        H5adSource(tmp_path / "pipe.h5ad")
    path = write(make_cells(20), tmp_path / "cells.zarr")
    chunk = next((path / "X" / "data" / "c").iterdir())
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(CorpusError, match="is a pipe"):
        AnnDataZarrSource(path)


@pytest.fixture
def shards(path, tmp_path):
    build_corpus(path, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize("entry", ["data", "data/cells", "data/cells/00000.parquet", "manifest.json"])
def test_shards_that_lie_elsewhere_are_refused(shards, tmp_path, entry):
    (shards / entry).rename(tmp_path / "moved")
    (shards / entry).symlink_to(tmp_path / "moved")
    with pytest.raises(CorpusError, match="is a symbolic link that leads out of"):
        ParquetSource(shards / "data" / "cells")


def test_shards_of_a_snapshot_of_the_hub_are_links_to_its_blobs(shards, tmp_path):
    snapshot, blobs = tmp_path / "datasets--x--y" / "snapshots" / "abc", tmp_path / "datasets--x--y" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(entry for entry in shards.rglob("*") if entry.is_file())):
        link = snapshot / file.relative_to(shards)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert ParquetSource(snapshot / "data" / "cells").n_cells == 20
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(CorpusError, match="leads out of"):
        ParquetSource(snapshot / "data" / "cells")


def test_cells_that_anndata_wrote_hold_no_such_links(path):
    adata = anndata.read_h5ad(path)
    adata.uns["nested"] = {"a": {"b": np.arange(3)}, "c": "text"}
    adata.write_h5ad(path)
    open_h5ad(path).close()
