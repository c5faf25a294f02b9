import anndata
import numpy as np
import pandas as pd
import pytest

from sclm_hf import perturb
from sclm_hf.errors import ConfigurationError, GeneCoverageError
from sclm_hf.opening.tiny import make_tiny_checkpoint

IDS = {
    "MATR3": "ENSG00000280987",  # two ids share the symbol
    "MATR3-1": "ENSG00000015479",
    "SIGLEC5": "ENSG00000268500",  # the symbol names another id by now
    "QARS": "ENSG00000172053",  # renamed since
    "LYZ": "ENSG00000090382",
    "B2M": "ENSG00000166710",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_checkpoint(
        "geneformer", tmp_path_factory.mktemp("model"), genes=[*IDS.values(), "ENSG00000105501", "ENSG00000075624"]
    )


@pytest.fixture(scope="module")
def cells():
    counts = 1 + np.random.default_rng(0).poisson(3, (12, 6)).astype(np.float32)
    counts[5:, 0] = 0
    obs = pd.DataFrame(index=[f"c{number}" for number in range(12)])
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame({"gene_ids": list(IDS.values())}, index=list(IDS)))


@pytest.mark.parametrize("mode", ["delete", "overexpress"])
def test_a_name_means_the_column_of_the_data_that_has_it(model, cells, mode):
    everything = perturb(cells, model, genes="all", mode=mode).var["genes"]
    for name in IDS:
        assert (
            perturb(cells, model, genes=[name], mode=mode).var["genes"].tolist() == [everything[name]] == [IDS[name]]
        )


def test_a_name_means_its_column_in_groups_and_anchors_too(model, cells):
    grouped = perturb(cells, model, genes={"both": ["MATR3", "SIGLEC5"]}).var["genes"]
    assert grouped.tolist() == ["; ".join([IDS["MATR3"], IDS["SIGLEC5"]])]
    anchored = perturb(cells, model, genes=["LYZ"], anchor="QARS").var["genes"]
    assert anchored.tolist() == ["; ".join([IDS["QARS"], IDS["LYZ"]])]


def test_an_id_means_its_column_and_a_gene_that_the_data_lack_is_looked_up(model, cells):
    assert perturb(cells, model, genes=[IDS["MATR3"]]).var["n_cells"].tolist() == [5]
    assert perturb(cells, model, genes=["ACTB"], mode="overexpress").var["genes"].tolist() == ["ENSG00000075624"]


def test_a_name_of_two_genes_is_refused(model, cells):
    doubled = cells.copy()
    doubled.var_names = ["MATR3", "MATR3", *list(IDS)[2:]]
    with pytest.raises(
        ConfigurationError, match="`MATR3` is the name of 2 genes of the data: name one by its Ensembl id"
    ):
        perturb(doubled, model, genes=["MATR3"])


def test_a_column_that_is_not_used_is_no_gene_to_perturb(model, cells):
    unknown = cells.copy()
    unknown.var_names, unknown.var["gene_ids"] = [*list(IDS)[:-1], "x1"], [*list(IDS.values())[:-1], ""]
    with pytest.raises(GeneCoverageError, match="'x1' is in the data but not read by the model"):
        perturb(unknown, model, genes=["x1"])
