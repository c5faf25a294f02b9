import pytest
import torch
from torch.testing import assert_close

from sclm_hf import (
    ScGPTConfig,
    ScGPTForMaskedExpression,
    ScGPTForPerturbation,
    ScGPTForSequenceClassification,
    ScGPTModel,
)
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.scgpt.modeling_scgpt import quantile_bins
from sclm_hf.modeling.scgpt.modeling_scgpt_layers import ScGPTDomainNorm

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester

PAD, CLS = VOCAB - 3, VOCAB - 2


def tiny_config(**changes) -> ScGPTConfig:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "pad_token_id": PAD,
        "cls_token_id": CLS,
        "num_labels": 5,
    }
    return ScGPTConfig(**settings | changes)


def tiny_batch(genes: int = GENES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, PAD, (BATCH, genes), generator=generator)
    values = torch.randint(1, 51, (BATCH, genes), generator=generator).float()
    mask = torch.ones(BATCH, genes, dtype=torch.long)
    ids[:, 0], values[:, 0] = CLS, -2.0
    mask[1, -2:] = mask[5, -1:] = 0
    ids[mask == 0], values[mask == 0] = PAD, -2.0
    return {"input_ids": ids, "expression_values": values, "attention_mask": mask}


class TestScGPT(InputTester, ModelTester):
    family = "scgpt"
    base_class = ScGPTModel
    head_classes = (ScGPTForMaskedExpression, ScGPTForSequenceClassification, ScGPTForPerturbation)

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if model_class is ScGPTForPerturbation:
            batch["perturbation_ids"] = (torch.arange(BATCH * GENES).reshape(BATCH, GENES) % 5 == 2).long()
        if not labels:
            return batch
        if model_class is ScGPTForSequenceClassification:
            batch["labels"] = torch.arange(BATCH) % 5
            return batch
        is_target = (batch["expression_values"] > 0) & (torch.arange(GENES) % 3 == 1)
        batch["labels"] = torch.where(is_target, batch["expression_values"], -100.0)
        return batch

    def parameters_without_gradient(self, head_class):
        names = {"model.embeddings.flags.weight"}  # belongs to generated genes, tested below
        if head_class is ScGPTForPerturbation:
            names |= {  # the published loss is on the perturbation decoder alone
                f"cell_expression_decoder.{name}"
                for name in ("gene_query.weight", "gene_query.bias", "bilinear.weight")
            }
        return names


def test_flag_embedding_learns_from_generated_genes():
    model = ScGPTForMaskedExpression(tiny_config())
    batch = tiny_batch()
    targets = torch.cat([torch.full((BATCH, GENES), -100.0), torch.ones(BATCH, 3)], dim=1)
    model(**batch, generation_ids=batch["input_ids"][:, 1:4], labels=targets).loss.backward()
    gradient = model.model.embeddings.flags.weight.grad
    assert gradient[1].abs().sum() > 0
    assert gradient[0].abs().sum() == 0


def test_generated_genes_see_known_genes_and_themselves_only():
    model = ScGPTForMaskedExpression(tiny_config()).eval()
    batch = tiny_batch()
    generation_ids = torch.randint(0, PAD, (BATCH, 4))
    alone = model(**batch, generation_ids=generation_ids[:, 1:2]).expression_prediction
    together = model(**batch, generation_ids=generation_ids).expression_prediction
    assert_close(alone[:, GENES], together[:, GENES + 1], atol=1e-5, rtol=1e-5)
    without = model(**batch).expression_prediction
    real = batch["attention_mask"].bool()
    assert_close(without[real], together[:, :GENES][real], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_flex_attention_equals_sdpa():
    model = ScGPTForMaskedExpression(tiny_config(hidden_size=64)).eval()
    batch = tiny_batch()
    batch["generation_ids"] = torch.randint(0, PAD, (BATCH, 4))
    real = torch.cat([batch["attention_mask"], torch.ones(BATCH, 4, dtype=torch.long)], dim=1).bool()
    with torch.no_grad():
        expected = model(**batch).expression_prediction
        model.set_attn_implementation("flex_attention")
        assert_close(model(**batch).expression_prediction[real], expected[real], atol=1e-4, rtol=1e-4)


def test_flash_attention_refuses_generated_genes():
    model = ScGPTModel(tiny_config())
    model.config._attn_implementation = "flash_attention_2"
    batch = tiny_batch()
    with pytest.raises(ConfigurationError, match="sdpa"):
        model(**batch, generation_ids=batch["input_ids"])


def test_batch_labels_are_asked_for_and_refused():
    batch = tiny_batch()
    labels = torch.zeros(BATCH, dtype=torch.long)
    with pytest.raises(ConfigurationError, match="not trained with them"):
        ScGPTModel(tiny_config())(**batch, batch_labels=labels)
    with pytest.raises(ConfigurationError, match="dsbn"):
        ScGPTModel(tiny_config(domain_norm="dsbn", num_batch_labels=2))(**batch)
    with pytest.raises(ConfigurationError, match="decoder sees batch labels"):
        ScGPTForMaskedExpression(tiny_config(use_batch_labels=True, num_batch_labels=2))(**batch)


@pytest.mark.parametrize("settings", [{"use_batch_labels": True}, {"domain_norm": "batchnorm"}])
def test_encoder_needs_no_labels_that_it_does_not_read(settings):
    model = ScGPTModel(tiny_config(num_batch_labels=2, **settings)).eval()
    batch = tiny_batch()
    without = model(**batch).cell_embedding
    assert_close(model(**batch, batch_labels=torch.ones(BATCH, dtype=torch.long)).cell_embedding, without)


def test_unknown_decoder_activation_is_refused():
    with pytest.raises(ConfigurationError, match="decoder_activation"):
        ScGPTForPerturbation(tiny_config(decoder_activation="Nope"))


@pytest.mark.slow
def test_perturbation_that_bins_compiles_without_graph_breaks():
    torch.compiler.reset()
    model = ScGPTForPerturbation(tiny_config(num_input_bins=11)).eval()
    batch = tiny_batch() | {"perturbation_ids": torch.zeros(BATCH, GENES, dtype=torch.long)}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(**batch).expression_prediction.shape == (BATCH, GENES)


def test_added_genes_are_learnt_from_tokenizer_to_reloaded_model(tmp_path):
    from sclm_hf import GeneTokenizer

    tokenizer = GeneTokenizer.from_genes([f"GENE{number}" for number in range(VOCAB - 3)])
    model = ScGPTModel(tiny_config())
    widened = tokenizer.add_genes(["NEW1", "NEW2"])
    model.resize_token_embeddings(widened.gene_vocabulary.size)
    ids = torch.tensor([widened.convert_tokens_to_ids(["<cls>", "GENE5", "NEW2"])])
    model(ids, torch.ones(1, 3)).cell_embedding[0, 0].backward()
    assert model.embeddings.genes.weight.grad[ids[0, 2]].abs().sum() > 0
    model.save_pretrained(tmp_path)
    reloaded = ScGPTModel.from_pretrained(tmp_path).eval()
    assert_close(reloaded(ids, torch.ones(1, 3)).cell_embedding, model.eval()(ids, torch.ones(1, 3)).cell_embedding)


def test_domain_norm_equals_torch_batch_norm():
    config = tiny_config(domain_norm="dsbn", num_batch_labels=3)
    ours = ScGPTDomainNorm(3, config)
    theirs = [torch.nn.BatchNorm1d(32, eps=6.1e-5, affine=False) for _ in range(3)]
    for label in (2, 0, 2):
        hidden = torch.randn(5, 4, 32) * 3 + 1
        labels = torch.full((5,), label)
        expected = theirs[label](hidden.transpose(1, 2)).transpose(1, 2)
        assert_close(ours(hidden, labels), expected, atol=1e-5, rtol=1e-5)
    for label in range(3):
        assert_close(ours.running_mean[label], theirs[label].running_mean)
        assert_close(ours.running_var[label], theirs[label].running_var)
        assert ours.num_batches_tracked[label] == theirs[label].num_batches_tracked


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "avg-pool", "pooling_includes_padding": False},
        {"pooling": "w-pool", "pooling_includes_padding": False},
        {"domain_norm": "dsbn", "num_batch_labels": 2, "dsbn_batch_domain": "cell"},
    ],
)
def test_deterministic_alternatives_equal_the_original_at_batch_size_one(settings):
    model = ScGPTModel(tiny_config(**settings)).eval()
    batch = tiny_batch()
    if model.domain_norm is not None:
        model.domain_norm.running_mean.normal_()
        batch["batch_labels"] = torch.arange(BATCH) % 2
    together = model(**batch).cell_embedding
    model.config.pooling_includes_padding = True
    model.config.dsbn_batch_domain = "first"
    for row in range(BATCH):
        length = int(batch["attention_mask"][row].sum())
        alone = {k: v[row : row + 1, :length] if v.ndim == 2 else v[row : row + 1] for k, v in batch.items()}
        assert_close(model(**alone).cell_embedding[0], together[row], atol=1e-5, rtol=1e-5)


def test_pooling_includes_padding_by_default():
    model = ScGPTModel(tiny_config(pooling="avg-pool")).eval()
    batch = tiny_batch()
    encoded = model(**batch)
    assert_close(encoded.cell_embedding, encoded.last_hidden_state.mean(dim=1))


@pytest.mark.parametrize("layout", [True, False])
def test_multiomic_model(layout):
    config = tiny_config(
        num_modalities=3, use_batch_labels=True, num_batch_labels=2, multiomic_decoder=layout, explicit_zero_prob=True
    )
    model = ScGPTForMaskedExpression(config)
    batch = tiny_batch()
    batch |= {"batch_labels": torch.arange(BATCH) % 2, "modality_ids": torch.arange(GENES).expand(BATCH, -1) % 3}
    output = model(**batch, labels=batch["expression_values"])
    assert output.cell_expression_prediction.shape == (BATCH, GENES)
    output.loss.backward()
    assert model.context.modalities.embedding.weight.grad.abs().sum() > 0
    decoder = model.cell_expression_decoder
    assert decoder.gene_query.weight.shape == ((64, 64) if layout else (32, 32))
    with pytest.raises(ConfigurationError, match="modality_ids"):
        model(**{key: value for key, value in batch.items() if key != "modality_ids"})


def test_auxiliary_losses_add_up():
    config = tiny_config(
        use_ecs=True,
        use_cce=True,
        use_batch_discriminator=True,
        num_batch_labels=2,
        use_classifier=True,
        explicit_zero_prob=True,
        batch_discriminator_weight=0.5,
    )
    model = ScGPTForMaskedExpression(config).train()
    batch = tiny_batch()
    output = model(
        **batch,
        labels=batch["expression_values"],
        batch_labels=torch.arange(BATCH) % 2,
        cell_type_labels=torch.arange(BATCH) % 5,
    )
    assert set(output.loss_terms) == {
        "expression",
        "nonzero",
        "cell_expression",
        "cell_nonzero",
        "classification",
        "elastic_similarity",
        "contrastive",
        "batch_discriminator",
    }
    assert_close(output.loss, sum(output.loss_terms.values()))
    assert not model.accepts_loss_kwargs
    assert ScGPTForMaskedExpression(tiny_config()).accepts_loss_kwargs


def test_batch_discriminator_reverses_gradients():
    config = tiny_config(use_batch_discriminator=True, num_batch_labels=2, mvc_style=None)
    model = ScGPTForMaskedExpression(config).eval()
    batch, labels = tiny_batch(), torch.arange(BATCH) % 2
    weight = model.model.layers[0].linear1.weight
    cell = model(**batch, batch_labels=labels).cell_embedding
    plain = torch.nn.functional.cross_entropy(model.batch_discriminator(cell), labels)
    (expected,) = torch.autograd.grad(plain, weight)
    reversed_ = torch.nn.functional.cross_entropy(model(**batch, batch_labels=labels).batch_logits, labels)
    (gradient,) = torch.autograd.grad(reversed_, weight)
    assert_close(gradient, -expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, "multiple of"),
        ({"use_batch_labels": True}, "num_batch_labels"),
        ({"use_cce": True, "pooling": "w-pool"}, "use_cce"),
        ({"value_style": "binned"}, "value_style"),
        ({"cell_embedding_size": 31}, "cell_embedding_size"),
        ({"classifier_num_layers": 0}, "classifier_num_layers"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**settings)


def test_initial_weights_are_the_published_ones():
    model = ScGPTModel(tiny_config(hidden_size=64))
    genes = model.embeddings.genes.weight
    assert 0.095 < genes.abs().max() <= 0.1
    assert genes[PAD].abs().sum() > 0
    query = model.layers[0].self_attn.q_proj
    assert 0.9 * (6 / 256) ** 0.5 < query.weight.abs().max() <= (6 / 256) ** 0.5
    assert query.bias.abs().sum() == 0
    feed_forward = model.layers[0].linear1
    assert feed_forward.weight.abs().max() <= 64**-0.5
    assert feed_forward.bias.abs().sum() > 0


def test_quantile_bins_equal_numpy():
    import numpy as np

    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, 3.0, (6, 40)).astype(np.float32) * (rng.random((6, 40)) < 0.7)
    binned = quantile_bins(torch.from_numpy(values), 11).numpy()
    for row, bins in zip(values, binned, strict=True):
        edges = np.quantile(row[row > 0], np.linspace(0, 1, 10))
        assert (bins[row == 0] == 0).all()
        expressed = row[row > 0].astype(np.float64)
        # the last bits of an edge differ between the two libraries, and the largest value is an edge
        away = np.abs(expressed[:, None] - edges).min(axis=1) > 1e-9
        np.testing.assert_array_equal(bins[row > 0][away], np.digitize(expressed, edges)[away])
        assert bins.max() == 10


def test_the_last_layer_is_computed_for_cls_alone_where_nothing_else_is_read():
    model = ScGPTModel(tiny_config()).eval()
    assert model(**tiny_batch(), cell_embedding_only=True).last_hidden_state.shape == (BATCH, 1, 32)
    model.config.pooling = "avg-pool"
    assert model(**tiny_batch(), cell_embedding_only=True).last_hidden_state.shape == (BATCH, GENES, 32)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "avg-pool", "w-pool"])
@pytest.mark.parametrize("settings", [{}, {"norm_style": "pre"}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_cells_without_one_token_share_the_first_layer(pooling, settings, implementation):
    torch.manual_seed(0)
    changes = {"pooling": pooling, "pooling_includes_padding": False, **settings}
    model = ScGPTModel(tiny_config(**changes)).eval()
    model.set_attn_implementation(implementation)
    # attention that some tokens have nearly for themselves
    model.layers[0].self_attn.q_proj.weight.mul_(12)
    batch = tiny_batch(11)
    cells, places = torch.tensor([[0, 0, 1, 1, 1, 5], [3, 10, 1, -1, 8, 9]])
    found = model.embed_without_one(model.share_first_layer(**batch), cells, places)
    for cell, place, embedding in zip(cells.tolist(), places.tolist(), found, strict=True):
        kept = [position for position in range(11) if position != place and batch["attention_mask"][cell, position]]
        expected = model(**{name: tensor[cell : cell + 1, kept] for name, tensor in batch.items()}).cell_embedding[0]
        assert_close(embedding, expected, atol=1e-5, rtol=1e-5)


def test_a_token_left_out_is_not_pooled_as_padding():
    model = ScGPTModel(tiny_config(pooling="avg-pool", pooling_includes_padding=True)).eval()
    with pytest.raises(ConfigurationError, match="pooling_includes_padding"):
        model.embed_without_one(model.share_first_layer(**tiny_batch()), torch.tensor([0]), torch.tensor([1]))


def test_what_a_hook_sees_of_the_feed_forward_part_stays_as_it_is():
    model, seen = ScGPTModel(tiny_config()), []
    model.layers[0].linear1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.layers[0].linear1.register_full_backward_hook(lambda *_: None)
    model(**tiny_batch()).cell_embedding.sum().backward()
    assert (seen[0] < 0).any()
