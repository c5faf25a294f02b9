import pytest

from sclm_hf.text.rules import MarkerRule, axiom_rules, marker_sets


def test_rules_of_a_type_are_one_set():
    rules = [
        MarkerRule("1", "T", ("CD3D", "CD3E"), "high", source="PMID 1"),
        MarkerRule("2", "B", ("MS4A1",), "high"),
        MarkerRule("3", "T", ("MS4A1",), "low", source="PMID 2"),
        MarkerRule("4", "T", ("CD3D",), "high", source="PMID 1"),
    ]
    t, b = marker_sets(rules)
    assert (t.label, t.positive, t.negative, t.source) == ("T", ("CD3D", "CD3E"), ("MS4A1",), "PMID 1; PMID 2")
    assert (b.label, b.positive, b.negative, b.source) == ("B", ("MS4A1",), (), "")


def test_rules_of_axiom_have_directions_reasons_and_sources():
    pytest.importorskip("axiom_sc")
    rules = {rule.id: rule for rule in axiom_rules()}
    against = rules["TREG_NEG_001"]
    assert (against.label, against.genes, against.direction) == ("Treg", ("IL2",), "low")
    assert against.source == "PMID 17237765" and "IL2" in against.reason
    assert rules["TREG_CIRCUIT_001"].direction == "high" and "TREG_POS_001" not in rules
    assert 0 < len(axiom_rules("retina")) < len(rules)
