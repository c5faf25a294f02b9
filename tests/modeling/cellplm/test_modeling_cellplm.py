import copy

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.cellplm.configuration_cellplm import CellPLMConfig
from sclm_hf.modeling.cellplm.modeling_cellplm import (
    CellPLMForExpressionRegression,
    CellPLMForImputation,
    CellPLMForMaskedExpression,
    CellPLMForSampleClassification,
    CellPLMForSequenceClassification,
    CellPLMModel,
)

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester

ENCODERS = ("flowformer", "performer", "cosformer", "transformer", "mlp", "none")


def tiny_config(**changes) -> CellPLMConfig:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_random_features": 18,
        "head_dim": 8,
        "cell_embedding_size": 20,
        "latent_hidden_size": 28,
        "num_clusters": 5,
        "latent_loss_floor": 0.0,
        "decoder_hidden_size": 24,
        "num_batches": 3,
        "num_datasets": 2,
        "num_labels": 5,
        "num_outputs": GENES,
        "head_hidden_size": 24,
        "num_head_layers": 2,
    }
    return CellPLMConfig(**settings | changes)


def tiny_sample(n_cells: int = BATCH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randperm(VOCAB, generator=generator)[:GENES],
        "expression_values": torch.poisson(torch.full((n_cells, GENES), 2.0), generator=generator),
        "attention_mask": torch.ones(n_cells, dtype=torch.long),
        "cluster_uniforms": torch.rand(n_cells, 5, generator=generator),
        "latent_noise": torch.randn(n_cells, 20, generator=generator),
    }


def whole_sample(rows: list[dict]) -> dict[str, torch.Tensor]:
    """A sample is a batch already."""
    (sample,) = rows
    return {name: torch.tensor(value) for name, value in sample.items()}


class TestCellPLM(InputTester, ModelTester):
    family = "cellplm"
    needs_values = True
    base_class = CellPLMModel
    head_classes = (
        CellPLMForMaskedExpression,
        CellPLMForImputation,
        CellPLMForSequenceClassification,
        CellPLMForSampleClassification,
        CellPLMForExpressionRegression,
    )

    def config(self, **changes):
        return tiny_config(**changes)

    def build(self, model_class, **changes):
        model = super().build(model_class, **changes)
        with torch.no_grad():
            # new gene tables are so small that cells are nearly alike, and gradients lost in rounding
            model.get_input_embeddings().weight.normal_()
            for name, parameter in model.named_parameters():
                if name.startswith(("model.latent", "classifier", "head")):
                    parameter.mul_(4)
        return model

    def inputs(self, model_class, *, labels=False):
        batch = tiny_sample()
        counts = batch["expression_values"]
        if not labels:
            return batch
        if model_class is CellPLMForSequenceClassification:
            return batch | {"labels": torch.arange(BATCH) % 5}
        if model_class is CellPLMForSampleClassification:
            return batch | {"labels": torch.tensor([3])}
        if model_class is CellPLMForMaskedExpression:
            masked = (torch.arange(BATCH)[:, None] + torch.arange(GENES)) % 3 == 1
            origin = {"batch_labels": torch.arange(BATCH) % 3, "dataset_labels": torch.arange(BATCH) % 2}
            batch |= {"masked_positions": masked, **origin, "expression_values": counts.masked_fill(masked, 0)}
        return batch | {"labels": counts}

    def rows(self, batch):
        # recorded draws are no columns of a data set
        for name in ("cluster_uniforms", "latent_noise"):
            batch.pop(name)
        return Dataset.from_list([{name: tensor.tolist() for name, tensor in batch.items()}])

    def stock_trainer(self, *args):
        trainer = super().stock_trainer(*args, per_device_train_batch_size=1, per_device_eval_batch_size=1)
        trainer.data_collator = whole_sample
        return trainer

    def without_dropout(self):
        dropouts = {"hidden_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "head_dropout": 0.0}
        return dropouts | {"stochastic_latent": False}

    def parameters_without_gradient(self, head_class):
        if head_class is CellPLMForMaskedExpression:
            return set()
        # origins are not given, and what stands for them is taken as it is
        names = {f"decoder.covariates.0.{name}.embedding.weight" for name in ("batch", "dataset")}
        return names if head_class is CellPLMForImputation else set()

    def no_batches(self, batch):
        ids, counts = batch["input_ids"], batch["expression_values"]
        yield {"input_ids": ids - 99}, "rows of the gene table, 0 to"
        yield {"input_ids": ids.float()}, "ids of genes, int64"
        yield {"expression_values": counts[:0]}, "at least one of each"
        yield {"expression_values": counts[:, :0]}, "at least one of each"
        yield {"expression_values": counts[:, 1:]}, "cells of one sample"
        yield {"expression_values": None}, "`expression_values`"
        yield {"attention_mask": torch.ones(3)}, "must be \\(cells,\\)"
        yield {"attention_mask": torch.zeros(len(counts))}, "No cell of the sample is real"

    def test_forward_shapes(self):
        output = self.build(CellPLMModel)(**self.inputs(CellPLMModel))
        assert output.last_hidden_state.shape == (BATCH, 32)
        assert output.cell_embedding.shape == (BATCH, 20)
        assert output.gene_embeddings.shape == (GENES, 32)

    def test_hidden_states_and_attentions(self):
        output = self.build(CellPLMModel)(**self.inputs(CellPLMModel), output_hidden_states=True)
        assert len(output.hidden_states) == 2 + 1
        assert output.attentions is None

    def test_padding_invariance(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        padded = {
            name: tensor if name == "input_ids" else torch.cat([tensor, tensor[:3]]) for name, tensor in batch.items()
        }
        padded["attention_mask"] = torch.cat([batch["attention_mask"], torch.zeros(3, dtype=torch.long)])
        for name, expected in model(**batch).items():
            found = model(**padded)[name]
            if name != "latent_loss":
                cells = slice(BATCH) if expected.ndim and len(expected) == BATCH else slice(None)
                assert_close(found[cells], expected, atol=1e-5, rtol=1e-5)

    def test_gene_order_equivariance(self):
        model, batch = self.build(CellPLMModel), self.inputs(CellPLMModel)
        order, cells = torch.randperm(GENES), torch.randperm(BATCH)
        permuted = {name: tensor[cells] for name, tensor in batch.items() if name != "input_ids"}
        permuted["expression_values"] = permuted["expression_values"][:, order]
        output, other = model(**batch), model(input_ids=batch["input_ids"][order], **permuted)
        assert_close(output.cell_embedding[cells], other.cell_embedding, atol=1e-5, rtol=1e-5)
        assert_close(output.last_hidden_state[cells], other.last_hidden_state, atol=1e-5, rtol=1e-5)

    def test_resize_token_embeddings(self, head_class, tmp_path):
        model, batch = self.build(head_class), self.inputs(head_class)
        before = model(**batch)
        model.resize_token_embeddings(VOCAB + 5)
        self.assert_same_output(before, model(**batch))
        batch["input_ids"][-1] = VOCAB + 4
        assert all(torch.isfinite(value).all() for value in model(**batch).values())
        model.save_pretrained(tmp_path)
        assert head_class.from_pretrained(tmp_path).config.vocab_size == VOCAB + 5


def build(**changes) -> CellPLMModel:
    torch.manual_seed(0)
    model = CellPLMModel(tiny_config(**changes)).eval()
    with torch.no_grad():
        model.embeddings.genes.weight.normal_()
    return model


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("chunk_size", [1, 5, 12])
@torch.no_grad()
def test_chunks_and_sparse_counts_change_nothing(encoder, chunk_size):
    model, sample = build(encoder_type=encoder), tiny_sample()
    # one call moves the spectral norm's estimate
    expected = copy.deepcopy(model)(**sample)
    dense = sample["expression_values"]
    for counts in (dense, dense.to_sparse_coo(), dense.to_sparse_csr(), dense.to_sparse_csc()):
        chunked = copy.deepcopy(model)
        chunked.config.chunk_size = chunk_size
        found = chunked(**sample | {"expression_values": counts})
        assert_close(found.cell_embedding, expected.cell_embedding, atol=1e-5, rtol=1e-5)
        assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_cells_see_the_sample(encoder):
    model, sample = build(encoder_type=encoder), tiny_sample()
    other = sample | {"expression_values": sample["expression_values"].clone()}
    other["expression_values"][0] += 9
    before, after = model(**sample).last_hidden_state, copy.deepcopy(model)(**other).last_hidden_state
    sees = not torch.allclose(before[1:], after[1:], atol=1e-5)
    assert sees is (encoder not in ("mlp", "none"))


def test_mixture_is_drawn_in_evaluation_as_published_unless_told_otherwise():
    sample = {name: tiny_sample()[name] for name in ("input_ids", "expression_values")}
    model = build()
    first, second = model(**sample).cell_embedding, model(**sample).cell_embedding
    assert (first - second).abs().max() > 1e-3
    model.config.stochastic_latent = False
    steady = model(**sample)
    assert torch.equal(steady.cell_embedding, model(**sample).cell_embedding)
    certain = torch.full((BATCH, 5), 0.5)
    assert torch.equal(steady.cell_embedding, model(**sample, cluster_uniforms=certain).cell_embedding)


@pytest.mark.parametrize("latent", ["gmvae", "vae", "ae", "split"])
def test_latents_train(latent):
    model = CellPLMForMaskedExpression(tiny_config(latent_type=latent, vae_loss_floor=0.0)).train()
    counts = tiny_sample()["expression_values"]
    for _ in range(2):
        model.zero_grad()
        model(tiny_sample()["input_ids"], counts, labels=counts).loss.backward()
    without = [name for name, weight in model.model.latent.named_parameters() if not weight.grad.abs().sum() > 0]
    assert not without


def test_weight_of_the_latent_loss_rises_and_is_saved(tmp_path):
    model = CellPLMModel(tiny_config(latent_type="vae", vae_loss_floor=0.0, vae_warmup_steps=10)).train()
    sample = tiny_sample()
    losses = [model(**sample).latent_loss.item() for _ in range(3)]
    assert losses[0] == 0 < losses[1] < losses[2]
    model.save_pretrained(tmp_path)
    assert CellPLMModel.from_pretrained(tmp_path).latent.warm_up.steps == 3
    for _ in range(20):
        model(**sample)
    assert model.latent.warm_up.steps == 9


def test_missing_covariates_are_summed_as_published_or_averaged():
    counts = tiny_sample()["expression_values"]
    torch.manual_seed(0)
    model = CellPLMForMaskedExpression(tiny_config(latent_type="vae")).eval()
    mean = copy.deepcopy(model)
    for covariates in mean.decoder.covariates:
        for covariate in covariates.values():
            covariate.missing = "mean"
    ids = tiny_sample()["input_ids"]
    summed, averaged = model(ids, counts).expression_prediction, mean(ids, counts).expression_prediction
    assert (summed - averaged).abs().max() > 1e-4


def test_loss_of_a_step_is_shared_by_its_samples():
    """Two samples of a step: their losses add up to what the counts of labels say."""
    model = CellPLMForMaskedExpression(tiny_config(latent_type="vae")).eval()
    samples = [tiny_sample(5), tiny_sample(9)]
    labels = [sample["expression_values"] for sample in samples]
    items = sum(label.numel() for label in labels)
    whole = sum(
        model(**sample, labels=label, num_items_in_batch=items).loss
        for sample, label in zip(samples, labels, strict=True)
    )
    means = [model(**sample, labels=label).loss for sample, label in zip(samples, labels, strict=True)]
    assert_close(whole, (5 * means[0] + 9 * means[1]) / 14)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        (CellPLMForMaskedExpression, torch.ones(BATCH, GENES)),
        (CellPLMForImputation, torch.ones(BATCH, GENES).index_fill(1, torch.arange(0, GENES, 2), -100)),
        (CellPLMForSequenceClassification, torch.arange(BATCH) % 5),
        (CellPLMForSampleClassification, torch.tensor([3])),
        (CellPLMForExpressionRegression, torch.ones(BATCH, GENES)),
    ],
)
def test_a_step_over_the_same_sample_twice_has_its_loss(head, labels):
    model = head(tiny_config(latent_loss_floor=5.0)).eval()
    once = model(**tiny_sample(), labels=labels).loss
    half = model(**tiny_sample(), labels=labels, num_items_in_batch=2 * (labels != -100).sum()).loss
    assert_close(half + half, once)


def test_imputation_of_a_cell_of_which_nothing_is_known():
    """Its counts are predicted without a scale, and the others' loss and gradient are what they were."""
    model, sample = CellPLMForImputation(tiny_config(latent_type="ae")).eval(), tiny_sample()
    labels = sample["expression_values"].clone()
    labels[0] = -100
    output = model(**sample, labels=labels)
    output.loss.backward()
    assert_close(output.expression_prediction[0], model(**sample).expression_prediction[0])
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 20 and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_imputation_of_genes_that_were_not_measured():
    """They stand among `input_ids` with counts of 0, which say nothing of the cell, and get no label."""
    model, sample = CellPLMForImputation(tiny_config(latent_type="ae")).eval(), tiny_sample()
    ids, counts = sample["input_ids"], sample["expression_values"]
    measured = model(ids[:-2], counts[:, :-2], labels=counts[:, :-2])
    targets = torch.arange(GENES) >= GENES - 2
    imputed = model(ids, counts.masked_fill(targets, 0), labels=counts.masked_fill(targets, -100))
    assert_close(imputed.cell_embedding, measured.cell_embedding)
    assert_close(imputed.expression_loss, measured.expression_loss)
    assert_close(imputed.expression_prediction[:, :-2], measured.expression_prediction)
    assert (imputed.expression_prediction[:, -2:] > 0).all()


def test_denoising_of_a_cell_without_counts():
    model, sample = CellPLMForExpressionRegression(tiny_config(head_objective="denoising")).eval(), tiny_sample()
    sample["expression_values"][0] = 0
    assert torch.isfinite(model(**sample, labels=sample["expression_values"]).loss)


def test_imputation_says_which_decoder_it_needs():
    model, sample = CellPLMForImputation(tiny_config(decoder_type="resmlp")), tiny_sample()
    with pytest.raises(ConfigurationError, match="decoder_type='nbmlp'"):
        model(**sample, labels=sample["expression_values"])


@pytest.mark.parametrize("setting", ["cat_pe", "input_covariate", "dsbn", "dar", "ecs"])
def test_settings_of_the_original_that_are_not_built_are_refused(setting):
    with pytest.raises(ConfigurationError, match=rf"`{setting}` .* is not built"):
        tiny_config(**{setting: True})
    tiny_config(**{setting: False})


def test_a_classifier_leaves_the_configuration_it_is_given():
    config = tiny_config(latent_type="vae")
    assert CellPLMForSequenceClassification(config).config.latent_type == "ae"
    assert config.latent_type == "vae"


@pytest.mark.parametrize("shapes", [((13, 7), (6,)), ((13, 7), (13, 7)), ((7,), (7,))])
def test_inputs_that_are_no_sample_are_refused(shapes):
    values, ids = torch.ones(shapes[0]), torch.ones(shapes[1], dtype=torch.long)
    with pytest.raises(ConfigurationError, match="cells of one sample"):
        CellPLMModel(tiny_config())(ids, values)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 5}, {"decoder_hidden_size": 22}, {"num_decoder_layers": 1}, {"chunk_size": 0}],
)
def test_sizes_that_do_not_go_together_are_refused(changes):
    with pytest.raises(Exception, match=next(iter(changes))):
        tiny_config(**changes)


def test_z_scores_are_taken_and_predicted_as_they_are():
    model = CellPLMForMaskedExpression(tiny_config(input_encoding="zscored", num_batches=0, num_datasets=0)).eval()
    sample = tiny_sample()
    values = sample["expression_values"] - 2
    embeddings = model.model.embeddings
    genes = embeddings.genes(sample["input_ids"])
    assert_close(embeddings.sum_of_genes(genes, values), values @ genes)
    labels = values.clone()
    labels[0] = -100
    output = model(**sample | {"expression_values": values}, labels=labels)
    predicted = output.expression_prediction
    assert (predicted < 0).any() and output.dispersion is None
    assert_close(output.expression_loss, ((predicted - values)[1:] ** 2).mean())


def test_a_decoder_of_counts_does_not_go_with_z_scores():
    assert tiny_config().decoder_type == "nbmlp"
    assert tiny_config(input_encoding="zscored").decoder_type == "mlp"
    with pytest.raises(Exception, match="leave out `decoder_type`"):
        tiny_config(input_encoding="zscored", decoder_type="nbmlp")
