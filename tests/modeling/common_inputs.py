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

    @pytest.mark.parametrize("name", ["position_ids", "past_key_values", "token_type_ids", "head_mask", "gene_ids"])
    def test_keywords_that_nobody_reads_are_refused(self, head_class, name):
        if name in self.keywords_read:
            pytest.skip("the family reads it")
        model, batch = self.build(head_class), self.inputs(head_class)
        with pytest.raises(ConfigurationError, match=f"does not read `{name}`"):
            model(**batch, **{name: torch.ones(1)})
        model(**batch, **{name: None})

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

    @pytest.mark.parametrize(("wrong", "told"), [(-1, "-1 to"), (10_000, "to 10000")])
    def test_ids_that_are_no_genes_are_refused(self, head_class, wrong, told):
        model, batch = self.build(head_class), self.inputs(head_class)
        batch["input_ids"][..., -1] = wrong
        with pytest.raises(ConfigurationError, match=f"rows of the gene table, 0 to .*{told}"):
            model(**batch)

    def test_ids_that_are_no_integers_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        with pytest.raises(ConfigurationError, match="ids of genes, int64"):
            model(**batch | {"input_ids": batch["input_ids"].float()})

    def test_batches_of_nothing_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        for empty in (slice(0), (slice(None), slice(0))):
            nothing = {name: tensor[empty] for name, tensor in batch.items() if tensor.ndim == 2}
            with pytest.raises(ConfigurationError, match="at least one of each"):
                model(**nothing)

    def test_shapes_that_differ_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        for name in ("expression_values", "attention_mask"):
            if name in batch:
                with pytest.raises(ConfigurationError, match=r"`\w+` must be \(|CellPLM reads"):
                    model(**batch | {name: batch[name][..., :-1]})

    def test_cells_of_which_nothing_is_real_are_refused(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        batch["attention_mask"][2] = 0
        with pytest.raises(ConfigurationError, match=r"no real position.*numbers \[2\]"):
            model(**batch)

    def test_what_is_missing_is_named(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        needed = ["expression_values"] if self.needs_values else ["input_ids"]
        for name in needed:
            with pytest.raises(ConfigurationError, match=f"`{name}`"):
                model(**{key: tensor for key, tensor in batch.items() if key != name})
