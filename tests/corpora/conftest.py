"""Small .h5ad files and a small processor."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer

GENES = [f"GENE{number}" for number in range(40)]


def make_cells(n_cells: int, seed: int = 0, genes: list[str] = GENES) -> anndata.AnnData:
    """Counts in which every cell expresses 1 to 30 of the genes, with two columns of labels."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 20, (n_cells, len(genes)))
    counts[rng.random(counts.shape) > rng.uniform(0.05, 0.75, (n_cells, 1))] = 0
    counts[np.arange(n_cells), rng.integers(0, len(genes), n_cells)] = 7
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["B", "NK", "T"], n_cells)),
            "donor": rng.choice(["d1", "d2"], n_cells).astype(object),
        },
        index=[f"cell{seed}_{number}" for number in range(n_cells)],
    )
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes))


def make_processor() -> CellProcessor:
    """A processor that knows the genes and cuts long cells."""
    extractor = ExpressionFeatureExtractor.for_family("scgpt", max_length=25, n_bins=7)
    return CellProcessor(extractor, GeneTokenizer.from_genes(GENES))


@pytest.fixture(scope="session")
def processor() -> CellProcessor:
    return make_processor()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """Three files with 70, 33 and 51 cells; the last one has its genes in another order, and two unknown ones."""
    folder = tmp_path_factory.mktemp("cells")
    make_cells(70, 1).write_h5ad(folder / "one.h5ad")
    make_cells(33, 2).write_h5ad(folder / "two.h5ad")
    make_cells(51, 3, [*GENES[::-1], "UNKNOWN1", "UNKNOWN2"]).write_h5ad(folder / "three.h5ad")
    return folder
