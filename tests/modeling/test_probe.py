"""A probe in the place of a family's own classifier."""

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from sclm_hf.modeling.common.outputs import embedding_of
from sclm_hf.opening.classifiers import open_classifier, open_probe
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

LABELS = ["a", "b", "c", "d"]
FAMILIES_WITH_PROBE = [
    name for name, family in FAMILIES.items() if "AutoModelForSequenceClassification" in family.auto_classes
]


def filled(folder, task, family="scgpt"):
    """A probe with numbers in it, of a tiny checkpoint."""
    model = open_probe(str(make_tiny_checkpoint(family, folder, task=task)), LABELS)
    torch.manual_seed(0)
    for tensor in (model.probe.mean, model.probe.linear.weight.data, model.probe.linear.bias.data):
        tensor.normal_()
    return model


def scgpt_inputs():
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "expression_values": torch.rand(3, 9), "attention_mask": torch.ones(3, 9).long()}


@pytest.mark.parametrize("task", ["embed", "annotate"])
@pytest.mark.parametrize("family", FAMILIES_WITH_PROBE)
def test_a_saved_probe_opens_as_it_was_in_every_family(family, task, tmp_path):
    model = filled(tmp_path / "base", task, family)
    model.save_pretrained(tmp_path / "probe")
    opened, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "probe", output_loading_info=True)
    assert not any(info.values())
    weights, found = model.state_dict(), opened.state_dict()
    assert weights.keys() == found.keys()
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert opened.config.probe_leaves == ([] if task == "embed" else ["B cell", "Monocyte", "T cell"])


def test_a_probe_of_an_encoder_reads_the_standardised_embedding(tmp_path):
    model, inputs = filled(tmp_path / "base", "embed"), scgpt_inputs()
    embedding = embedding_of(AutoModel.from_pretrained(tmp_path / "base")(**inputs), model.config)
    expected = model.probe.linear((embedding - model.probe.mean) / model.probe.deviation)
    torch.testing.assert_close(model(**inputs).logits, expected)
    assert model.classifier is None


def test_a_probe_of_a_classifier_also_reads_its_log_probabilities(tmp_path):
    model, inputs = filled(tmp_path / "base", "annotate"), scgpt_inputs()
    classified = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")(**inputs)
    features = torch.cat([embedding_of(classified, model.config), classified.logits.log_softmax(-1)], dim=-1)
    torch.testing.assert_close(model(**inputs).logits, model.probe(features))


def test_the_loss_of_a_probe_is_the_cross_entropy_of_its_logits_wherever_labels_stand(tmp_path):
    model, inputs = filled(tmp_path / "base", "annotate"), scgpt_inputs()
    labels = torch.tensor([0, 3, 1])
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    torch.testing.assert_close(model(*inputs.values(), None, labels).loss, output.loss)
    assert output.logits.shape == (3, len(LABELS))


def test_a_classifier_of_its_own_takes_the_place_of_a_probe_in_fine_tuning(tmp_path):
    filled(tmp_path / "base", "embed").save_pretrained(tmp_path / "probe")
    model = open_classifier(str(tmp_path / "probe"), ["x", "y"])
    assert model.probe is None and model(**scgpt_inputs()).logits.shape == (3, 2)


def test_a_probe_of_a_probe_reads_what_the_first_one_read(tmp_path):
    for task in ("embed", "annotate"):
        model = filled(tmp_path / task, task)
        model.save_pretrained(tmp_path / f"{task} probe")
        again = open_probe(str(tmp_path / f"{task} probe"), ["x", "y", "z"])
        assert again.config.probe_leaves == model.config.probe_leaves
        assert again(**scgpt_inputs()).logits.shape == (3, 3)
