"""The tests of what a family asks of its inputs: labels of each kind of problem, keywords, batches that are none."""

import pytest
import torch
from torch.testing import assert_close

from sclm_hf.errors import ConfigurationError

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
CLASSES = 3


def labels_of(problem: str, cells: int) -> torch.Tensor:
    numbers = torch.arange(cells * CLASSES).reshape(cells, CLASSES)
    if problem == "single_label_classification":
        return torch.arange(cells) % CLASSES
    return numbers / 7 - 1 if problem == "regression" else (numbers % 2).float()


class InputTester:
    """Mixin beside `ModelTester`, for a family whose models use `sclm_hf.modeling.common.inputs`."""

    needs_values = False
    # what the family reads of the keywords that others refuse
    keywords_read: frozenset[str] = frozenset()

    def classifier_batch(self, classifier_class, problem):
        batch = self.inputs(classifier_class, labels=True)
        return batch | {"labels": labels_of(problem, len(batch["labels"]))}

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_problem_types_train(self, classifier_class, problem):
        model = self.build(classifier_class, problem_type=problem, num_labels=CLASSES).train()
        loss = model(**self.classifier_batch(classifier_class, problem)).loss
        loss.backward()
        assert torch.isfinite(loss)
        last = list(model.parameters())[-1]
        assert last.grad.abs().sum() > 0

    @pytest.mark.parametrize("problem", PROBLEMS[1:])
    def test_problem_types_are_inferred_from_labels(self, classifier_class, problem):
        model = self.build(classifier_class, num_labels=CLASSES)
        batch = self.classifier_batch(classifier_class, problem)
        inferred = model(**batch).loss
        model.config.problem_type = problem
        assert_close(inferred, model(**batch).loss)

    def test_one_label_is_a_number(self, classifier_class):
        model = self.build(classifier_class, num_labels=1)
        batch = self.inputs(classifier_class, labels=True)
        output = model(**batch | {"labels": batch["labels"].float()})
        count = batch["labels"].numel()
        squares = (output.logits[:, 0] - batch["labels"]) ** 2
        summed = model(**batch | {"labels": batch["labels"].float()}, num_items_in_batch=2 * count).loss
        assert output.loss >= squares.mean() - 1e-5
        assert_close(2 * summed, output.loss)

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_labels_of_another_problem_are_refused(self, classifier_class, problem):
        model = self.build(classifier_class, problem_type=problem, num_labels=CLASSES)
        cells = len(self.inputs(classifier_class, labels=True)["labels"])
        other = torch.zeros(cells, CLASSES) if problem.startswith("single") else torch.zeros(cells, dtype=torch.long)
        with pytest.raises(ConfigurationError, match=f"`labels` must be .*'{problem}'"):
            model(**self.inputs(classifier_class), labels=other)

    @pytest.mark.parametrize("problem", PROBLEMS[1:])
    def test_labels_that_are_none_of_the_classes_are_refused(self, classifier_class, problem):
        model = self.build(classifier_class, problem_type=problem, num_labels=CLASSES)
        batch = self.classifier_batch(classifier_class, problem)
        batch["labels"][0] = CLASSES
        with pytest.raises(ConfigurationError, match=f"there is {CLASSES}"):
            model(**batch)

    def test_keywords_that_nobody_reads_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        for name in {
            "position_ids",
            "past_key_values",
            "token_type_ids",
            "head_mask",
            "gene_ids",
        } - self.keywords_read:
            with pytest.raises(ConfigurationError, match=f"does not read `{name}`"):
                model(**batch, **{name: torch.ones(1)})
        model(**batch, past_key_values=None, use_cache=False)

    def test_attentions_come_or_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        if "attentions" not in self.base_class._can_record_outputs:
            with pytest.raises(ConfigurationError, match="no attention weights"):
                model(**batch, output_attentions=True)
            return
        if model._supports_sdpa:
            model.set_attn_implementation("sdpa")
            with pytest.raises(ConfigurationError, match="set_attn_implementation"):
                model(**batch, output_attentions=True)
            model.set_attn_implementation("eager")
        asked = model(**batch, output_attentions=True).attentions
        model.config.output_attentions = model.base_model.config.output_attentions = True
        for weights, again in zip(asked, model(**batch).attentions, strict=True):
            assert_close(weights, again)
        assert len(asked) == model.config.num_hidden_layers

    def test_embeddings_stand_in_for_ids(self):
        model, batch = self.build(self.base_class), self.inputs(self.base_class)
        expected = model(**batch).cell_embedding
        ids = batch.pop("input_ids")
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        found = model(inputs_embeds=embeddings, **batch, **self.beside_embeddings(ids)).cell_embedding
        assert_close(found, expected)
        found.sum().backward()
        assert embeddings.grad.abs().sum() > 0

    def beside_embeddings(self, ids) -> dict:
        """What a family asks for beside `inputs_embeds`."""
        return {}

    def test_batches_that_are_none_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        for changes, told in self.no_batches(batch):
            with pytest.raises(ConfigurationError, match=told):
                model(**batch | changes)

    def no_batches(self, batch):
        """Changes that make the batch none, and what is told."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        last = torch.arange(ids.shape[-1]) == ids.shape[-1] - 1
        yield {"input_ids": ids.masked_fill(last, -1)}, "rows of the gene table, 0 to .* -1 to"
        yield {"input_ids": ids.masked_fill(last, 10_000)}, "to 10000"
        yield {"input_ids": ids.float()}, "ids of genes, int64"
        for empty in (slice(0), (slice(None), slice(0))):
            yield {name: tensor[empty] for name, tensor in batch.items() if tensor.ndim == 2}, "at least one of each"
        for name in {"expression_values", "attention_mask"} & set(batch):
            yield {name: batch[name][:, :-1]}, rf"`{name}` must be \(|`input_ids` must be \("
        yield {"attention_mask": mask.index_fill(0, torch.tensor(2), 0)}, r"no real position.*numbers \[2\]"
        yield {"input_ids": None}, "`input_ids`"
        if "expression_values" in batch and self.needs_values:
            yield {"expression_values": None}, "`expression_values`"
