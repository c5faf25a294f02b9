import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.metrics import Predictions, class_scores
from sclm_hf.evaluation.reports import ResultsTable, compare
from sclm_hf.hub.card import (
    CardFacts,
    TrainingData,
    facts_of_conversion,
    render_card,
    start_facts,
    write_card,
)
from sclm_hf.modeling.common.conversion import LoadingReport
from sclm_hf.tokenization.genes.gene_vocabulary import GeneVocabulary

TRUE = np.array(["B", "B", "T", "T", "NK"])
COVERAGE = GeneVocabulary.from_genes(["CD3E", "MS4A1"]).map_genes(["CD3E", "XYZ9"]).coverage
METHOD = "scGPT + LoRA"


def make_table() -> ResultsTable:
    methods = {
        METHOD: [Predictions("seed 0", np.arange(5), TRUE, np.array(["B", "B", "T", "B", "NK"]))],
        "PCA + logistic regression": [Predictions("seed 0", np.arange(5), TRUE, TRUE)],
    }
    results = compare(methods, reference="PCA + logistic regression")
    return ResultsTable("PBMC 68k", "scanpy 1.11.5", "Cell type annotation", results, seeds=(0,), versions={"a": "1"})


def make_facts(**changes) -> CardFacts:
    facts = {
        "title": "Tiny scGPT",
        "family": "scgpt",
        "license": "mit",
        "summary": "A tiny model for tests.",
        "task": "annotate",
        "model": "someone/tiny-scgpt",
        "base_model": "someone/base",
        "is_adapter": True,
        "training_data": [TrainingData("PBMC 68k", 700, 765, "scanpy 1.11.5", "BSD-3-Clause")],
        "coverage": {"pbmc.h5ad": COVERAGE.to_dict()},
        "label_names": ["B", "NK", "T"],
        "settings": {"steps": 300},
        "results": [make_table()],
        "evaluated_method": METHOD,
        "command": "make demo",
        "limits": ["700 cells of one donor."],
    }  # fmt: skip
    return CardFacts(**{**facts, **changes})


def test_metadata_parses_back_with_equal_values(tmp_path):
    write_card(make_facts(), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.library_name, data.base_model) == ("mit", "sclm_hf", "someone/base")
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert {"single-cell", "scgpt", "lora"} <= set(data.tags)
    scores = {one.metric: one for one in make_table().results if one.method == METHOD and not one.reference}
    by_type = {one.metric_type: one for one in data.eval_results}
    assert by_type["accuracy"].metric_value == scores["accuracy"].mean == 0.8
    assert by_type["f1"].metric_value == scores["macro_f1"].mean
    assert by_type["f1"].metric_args["average"] == "macro"
    assert by_type["accuracy"].metric_args["interval"] == [scores["accuracy"].low, scores["accuracy"].high]
    assert data.model_name == "Tiny scGPT"


def test_baseline_stands_beside_the_model_and_not_in_its_index(tmp_path):
    card = render_card(make_facts())
    assert len(card.data.eval_results) == 2
    assert "| PCA + logistic regression | 1.000" in card.text
    assert f"| {METHOD} minus PCA + logistic regression | -0.200" in card.text


def test_eval_results_files_parse_back(tmp_path):
    write_card(make_facts(), tmp_path)
    (path,) = (tmp_path / ".eval_results").iterdir()
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert path.name == "pbmc-68k.yaml"
    assert {one.task_id: one.value for one in entries}["cell-type-annotation_accuracy"] == 0.8
    assert "95% bootstrap interval" in entries[0].notes


def test_text_says_what_a_reader_needs():
    text = render_card(make_facts()).text
    for part in (
        "pip install", 'sclm_hf.annotate(cells, "someone/tiny-scgpt")', "| PBMC 68k | 700 | 765 | scanpy 1.11.5 |",
        "| pbmc.h5ad | 2 | 1 | 0 | 0 | 0 | 1 | 50.0% |", "make demo", "700 cells of one donor.", "Nature Methods",
        "B, NK, T", "| steps | 300 |", "Seeds: 0.",
    ):  # fmt: skip
        assert part in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert len([line for line in code.splitlines() if line]) <= 5


def test_a_card_without_results_says_so(tmp_path):
    write_card(make_facts(results=[], evaluated_method=None, training_data=[], command=None), tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "has not been evaluated" in card.text and "Not known to this card." in card.text
    assert card.data.eval_results is None and not (tmp_path / ".eval_results").exists()


def test_facts_survive_json_and_render_the_same(tmp_path):
    write_card(make_facts(), tmp_path)
    again = CardFacts.load(tmp_path / "card_facts.json")
    assert again == make_facts()
    assert render_card(again).content == (tmp_path / "README.md").read_text()


def test_pictures_are_linked_and_labels_scored_one_by_one(tmp_path):
    scores = class_scores([Predictions("seed 0", np.arange(5), TRUE, np.array(["B", "B", "T", "B", "NK"]))])
    facts = make_facts(class_scores=scores, pictures={"plots/confusion.png": "What was taken for what"})
    text = str(render_card(facts))
    assert "| T | 2 | 1.000 | 0.500 | 0.667 |" in text
    assert "![What was taken for what](plots/confusion.png)" in text
    facts.save(tmp_path / "facts.json")
    assert str(render_card(CardFacts.load(tmp_path / "facts.json"))) == text


def test_untrue_or_incomplete_facts_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no family `nope`"):
        make_facts(family="nope")
    with pytest.raises(ConfigurationError, match="'other one' is not a method"):
        make_facts(evaluated_method="other one")
    with pytest.raises(ConfigurationError, match="needs a `license_name`"):
        make_facts(license="other")
    (tmp_path / "card_facts.json").write_text('{"title": 1}')
    with pytest.raises(ConfigurationError, match="does not hold the facts"):
        CardFacts.load(tmp_path / "card_facts.json")


def test_the_card_of_a_converted_checkpoint_has_the_licence_and_the_pipeline_of_its_family(tmp_path):
    report = LoadingReport("scfoundation", ["models.ckpt"], dropped={"x": "unused"})
    card = render_card(facts_of_conversion(tmp_path / "release", report))
    assert (card.data.license, card.data.license_name) == ("other", "scfoundation-non-commercial")
    for part in ("# scFoundation (release)", "models.ckpt", "| tensors dropped | 1 |", "its 19,264 genes"):
        assert part in card.text


def test_a_card_is_started_from_the_config(tmp_path):
    config = {"model_type": "scgpt", "architectures": ["ScGPTForSequenceClassification"], "id2label": {"0": "B"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = start_facts(tmp_path, license="mit")
    assert (facts.family, facts.task, facts.label_names) == ("scgpt", "annotate", ["B"])
    with pytest.raises(ConfigurationError, match="--license"):
        start_facts(tmp_path, license=None)
    with pytest.raises(ConfigurationError, match="not a checkpoint folder"):
        start_facts(tmp_path / "absent", license="mit")
