"""Whatever the family: columns mean the same in any order, in any place, and however many there are of a gene."""

import anndata
import numpy as np
import pandas as pd
import pytest
from transformers import AutoProcessor

import sclm_hf
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:.*are taken for one sample")

GENES = ["LYZ", "CD14", "B2M", "ACTB", "CD3E", "NKG7", "MATR3", "FTL", "CD74", "LTB", "JUN", "FOS", "CST3", "VIM"]
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = {}

    def make(family):
        if family not in made:
            made[family] = make_tiny_checkpoint(family, tmp_path_factory.mktemp(family), genes=GENES)
        return made[family]

    return make


@pytest.fixture(scope="module")
def cells():
    """Many equal counts, and `MATR3` in two columns: its counts are in one for 20 cells, in the other for the rest."""
    counts = 1 + np.random.default_rng(0).poisson(1, (40, len(GENES) + 1)).astype(np.float32)
    counts[:20, 6], counts[20:, -1] = 0, 0
    names = [*GENES, "MATR3"]
    return anndata.AnnData(counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(40)]), var=pd.DataFrame(index=names))


def embedded(cells, folder, family):
    return sclm_hf.embed(cells, folder).obsm[f"X_{family}"]


@EACH_FAMILY
def test_the_order_of_columns_changes_nothing(family, checkpoint, cells, tmp_path):
    folder, other = checkpoint(family), cells[:, np.random.default_rng(1).permutation(cells.n_vars)].copy()
    np.testing.assert_allclose(embedded(other, folder, family), embedded(cells, folder, family), atol=1e-6)
    batches = []
    for name, data in (("a", cells), ("b", other)):
        (tmp_path / name).mkdir()
        data.write_h5ad(tmp_path / name / "cells.h5ad")
        corpus = CellCorpus(tmp_path / name / "cells.h5ad", AutoProcessor.from_pretrained(folder), shuffle=False)
        batches.append(next(iter(corpus.batches(40))))
    for key, array in batches[0].items():
        np.testing.assert_array_equal(array, batches[1][key])
    in_file = sclm_hf.embed(anndata.read_h5ad(tmp_path / "b" / "cells.h5ad", backed="r"), folder)
    np.testing.assert_allclose(in_file.obsm[f"X_{family}"], embedded(cells, folder, family), atol=1e-6)


@EACH_FAMILY
def test_columns_of_one_gene_are_added_up_whatever_cells_are_given(family, checkpoint, cells):
    folder, one_column = checkpoint(family), cells[:, :-1].copy()
    one_column.X[:20, 6] += cells.X[:20, -1]
    some = np.arange(20)
    if family != "cellplm":  # there the cells of a sample see each other
        found = embedded(cells[some].copy(), folder, family)
        np.testing.assert_allclose(found, embedded(cells, folder, family)[some], atol=1e-5)
    np.testing.assert_allclose(embedded(cells, folder, family), embedded(one_column, folder, family), atol=1e-6)


@pytest.mark.parametrize("place", ["memory", "file", "shards"])
def test_columns_of_var_are_read_alike_wherever_the_cells_are(place, tmp_path):
    """`var` as CELLxGENE writes it: numbered, with ids that the gene table does not know by these symbols."""
    names = {
        "LYZ": "ENSG00000090382",
        "HERC3": "ENSG00000287542",
        "PINX1": "ENSG00000258724",
        "CD3": "ENSG00000198851",
    }
    var = pd.DataFrame({"feature_id": list(names.values()), "feature_name": list(names)}, index=list("0123"))
    var["feature_types"] = [*["Gene Expression"] * 3, "Antibody Capture"]
    obs = pd.DataFrame(index=[f"c{number}" for number in range(40)])
    adata = anndata.AnnData(np.ones((40, 4), np.float32), obs=obs, var=var)
    folder, path = make_tiny_checkpoint("scgpt", tmp_path / "model", genes=[*names, "CD3E"]), tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    if place == "memory":
        coverage = sclm_hf.embed(adata, folder).uns["sclm_hf"]["X_scgpt"]["coverage"]
    else:
        if place == "shards":
            build_corpus([path], path := tmp_path / "shards")
        corpus = CellCorpus(path, AutoProcessor.from_pretrained(folder))
        coverage = corpus.coverage["cells"].to_dict()
    assert (coverage["n_matched"], coverage["n_missing"], coverage["n_not_genes"]) == (3, 0, 1)
    assert "CD3 [Antibody Capture]" in str(coverage["examples"]["not_genes"])
