import numpy as np
import pytest

from sclm_hf import ScGPTForSequenceClassification, annotate
from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.running.label_groups import LabelGroups

from ..tiny import LABELS, make_cells, make_model, make_processor

PARENTS = {"lymphoid": None, "T": "lymphoid", "CD4": "T", "CD8": "T", "B": "lymphoid", "mono": None}
CLASSES = ["CD4", "CD8", "B", "mono"]
PROBABILITIES = np.array([[0.4, 0.35, 0.05, 0.2], [0.1, 0.1, 0.1, 0.7], [0.2, 0.2, 0.15, 0.45]], np.float32)


def called(level=None, evidence=0.0):
    groups = LabelGroups.of(CLASSES, Ontology(PARENTS), level)
    codes, confidence = groups.call(PROBABILITIES, evidence)
    names = [*groups.names, "unassigned"]
    return [names[code] for code in codes], [round(float(one), 2) for one in confidence]


@pytest.mark.parametrize(
    ("settings", "names", "confidence"),
    [
        ({}, ["CD4", "mono", "mono"], [0.4, 0.7, 0.45]),
        ({"level": 1}, ["lymphoid", "mono", "lymphoid"], [0.8, 0.7, 0.55]),
        ({"level": 2}, ["T", "mono", "mono"], [0.75, 0.7, 0.45]),
        ({"level": 9}, ["CD4", "mono", "mono"], [0.4, 0.7, 0.45]),
        ({"evidence": 0.7}, ["T", "mono", "unassigned"], [0.75, 0.7, 0.45]),
        ({"evidence": 0.78, "level": 2}, ["lymphoid", "unassigned", "unassigned"], [0.8, 0.7, 0.45]),
    ],
)
def test_groups_are_as_probable_as_their_classes_together(settings, names, confidence):
    assert called(**settings) == (names, confidence)


def test_classes_without_a_node_are_refused():
    with pytest.raises(ConfigurationError, match=r"no node for the labels \['NK'\]"):
        LabelGroups.of([*CLASSES, "NK"], Ontology(PARENTS))


@pytest.fixture
def model():
    """Its labels stand below two groups."""
    model = make_model(ScGPTForSequenceClassification)
    first, *others = LABELS.values()
    model.config.label_parents = {"one": None, first: "one", "rest": None, **dict.fromkeys(others, "rest")}
    return model


def test_annotate_answers_on_the_level_asked_for(model):
    cells = annotate(make_cells(), model, make_processor())
    coarse = annotate(make_cells(), model, make_processor(), level=1)
    rest = coarse.obsm["sclm_probabilities"][:, 1:].sum(axis=1)
    assert coarse.obs["sclm_prediction"].tolist() == np.where(rest > 0.5, "rest", "one").tolist()
    np.testing.assert_allclose(coarse.obs["sclm_confidence"], np.maximum(rest, 1 - rest), atol=1e-6)
    np.testing.assert_array_equal(coarse.obsm["sclm_probabilities"], cells.obsm["sclm_probabilities"])


def test_annotate_says_no_more_than_the_evidence(model):
    result = annotate(make_cells(), model, make_processor(), evidence=0.6)
    named = result.obs["sclm_prediction"] != "unassigned"
    assert (result.obs["sclm_confidence"][named] >= 0.6).all()
    assert result.uns["sclm_hf"]["sclm_prediction"]["settings"]["evidence"] == 0.6


def test_groups_that_nobody_tells_are_refused(model):
    del model.config.label_parents
    with pytest.raises(ConfigurationError, match="--ontology blood"):
        annotate(make_cells(), model, make_processor(), level=1)
    with pytest.raises(ConfigurationError, match="`level` or `evidence`"):
        annotate(make_cells(), model, make_processor(), ontology="blood")
