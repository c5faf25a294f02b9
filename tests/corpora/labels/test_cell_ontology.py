import json
import sys
import types

import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.labels.cell_ontology import cell_ontology, definitions
from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.errors import ConfigurationError, MissingDependencyError

from ..conftest import make_cells


def term(label, *parents, **others):
    return {"label": label, "ancestors": dict.fromkeys(parents, 1), "deprecated": False, **others}


TERMS = {
    "CL:1": term("cell"),
    "CL:2": term("T cell", "CL:1", synonyms=["T lymphocyte", "lymphoid"]),
    "CL:3": term("cytotoxic cell", "CL:1", synonyms=["lymphoid"]),
    "CL:4": term("CD8 T cell", "CL:2", "CL:3"),
    "CL:5": term("CD4 T cell", "CL:2"),
    "CL:6": term("B cell", "CL:1", synonyms=["T cell"]),
    "CL:7": {"label": "obsolete CD8", "ancestors": {}, "deprecated": True, "replaced_by": "CL:4"},
}


def test_terms_that_labels_name_are_classes_and_mean_all_below_them():
    labels = ["T lymphocytes", "CL:5", "CL:7", "cytotoxic cell", "unknown"]
    ontology = cell_ontology(TERMS).for_labels(labels)
    assert ontology.leaves == ["CD4 T cell", "CD8 T cell", "T cell", "cytotoxic cell"]
    sets = ontology.label_sets(labels).astype(int)
    np.testing.assert_array_equal(sets, [[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]])


def test_distances_go_over_the_nearest_term_above_both():
    ontology = cell_ontology(TERMS)
    steps = {"CL:2": 1, "T lymphocytes": 1, "cytotoxic cell": 1, "CD4 T cell": 2, "B cell": 3, "CL:7": 0}
    assert {name: ontology.distance("CD8 T cell", name) for name in steps} == steps
    assert ontology.distance("B cell", "CL:4") == 3
    assert ontology.similarity("B cell", "CL:4") == 0.25
    assert ontology.similarity("osteoclasts", "Osteoclast") == 1 > 0 == ontology.similarity("B cell", "osteoclast")
    assert ontology.distance("B cell", "osteoclast") is ontology.distance("unknown", "B cell") is None


def test_a_label_that_no_class_is_below_says_nothing_of_them():
    ontology = cell_ontology(TERMS).for_labels(["CD4 T cell", "CD8 T cell"])
    np.testing.assert_array_equal(ontology.label_sets(["B cell", "T cell"]).astype(int), [[0, 0], [1, 1]])


def test_synonyms_of_several_terms_mean_nothing():
    assert cell_ontology(TERMS).nodes_named("T cell") == ("T cell",)
    with pytest.raises(ConfigurationError, match="lymphoid"):
        cell_ontology(TERMS).for_labels(["lymphoid"])


def test_a_model_remembers_the_terms_above_its_classes():
    ontology = cell_ontology(TERMS).for_labels(["CD8 T cell"])
    kept = json.loads(json.dumps(ontology.part_above(ontology.leaves)))
    assert Ontology(kept).ancestors("CD8 T cell") == ["CD8 T cell", "T cell", "cytotoxic cell", "cell"]
    assert set(kept) == {"CD8 T cell", "T cell", "cytotoxic cell", "cell"} and not Ontology(kept).is_tree


def test_corpora_take_it_from_the_package(tmp_path, processor, monkeypatch):
    cells = make_cells(40)
    cells.obs["cell_type"] = np.resize(["CL:2", "CL:4"], 40)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    given = {"label_column": "cell_type", "ontology": "cl"}
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide", None)
    with pytest.raises(MissingDependencyError, match="ontology"):
        CellCorpus(tmp_path / "cells.h5ad", processor, **given)
    guide = types.ModuleType("cellxgene_ontology_guide.ontology_parser")
    schema = types.SimpleNamespace(ontology=lambda name: TERMS)
    guide.OntologyParser = lambda: types.SimpleNamespace(cxg_schema=schema)
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide", types.ModuleType("cellxgene_ontology_guide"))
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide.ontology_parser", guide)
    corpus = CellCorpus(tmp_path / "cells.h5ad", processor, **given)
    assert corpus.leaf_names == ["CD8 T cell", "T cell"]
    np.testing.assert_array_equal(corpus.label_sets, [[True, True], [True, False]])


def test_definitions_leave_out_what_has_none_or_is_deprecated():
    terms = TERMS | {"CL:7": TERMS["CL:7"] | {"description": "old"}, "CL:2": TERMS["CL:2"] | {"description": "A  T."}}
    (found,) = definitions(terms)
    assert found == ("CL:2", "T cell", "A T.", ("T lymphocyte", "lymphoid"))
    assert found.names == ("T cell", "T lymphocyte", "lymphoid", "CL:2")
