"""Rewards; recorded ones are those of Cell-o1's own code."""

import functools
import json

import numpy as np
import pytest

import sclm_hf
from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import LABELS, make_tiny_checkpoint
from sclm_hf.text.rewards import (
    SoftVerifier,
    batch_assignment_reward,
    format_reward,
    label_reward,
    ontology_reward,
)
from sclm_hf.tokenization.encodings.keys import hash_names

from ..tokenization.golden import GOLDEN

RECORDED = json.loads((GOLDEN / "cell_text" / "reward.json").read_text())
ONTOLOGY = Ontology({"lymphocyte": None, "T cell": "lymphocyte", "B cell": "lymphocyte", "neuron": None})


def boxed(answer: str) -> str:
    return f"<think>a</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_published_rewards(case):
    assert batch_assignment_reward([case["completion"]], answer=[case["gold"]], style="cello1") == [case["reward"]]


def test_strict_rewards():
    changed = {"trailing newline": -1.0, "dup by case": -1.0, "trailing sep": -1.0}
    for case in RECORDED:
        found = batch_assignment_reward([case["completion"]], [case["gold"]], style="strict")
        assert found == [changed.get(case["name"], case["reward"])], case["name"]


def test_quirks_of_the_published_reward():
    in_reasoning = "<think>B | T</think>\n<answer>\n</answer>"
    both = functools.partial(batch_assignment_reward, [in_reasoning, boxed("B")])
    assert both(["B | T", "B"], style="strict") == [-1, 1]
    assert both(["B | T", ["B"]], style="cello1")[1] == -1
    with pytest.raises(ConfigurationError, match="strict"):
        both(["B", "B"], style="severe")


def test_what_trl_passes_on_is_ignored():
    completion = [{"role": "assistant", "content": boxed("B | T")}]
    columns = {"prompts": ["?"], "completion_ids": [[1]], "cell_id": ["a"], "trainer_state": None}
    assert batch_assignment_reward(completions=[completion], answer=[["B", "T"]], **columns) == [1]
    assert format_reward(completions=[completion], **columns) == [1]
    assert label_reward(completions=["b.", "BT"], answer=["B", "B"], **columns) == [1, 0]


def test_form_is_graded():
    texts = ["", "<think>a</think>", "<think>a</think>\n<answer></answer>", boxed("B")]
    found = format_reward(texts)
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] == 1


def test_near_labels_earn_something():
    answers = ["T cells", "lymphocyte", "B cell", "neuron", "?"]
    found = ontology_reward(list(map(boxed, answers)), ["T cell"] * 5, ontology=ONTOLOGY)
    assert found == pytest.approx([1, 1 / 2, 1 / 3, 0, 0])
    puzzle = [boxed("B cell | T cell"), boxed("B cell")]
    assert ontology_reward(puzzle, ["T cell | T cell"] * 2, ONTOLOGY) == pytest.approx([2 / 3, 0])


def test_a_model_of_cells_judges():
    verifier = SoftVerifier([[0.7, 0.2, 0.1]], ["T cell", "B cell", "neuron"], ["cell"], ontology=ONTOLOGY)
    answers = ["T cell", boxed("b cell"), "lymphocytes", "unknown", "astrocyte"]
    found = verifier(completions=answers, cell_id=["cell"] * 5, prompts=None)
    assert found == pytest.approx([0.7, 0.2, 0.9, 0, 0])
    assert verifier(["T cell"], [int(hash_names(["cell"])[0])]) == [0.7]
    assert verifier(["T cell | B cell", "T cell"], [["cell", "cell"]] * 2) == pytest.approx([0.45, 0])
    with pytest.raises(ConfigurationError, match="did not see"):
        verifier(["T cell"], ["other"])


def test_any_classifier_is_a_judge(tmp_path):
    anndata = pytest.importorskip("anndata")
    genes = [f"GENE{i}" for i in range(20)]
    folder = make_tiny_checkpoint("scgpt", tmp_path, task="annotate", genes=genes)
    counts = np.random.default_rng(0).poisson(2, (3, 20)).astype(np.float32)
    cells = anndata.AnnData(counts)
    cells.var_names = genes
    cells = sclm_hf.annotate(cells, folder)
    verifier = SoftVerifier.from_annotated(cells)
    found = verifier([*LABELS, "?"], ["1"] * (len(LABELS) + 1))
    assert found[-1] == 0 and sum(found) == pytest.approx(1)
    assert verifier.__name__ == "soft_verifier"
    with pytest.raises(ConfigurationError, match="annotate"):
        SoftVerifier.from_annotated(cells, "other")
