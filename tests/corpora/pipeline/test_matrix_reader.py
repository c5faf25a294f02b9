"""Rows as they are stored, in the order of an epoch."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError, CorpusError

GENES = [f"G{i}" for i in range(30)]
N_CELLS = {"a": 70, "b": 41}


def cells(name: str, genes=GENES, dtype=np.float32) -> ad.AnnData:
    generator = np.random.default_rng(len(name) + ord(name[0]))
    counts = sp.random(N_CELLS[name], len(genes), 0.3, "csr", dtype, generator, lambda n: np.arange(1, n + 1))
    adata = ad.AnnData(counts)
    adata.var_names, adata.obs_names = genes, [f"{name}{i}" for i in range(adata.n_obs)]
    return adata


def corpus_of(tmp_path, suffix=".h5ad", compression=None, types=(np.float32, np.float32), **options) -> CellCorpus:
    paths = {}
    for name, dtype in zip(N_CELLS, types, strict=True):
        paths[name] = tmp_path / f"{name}{suffix}"
        if suffix == ".h5ad":
            cells(name, dtype=dtype).write_h5ad(paths[name], compression=compression)
        else:
            cells(name, dtype=dtype).write_zarr(paths[name])
    processor = CellProcessor(ExpressionFeatureExtractor(encoding="bins"), GeneTokenizer.from_genes(GENES))
    return CellCorpus(paths, processor, block_size=4, window_size=32, group_size=8, **options)


def read_often(corpus: CellCorpus) -> CellCorpus:
    """The corpus when it knows where the rows lie in its files."""
    for source in range(len(corpus.sources)):
        for row in range(12):
            corpus.opened(source).read(np.array([row]))
    return corpus


def rows_of(batches) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch.sources.tolist(), batch.rows.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("suffix", "compression", "types"),
    [
        (".h5ad", None, (np.float32, np.float32)),
        (".h5ad", "gzip", (np.float32, np.float32)),
        (".h5ad", None, (np.float32, np.float64)),
        (".zarr", None, (np.float32, np.float32)),
    ],
)
def test_every_row_comes_once_as_it_is_stored(tmp_path, suffix, compression, types):
    corpus = read_often(corpus_of(tmp_path, suffix, compression, types))
    stored = [cells(name, dtype=dtype).X.toarray() for name, dtype in zip(N_CELLS, types, strict=True)]
    batches = list(corpus.matrix_batches(8, epoch=1))
    found = rows_of(batches)
    assert sorted(found) == [(i, row) for i, n in enumerate(N_CELLS.values()) for row in range(n)]
    assert found != sorted(found)
    for batch in batches:
        expected = np.array([stored[source][row] for source, row in zip(batch.sources, batch.rows, strict=True)])
        np.testing.assert_array_equal(batch.matrix.toarray(), expected)


def test_the_order_depends_on_the_seed_and_the_epoch_alone(tmp_path):
    corpus = corpus_of(tmp_path)
    whole = rows_of(corpus.matrix_batches(8, epoch=2))
    assert rows_of(read_often(corpus).matrix_batches(8, epoch=2)) == whole
    assert rows_of(corpus.matrix_batches(8, epoch=3)) != whole
    assert rows_of(corpus.matrix_batches(8, epoch=2, start=48)) == whole[48:]
    shares = [list(corpus.matrix_batches(8, epoch=2, rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(rows_of(shares[0]) + rows_of(shares[1])) == sorted(whole)


def test_balanced_epochs_repeat_rows(tmp_path):
    for name in N_CELLS:
        adata = cells(name)
        adata.obs["kind"] = ["rare" if i < 3 else "common" for i in range(adata.n_obs)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    processor = CellProcessor(ExpressionFeatureExtractor(encoding="bins"), GeneTokenizer.from_genes(GENES))
    paths = {name: tmp_path / f"{name}.h5ad" for name in N_CELLS}
    corpus = CellCorpus(paths, processor, label_column="kind", balance_labels=-1.0, block_size=4, window_size=64)
    stored = [cells(name).X.toarray() for name in N_CELLS]
    for batch in corpus.matrix_batches(8):
        expected = np.array([stored[source][row] for source, row in zip(batch.sources, batch.rows, strict=True)])
        np.testing.assert_array_equal(batch.matrix.toarray(), expected)
    found = rows_of(corpus.matrix_batches(8))
    assert len(found) == len(corpus) > len(set(found))


def test_a_stream_that_is_left_in_the_middle_closes_its_files(tmp_path):
    corpus = read_often(corpus_of(tmp_path))
    stream = corpus.matrix_batches(8)
    next(stream)
    stream.close()
    assert len(rows_of(corpus.matrix_batches(8))) == sum(N_CELLS.values())


def test_other_genes_are_refused_by_name(tmp_path):
    cells("a").write_h5ad(tmp_path / "a.h5ad")
    cells("b", genes=GENES[::-1]).write_h5ad(tmp_path / "b.h5ad")
    processor = CellProcessor(ExpressionFeatureExtractor(encoding="bins"), GeneTokenizer.from_genes(GENES))
    corpus = CellCorpus(tmp_path, processor, window_size=32)
    with pytest.raises(ConfigurationError, match=r"b\.h5ad.*other genes.*or in another order"):
        list(corpus.matrix_batches(8))


def test_column_indices_beyond_var_are_refused(tmp_path):
    import h5py

    cells("a").write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][file["X/indices"].size - 1] = 30
    processor = CellProcessor(ExpressionFeatureExtractor(encoding="bins"), GeneTokenizer.from_genes(GENES))
    corpus = CellCorpus(tmp_path / "a.h5ad", processor, window_size=32, lazy=True)
    with pytest.raises(CorpusError, match=r"a\.h5ad.*column indices beyond `var`"):
        list(corpus.matrix_batches(8))
