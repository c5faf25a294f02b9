import itertools

import numpy as np
import pytest

from sclm_hf.corpora.labels.ontology import Ontology, available, simplified
from sclm_hf.errors import ConfigurationError

TEXT = """
tree:
  T cell:
    CD4 T cell:
    CD8 T cell:
  B cell:
synonyms:
  T cell: [T lymphocyte]
sets:
  lymphocyte: [T cell, B cell]
"""


@pytest.fixture
def ontology(tmp_path):
    (tmp_path / "small.yaml").write_text(TEXT)
    return Ontology.load(tmp_path / "small.yaml")


def test_names_of_any_grain_are_sets_of_leaves(ontology):
    assert ontology.leaves == ["CD4 T cell", "CD8 T cell", "B cell"]
    sets = ontology.label_sets(["CD8+ T cells", "T", "T_lymphocyte", "lymphocytes", "unassigned"])
    np.testing.assert_array_equal(sets.astype(int), [[0, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])


def test_unknown_names_are_refused_by_name(ontology):
    with pytest.raises(ConfigurationError, match=r"\['microglia'\].*--unknown_labels drop"):
        ontology.label_sets(["B", "microglia"])


@pytest.mark.parametrize(
    ("one", "other"),
    [("CD14+ Monocytes", "CD14 monocyte"), ("T/NK cells", "T_NK"), ("Mast", "mast cell"), ("NK", "nk cells")],
)
def test_spelling_makes_no_difference(one, other):
    assert simplified(one) == simplified(other)


def test_what_a_marker_lacks_does_make_a_difference():
    assert simplified("CD4+/CD25- T") != simplified("CD4+/CD25+ T")


def test_t_and_nk_cells_are_six_leaves_of_blood():
    blood = Ontology.load("blood")
    leaves = np.array(blood.leaves)[blood.label_sets(["T/NK cells"])[0]]
    assert len(leaves) == 6 and set(leaves) > {"natural killer cell", "regulatory T cell"}


@pytest.mark.parametrize("pair", list(itertools.permutations(available(), 2)), ids="+".join)
def test_ontologies_of_tissues_can_be_joined(pair):
    joined = Ontology.load("+".join(pair))
    for name in pair:
        # a leaf of one tissue may be divided in the other
        assert set(Ontology.load(name).leaves) <= set(joined.parents)


def test_contradictions_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("tree: {T cell: {CD4: }}\nsynonyms: {T cell: [thymocyte]}")
    (tmp_path / "b.yaml").write_text("tree: {B cell: }\nsynonyms: {B cell: [thymocytes]}")
    (tmp_path / "c.yaml").write_text("tree: {CD4: }")
    with pytest.raises(ConfigurationError, match="'thymocytes' two meanings"):
        Ontology.load([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    with pytest.raises(ConfigurationError, match="'CD4' stands below"):
        Ontology.load([tmp_path / "a.yaml", tmp_path / "c.yaml"])


def test_an_own_ontology_adds_names_to_one_of_the_package(tmp_path):
    (tmp_path / "mine.yaml").write_text("includes: [blood]\nsets:\n  TNKs: [T or NK cell]\n  7: [B cell]\n")
    own = Ontology.load(tmp_path / "mine.yaml")
    np.testing.assert_array_equal(own.label_sets(["TNKs", "7"]), own.label_sets(["T/NK", "B"]))


@pytest.mark.parametrize("text", ["[1, 2]", "roots: {}", "tree: {a: }\nsets: {b: [c]}"])
def test_files_that_are_no_ontology_are_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="ontology"):
        Ontology.load(tmp_path / "bad.yaml")
    with pytest.raises(ConfigurationError, match=r"one of blood, heart.*'bloood'"):
        Ontology.load("bloood")


def test_meanings_are_the_leaves_of_a_model_that_names_stand_for():
    names, leaves = ["T_CD4", "NK cells", "unassigned", "unheard of"], ["natural killer cell", "naive CD4 T cell", "X"]
    assert Ontology.load("blood").meanings(names, leaves).tolist() == [
        [False, True, False],
        [True, False, False],
        [False] * 3,
        [False] * 3,
    ]
