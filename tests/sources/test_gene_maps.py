import h5py
import numpy as np
import pytest

from sclm_hf.errors import CorpusError, GeneCoverageError, SclmWarning
from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.sources.gene_maps import GeneMaps

from ..corpora.conftest import GENES, make_cells


def write(path, genes, n_cells=200):
    make_cells(n_cells, 0, genes).write_h5ad(path)
    return H5adSource(path)


def test_genes_are_mapped_once_and_shared(tmp_path, processor, monkeypatch):
    calls = []
    original = type(processor).map_genes
    monkeypatch.setattr(
        type(processor), "map_genes", lambda self, *args, **kwargs: calls.append(1) or original(self, *args, **kwargs)
    )
    maps = GeneMaps(processor, "human")
    sources = [write(tmp_path / f"{name}.h5ad", GENES) for name in "ab"]
    (first, _), (second, _) = (maps.of(source, None) for source in sources)
    assert first is second
    assert maps.of(sources[0], None)[0] is first
    assert len(calls) == 1
    other, _ = maps.of(write(tmp_path / "c.h5ad", GENES[::-1]), None)
    assert other.tolist() == first[::-1].tolist()


def test_sources_with_doubled_genes_are_mapped_alike_whatever_their_counts(tmp_path, processor):
    maps, genes = GeneMaps(processor, "human"), [*GENES[:-1], GENES[0]]
    found = []
    for name, column in (("a", 0), ("b", 39)):
        cells = make_cells(20, 1)
        counts = cells.X.toarray()
        counts[:, [0, 39]] = 0
        counts[:, column] = 5
        cells.X, cells.var_names = counts, genes
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
        found.append(maps.of(H5adSource(tmp_path / f"{name}.h5ad"), None)[0])
    assert found[0][0] >= 0 and found[0][39] == -2
    assert found[1] is found[0]


def test_share_of_counts_is_that_of_the_cells_used(tmp_path, processor):
    cells = make_cells(64, 0, [*GENES, "UNKNOWN"])
    counts = cells.X.toarray()
    counts[:32, -1], counts[32:, -1] = 0, counts[32:, :-1].sum(axis=1)
    cells.X = counts
    cells.write_h5ad(tmp_path / "cells.h5ad")
    source = H5adSource(tmp_path / "cells.h5ad")
    assert GeneMaps(processor, "human").of(source, np.arange(32))[1].count_share == 1
    with pytest.warns(SclmWarning, match=r"cells\.h5ad`: The model knows few of the genes"):
        assert GeneMaps(processor, "human").of(source, np.arange(32, 64))[1].count_share == pytest.approx(0.5)


def test_a_header_that_promises_too_many_genes_is_named(tmp_path, processor):
    path = write(tmp_path / "cells.h5ad", GENES).path
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([200, 2**40])
    with pytest.raises(CorpusError, match=r"cells\.h5ad`: `var` has 40 names for the 1,099,511,627,776 columns"):
        GeneMaps(processor, "human").of(H5adSource(path), None)


def test_unknown_genes_are_an_error_that_names_the_file(tmp_path, processor):
    source = write(tmp_path / "mouse.h5ad", [*GENES[:8], *(f"Gene{number}Rik" for number in range(32))])
    with pytest.raises(GeneCoverageError, match=r"mouse\.h5ad"):
        GeneMaps(processor, "human").of(source, None)


def test_indices_out_of_range_are_noticed(tmp_path, processor):
    import h5py

    source = write(tmp_path / "cells.h5ad", GENES)
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["X/indices"][0] = 40
    with pytest.raises(CorpusError, match=r"cells\.h5ad.*beyond its 40 genes"):
        GeneMaps(processor, "human").of(H5adSource(source.path), None)
