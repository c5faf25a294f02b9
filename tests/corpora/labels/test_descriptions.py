import json

import pytest

from sclm_hf.corpora.labels.descriptions import read_descriptions
from sclm_hf.errors import ConfigurationError


def test_labels_come_from_a_table_or_a_mapping_in_a_file(tmp_path):
    (tmp_path / "labels.csv").write_text("label,text\nB cell,makes antibodies\nB cell,has CD19\nT cell,has CD3\n")
    (tmp_path / "labels.json").write_text(json.dumps({"B cell": "makes antibodies", "T cell": "has CD3"}))
    table, mapping = (read_descriptions(tmp_path / f"labels.{end}") for end in ("csv", "json"))
    assert table == {"B cell": ["makes antibodies", "has CD19"], "T cell": ["has CD3"]}
    assert mapping == {"B cell": ["makes antibodies"], "T cell": ["has CD3"]}


def test_labels_can_be_given_as_json():
    assert read_descriptions(' {"B": "b", "T": ["t", "u"]}') == {"B": ["b"], "T": ["t", "u"]}
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_descriptions('{"B": "b"')


def test_names_that_the_cell_ontology_knows_are_described_by_it():
    pytest.importorskip("cellxgene_ontology_guide")
    found = read_descriptions(["B cells", "T cell"])
    assert found["B cells"][0].startswith("B cell: ") and found["T cell"][0].startswith("T cell: ")
    with pytest.raises(ConfigurationError, match=r"no definition of \['florble'\]"):
        read_descriptions(["B cell", "florble"])


@pytest.mark.parametrize(
    ("labels", "named"),
    [({"a": "b"}, "two cell types"), ({"a": "b", "c": ""}, "'c' has no text"), ("nowhere.csv", "cannot be read")],
)
def test_labels_that_describe_nothing_are_refused(labels, named):
    with pytest.raises(ConfigurationError, match=named):
        read_descriptions(labels)
