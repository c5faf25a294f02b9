import numpy as np
import pytest
import torch

from sclm_hf.errors import CorpusError
from sclm_hf.modeling.common.losses import label_set_loss
from sclm_hf.objectives.supervised import SupervisedCollator, Supervision, ValueDecoder, concentration, embedding_size
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.new_models import new_config
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint

from ..training.training_cells import CellsInMemory, classifier

SETS = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)


def batch(**settings):
    cells = CellsInMemory(8)
    return SupervisedCollator(label_sets=SETS, **settings)(cells.batch(np.arange(8)), 0), cells.labels


def test_labels_become_the_classes_that_they_may_mean():
    inputs, labels = batch()
    np.testing.assert_array_equal(inputs["labels"], SETS[labels])
    assert inputs["labels"].dtype == torch.bool and "cell_ids" not in inputs


def test_cells_without_a_label_may_be_anything():
    inputs = SupervisedCollator(label_sets=SETS)({"labels": np.array([-100, 0])}, 0)
    assert inputs["labels"].tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(CorpusError, match="3 classes"):
        SupervisedCollator(label_sets=SETS)({"labels": np.array([3])}, 0)


def test_weights_of_labels_weigh_cells():
    inputs, labels = batch(label_weights=np.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(inputs["loss_weights"], np.array([1.0, 3.0, 2.0], np.float32)[labels])


def test_weights_of_labels_leave_cells_without_a_label_at_one():
    collator = SupervisedCollator(label_sets=np.ones((200, 2), bool), label_weights=np.arange(200.0))
    assert collator({"labels": np.array([-100, 3])}, 0)["loss_weights"].tolist() == [1, 3]


def test_without_margins_and_weights_the_loss_is_that_of_the_classifier():
    model = classifier(problem_type="single_label_classification", hidden_dropout_prob=0.0, attention_dropout=0.0)
    inputs, _ = batch(label_weights=np.ones(3))
    torch.testing.assert_close(Supervision(model).train()(**inputs).loss, model.eval()(**without(inputs)).loss)
    weighted, _ = batch(label_weights=np.full(3, 2.0))
    torch.testing.assert_close(Supervision(model).train()(**weighted).loss, 2 * model.eval()(**without(inputs)).loss)


def without(inputs):
    return {name: values for name, values in inputs.items() if name != "loss_weights"}


def test_margins_make_the_loss_larger_in_training_alone():
    model = classifier(problem_type="single_label_classification", hidden_dropout_prob=0.0, attention_dropout=0.0)
    inputs, _ = batch()
    module = Supervision(model, margins=torch.tensor([0.0, 2.0, 2.0]))
    assert module.train()(**inputs).loss > model(**inputs).loss + 0.1
    outputs = module.eval()(**inputs)
    torch.testing.assert_close(outputs.loss, label_set_loss(outputs.logits, inputs["labels"]))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_concentration_is_minus_the_logarithm_of_the_participation_ratio(shape):
    embeddings = torch.randn(shape, generator=torch.manual_seed(0)) + 3
    variances = torch.linalg.svdvals(embeddings - embeddings.mean(dim=0)).square()
    ratio = variances.sum().square() / variances.square().sum()
    torch.testing.assert_close(concentration(embeddings), -ratio.log())
    torch.testing.assert_close(concentration(100 * embeddings), concentration(embeddings))


def test_concentration_of_cells_that_are_alike_has_a_gradient_that_is_finite():
    alike = torch.ones(5, 3, requires_grad=True)
    concentration(alike).backward()
    assert torch.isfinite(alike.grad).all()


def test_spreading_the_embeddings_uses_more_directions():
    torch.manual_seed(0)
    embeddings = (torch.randn(50, 1) * torch.randn(8) + 0.1 * torch.randn(50, 8)).requires_grad_()
    before = concentration(embeddings).item()
    optimizer = torch.optim.Adam([embeddings], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        concentration(embeddings).backward()
        optimizer.step()
    assert before > -0.2 and concentration(embeddings).item() < -1.5


def test_labels_are_also_told_from_the_embedding_in_training_alone():
    model = classifier(problem_type="single_label_classification", hidden_dropout_prob=0.0, attention_dropout=0.0)
    inputs, _ = batch()
    head = torch.nn.Linear(embedding_size(model), 3)
    module = Supervision(model, embedding_classifier=head, embedding_weight=2.0, spread_weight=0.5)
    plain = module.eval()(**inputs)
    told = label_set_loss(head(plain.cell_embedding), inputs["labels"])
    torch.testing.assert_close(
        module.train()(**inputs).loss, plain.loss + 2 * told + 0.5 * concentration(plain.cell_embedding)
    )


@pytest.mark.parametrize("has_values", [True, False])
def test_denoising_learns_the_pattern_within_a_cell(has_values):
    torch.manual_seed(0)
    decoder, inputs = ValueDecoder(4, 20, (18, 19)), batch()[0]
    inputs = {name: values for name, values in inputs.items() if has_values or name != "expression_values"}
    embedding = torch.randn(8, 4)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.05)
    losses = []
    for _ in range(200):
        losses.append(decoder(embedding, **inputs))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    # values are standardised, so that predicting none costs 1
    assert losses[0].item() == pytest.approx(1, abs=0.6) and losses[-1] < 0.3


def test_units_of_values_and_padding_do_not_count():
    torch.manual_seed(0)
    decoder, inputs, embedding = ValueDecoder(4, 20, (18, 19)), batch()[0], torch.randn(8, 4)
    other = inputs | {"expression_values": 7 * inputs["expression_values"] + 100 * (inputs["input_ids"] >= 18)}
    torch.testing.assert_close(decoder(embedding, **inputs), decoder(embedding, **other))


def test_cells_of_a_sample_share_their_genes():
    decoder, values = ValueDecoder(4, 5), torch.randn(6, 3)
    shared = decoder(torch.ones(6, 4), torch.tensor([0, 2, 4]), torch.ones(6), expression_values=values)
    each = torch.tensor([0, 2, 4]).expand(6, -1)
    torch.testing.assert_close(shared, decoder(torch.ones(6, 4), each, torch.ones(6, 3), expression_values=values))


@pytest.mark.parametrize("family", ["scfoundation", "scgpt"])
def test_the_decoder_fits_what_the_classifier_returns(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / family)
    model, processor = open_classifier(str(folder), ["A", "B"]).eval(), load_processor(str(folder))
    decoder, size = ValueDecoder.fitting(model, processor), embedding_size(model)
    ids = torch.tensor([[5, 6, 7]]).repeat(2, 1)
    inputs = {"input_ids": ids, "expression_values": torch.rand(2, 3)}
    embedding = model(attention_mask=torch.ones(2, 3, dtype=torch.long), **inputs).cell_embedding
    assert embedding.shape == (2, size) and decoder.cell[1].in_features == size


def test_new_models_know_no_data_sets(tmp_path):
    processor = load_processor(str(make_tiny_checkpoint("cellplm", tmp_path / "tiny")))
    assert new_config("cellplm", processor, {}).num_datasets == 0
    assert new_config("cellplm", processor, {"num_datasets": 3}).num_datasets == 3
