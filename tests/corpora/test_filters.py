import pickle

import anndata
import numpy as np
import pandas as pd
import pytest

from sclm_hf import CellCorpus
from sclm_hf.errors import ConfigurationError, CorpusError

from .conftest import make_cells


@pytest.fixture
def assays(tmp_path):
    cells = make_cells(90)
    cells.obs["assay"] = pd.Categorical(["10x", "Smart-seq2", None] * 30)
    cells.obs["n_genes"] = np.arange(90)
    cells.obs["primary"] = np.arange(90) % 2 == 0
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def rows_of(corpus):
    return corpus.rows_at(0, np.arange(len(corpus)))


@pytest.mark.parametrize(
    ("where", "meets"),
    [
        ({"assay": "10x"}, lambda obs: obs["assay"] == "10x"),
        ({"assay": ["10x", "Smart-seq2"]}, lambda obs: obs["assay"].notna()),
        ({"assay": {"not": ["10x"]}}, lambda obs: obs["assay"] == "Smart-seq2"),
        ({"n_genes": {"min": 10, "max": 20}}, lambda obs: obs["n_genes"].between(10, 20)),
        ({"n_genes": {"in": [3, 4], "not": 4}}, lambda obs: obs["n_genes"] == 3),
        ({"primary": True, "assay": "10x"}, lambda obs: obs["primary"] & (obs["assay"] == "10x")),
    ],
)
def test_cells_meet_all_conditions(assays, processor, where, meets):
    corpus = CellCorpus(assays, processor, where=where)
    expected = np.flatnonzero(meets(anndata.read_h5ad(assays).obs))
    assert rows_of(corpus).tolist() == expected.tolist()
    assert sum(corpus.dropped["cells"].values()) == 90 - len(expected)
    assert rows_of(pickle.loads(pickle.dumps(corpus))).tolist() == expected.tolist()


def test_dropped_cells_are_counted_by_condition(assays, processor):
    corpus = CellCorpus(assays, processor, where={"assay": "10x", "n_genes": {"max": 44}}, rows={"cells": range(60)})
    assert corpus.dropped == {"cells": {"assay": 40, "n_genes": 5}}
    assert CellCorpus(assays, processor).dropped == {"cells": {}}


@pytest.mark.parametrize(
    ("where", "kind", "message"),
    [
        ({"n_genes": {"over": 3}}, ConfigurationError, "expected a value"),
        ({"n_genes": {}}, ConfigurationError, "expected a value"),
        ({"n_genes": {"min": "3"}}, ConfigurationError, "must be a number"),
        ({"assay": {"min": 3}}, CorpusError, "cannot be compared with a number"),
        ({"tissue": "lung"}, CorpusError, "no obs column `tissue`"),
        ({"assay": "Drop-seq"}, CorpusError, r"leaves no cell.*condition on `obs\['assay'\]` left out \d+"),
    ],
)
def test_impossible_conditions_are_refused(assays, processor, where, kind, message):
    with pytest.raises(kind, match=message):
        CellCorpus(assays, processor, where=where)
