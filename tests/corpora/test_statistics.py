import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from sclm_hf import CellCorpus
from sclm_hf.corpora.mixture import mix
from sclm_hf.corpora.statistics import gene_statistics
from sclm_hf.errors import ExpressionError, SclmWarning

from .conftest import GENES, make_cells


@pytest.fixture(scope="module")
def panel(tmp_path_factory, folder):
    """The three files, and one that measures half of the genes."""
    panel = tmp_path_factory.mktemp("panel")
    for file in folder.iterdir():
        (panel / file.name).symlink_to(file)
    make_cells(40, 4, GENES[:20]).write_h5ad(panel / "four.h5ad")
    return panel


def logarithms(file) -> tuple[list[str], np.ndarray]:
    cells = anndata.read_h5ad(file)
    cells = cells[:, [gene in GENES for gene in cells.var_names]]
    counts = cells.X.toarray()
    return list(cells.var_names), np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def test_each_gene_is_taken_over_the_cells_that_measure_it(panel, processor):
    found = gene_statistics(CellCorpus(panel, processor))
    values = {gene: [] for gene in GENES}
    for file in panel.iterdir():
        for gene, column in zip((read := logarithms(file))[0], read[1].T, strict=True):
            values[gene].append(column)
    values = {gene: np.concatenate(columns) for gene, columns in values.items()}
    assert found.genes == GENES
    assert found.n_cells.tolist() == [194] * 20 + [154] * 20
    np.testing.assert_allclose(found.means, [values[gene].mean() for gene in GENES], rtol=1e-5)
    np.testing.assert_allclose(found.deviations, [values[gene].std() for gene in GENES], rtol=1e-5)


def test_neither_order_nor_mixing_changes_them(panel, processor):
    one = gene_statistics(CellCorpus(panel, processor))
    parts = [CellCorpus({file.stem: file}, processor, window_size=64) for file in sorted(panel.iterdir())]
    two = gene_statistics(mix(parts))
    np.testing.assert_array_equal(one.means, two.means)
    np.testing.assert_array_equal(one.deviations, two.deviations)


def test_only_the_cells_of_the_corpus_count(folder, processor):
    rows = {"one": np.arange(0, 70, 3), "two": [], "three": []}
    found = gene_statistics(CellCorpus(folder, processor, rows=rows))
    names, values = logarithms(folder / "one.h5ad")
    assert names == found.genes
    np.testing.assert_allclose(found.means, values[::3].mean(0), rtol=1e-5)


def test_a_gene_that_no_file_measures_is_said(tmp_path, processor):
    make_cells(30, 4, GENES[:20]).write_h5ad(tmp_path / "few.h5ad")
    with pytest.warns(SclmWarning, match="20 of the 40 genes, such as GENE20, are in no file"):
        found = gene_statistics(CellCorpus(tmp_path, processor))
    assert (found.means[20:] == 0).all() and (found.deviations[20:] == 1).all() and found.n_cells[25] == 0


def test_unsound_values_name_the_file(tmp_path, processor):
    cells = make_cells(400, 4)
    cells.X = sp.csr_matrix(cells.X.toarray())
    cells.X.data[-1] = -3
    cells.write_h5ad(tmp_path / "damaged.h5ad")
    with pytest.raises(ExpressionError, match=r"damaged\.h5ad.*negative values"):
        gene_statistics(CellCorpus(tmp_path, processor))
