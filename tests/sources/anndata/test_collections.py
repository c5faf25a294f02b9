"""Zarr collections as annbatch writes them: a group of AnnData, format 3, with nullable names and chunks in shards.

Collections that annbatch 0.3.1 itself wrote (shuffled, not shuffled, grouped, of .h5ad files) gave the same batches as
the files that they were made from.
"""

import anndata
import numpy as np
import pytest
import zarr

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import CorpusError
from sclm_hf.sources.opening import name_paths, open_source
from sclm_hf.tasks.files.file_to_file import run_files

from ...corpora.conftest import GENES, make_cells
from ...tasks.tiny import save_checkpoint


def write_collection(path, parts):
    """`attributes` and layout are those of annbatch 0.3."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.attrs["encoding-type"] = "annbatch-preshuffled"
    group.attrs["encoding-version"] = "0.1.0"
    for number, cells in enumerate(parts):
        cells = cells.copy()
        cells.obs.index, cells.var.index = cells.obs.index.astype("string"), cells.var.index.astype("string")
        with anndata.settings.override(allow_write_nullable_strings=True):
            anndata.io.write_elem(group, f"dataset_{number}", cells)
        matrix, compressor = group[f"dataset_{number}/X"], zarr.codecs.BloscCodec(cname="lz4", clevel=3)
        for name, dtype in (("data", np.float32), ("indices", np.uint8), ("indptr", np.int32)):
            values = matrix[name][:].astype(dtype)
            del matrix[name]
            layout = {"shape": values.shape, "dtype": dtype, "chunks": (64,), "shards": (256,)}
            matrix.create_array(name, **layout, compressors=compressor)[:] = values
    return path


@pytest.fixture
def parts() -> list[anndata.AnnData]:
    """Two files, shuffled together."""
    cells = anndata.concat([make_cells(70, 1), make_cells(50, 2)])
    order = np.random.default_rng(0).permutation(120)
    return [cells[order[:64]].copy(), cells[order[64:]].copy()]


@pytest.fixture
def collection(parts, tmp_path):
    return write_collection(tmp_path / "atlas.zarr", parts)


def test_each_part_is_a_source(collection, parts):
    named = name_paths(collection)
    assert list(named) == ["atlas.dataset_0", "atlas.dataset_1"]
    assert name_paths(collection.parent) == named
    for cells, (name, path) in zip(parts, named.items(), strict=True):
        source = open_source(name, path)
        np.testing.assert_array_equal(source.read(np.arange(cells.n_obs)).toarray(), cells.X.toarray())
        assert source.obs_names().tolist() == cells.obs_names.tolist()
        assert source.genes() == (GENES, None)
        assert source.column("cell_type").categories == ("B", "NK", "T")


def test_a_collection_is_streamed_as_its_files_are(collection, processor, tmp_path):
    for seed, n_cells in ((1, 70), (2, 50)):
        make_cells(n_cells, seed).write_h5ad(tmp_path / f"{seed}.h5ad")
    drawn = []
    for paths in (collection, [tmp_path / "1.h5ad", tmp_path / "2.h5ad"]):
        batches = list(CellCorpus(paths, processor, label_column="cell_type").batches(1))
        drawn.append(
            {int(batch.pop("cell_ids")[0]): {name: v.tolist() for name, v in batch.items()} for batch in batches}
        )
    assert drawn[0] == drawn[1] and len(drawn[0]) == 120


@pytest.mark.filterwarnings("ignore:The embeddings")
def test_a_collection_is_built_from_and_embedded_part_by_part(collection, tmp_path):
    assert sorted(build_corpus(collection, tmp_path / "shards").datasets) == ["atlas.dataset_0", "atlas.dataset_1"]
    run_files("embed", collection, tmp_path / "results", save_checkpoint(tmp_path / "model"))
    found = anndata.read_h5ad(tmp_path / "results" / "atlas.dataset_1.h5ad")
    assert found.obsm["X_scgpt"].shape == (56, 32)


def test_one_source_cannot_be_a_collection(collection):
    with pytest.raises(CorpusError, match=r"atlas\.zarr` is a collection of 2 AnnData, `dataset_0`, `dataset_1`"):
        open_source("atlas", collection)


def test_parts_that_lie_elsewhere_are_refused(collection, tmp_path):
    (collection / "dataset_1").rename(tmp_path / "elsewhere")
    (collection / "dataset_1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorpusError, match="is a symbolic link that leads out of"):
        name_paths(collection)
