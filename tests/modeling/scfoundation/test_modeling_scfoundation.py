import pytest
import torch
from torch.testing import assert_close

from sclm_hf import (
    ScFoundationConfig,
    ScFoundationForMaskedExpression,
    ScFoundationForSequenceClassification,
    ScFoundationModel,
)
from sclm_hf.errors import ConfigurationError

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester

NUM_GENES = VOCAB - 3
TARGET, SOURCE, PAD = NUM_GENES, NUM_GENES + 1, NUM_GENES + 2


def tiny_config(**changes) -> ScFoundationConfig:
    settings = {
        "vocab_size": VOCAB,
        "num_genes": NUM_GENES,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "num_bins": 11,
        "decoder_hidden_size": 24,
        "num_decoder_layers": 2,
        "num_decoder_attention_heads": 2,
        "decoder_head_dim": 16,
        "decoder_intermediate_size": 41,
        "key_maximum": "sequence",
        "pooling_includes_padding": False,
        "classifier_hidden_size": 19,
        "classifier_pad_position_id": 3,
        "num_labels": 5,
    }
    return ScFoundationConfig(**settings | changes)


def tiny_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(NUM_GENES, generator=generator)[:GENES] for _ in range(BATCH)])
    values = 5 * torch.rand(BATCH, GENES, generator=generator) + 0.1
    mask = torch.ones(BATCH, GENES, dtype=torch.long)
    mask[1, -2:] = mask[5, -1:] = 0
    ids[:, 0], ids[:, 1], values[:, 0], values[:, 1] = TARGET, SOURCE, 4.0, 3.5
    ids[mask == 0], values[mask == 0] = PAD, 103.0
    return {"input_ids": ids, "expression_values": values, "attention_mask": mask}


class TestScFoundation(InputTester, ModelTester):
    family = "scfoundation"
    needs_values = True
    base_class = ScFoundationModel
    head_classes = (ScFoundationForMaskedExpression, ScFoundationForSequenceClassification)

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if not labels:
            return batch
        if model_class is ScFoundationForSequenceClassification:
            return batch | {"labels": torch.arange(BATCH) % 5}
        masked = torch.arange(BATCH * NUM_GENES).reshape(BATCH, NUM_GENES) % 7 == 2
        hidden = torch.zeros(BATCH, NUM_GENES + 2).masked_fill(torch.nn.functional.pad(masked, (0, 2)), 102.0)
        targets = torch.where(masked, torch.arange(NUM_GENES) % 5 + 0.5, -100.0)
        return batch | {"decoder_expression_values": hidden, "labels": targets}

    def parameters_without_gradient(self, head_class):
        # padding is seen by nobody, and only the decoder reads masked values
        names = {"model.embeddings.values.pad.weight"}
        return names | ({"model.embeddings.values.mask.weight"} if head_class is self.head_classes[1] else set())

    def beside_embeddings(self, ids):
        return {"input_ids": ids}  # they tell `<T>` and `<S>` apart

    def lora_settings(self, head_class):
        # its running statistics are part of what is trained
        return {"modules_to_save": ["classifier"]} if head_class is self.head_classes[1] else {}

    def num_lora_layers(self, head_class):
        return 2 + (2 if head_class is ScFoundationForMaskedExpression else 0)

    def test_accumulation_equals_one_batch(self, head_class):
        if head_class is ScFoundationForSequenceClassification:
            pytest.skip("the published classifier normalises over the cells of a batch")
        super().test_accumulation_equals_one_batch(head_class)


def test_padded_positions_of_the_classifier_take_part_as_published():
    model = ScFoundationForSequenceClassification(tiny_config(pooling_includes_padding=True)).eval()
    batch = tiny_batch()
    model.model.embeddings.genes.weight.data[3] += 5
    as_published = model(**batch).cell_embedding
    model.config.classifier_pad_position_id = None
    elsewhere = model(**batch).cell_embedding
    padded = torch.tensor([1, 5])
    assert (as_published[padded] != elsewhere[padded]).any(dim=1).all()
    whole = torch.tensor([row for row in range(BATCH) if row not in (1, 5)])
    assert_close(as_published[whole], elsewhere[whole])
    model.config.pooling_includes_padding = False
    alone = [model(**{k: v[row : row + 1, : 7 - n] for k, v in batch.items()}) for row, n in ((1, 2), (5, 1))]
    assert_close(model(**batch).cell_embedding[padded], torch.cat([one.cell_embedding for one in alone]))


def test_classifier_does_not_see_depth_unless_asked():
    model = ScFoundationForSequenceClassification(tiny_config()).eval()
    batch = tiny_batch()
    without = {name: tensor[:, 2:] for name, tensor in batch.items()}
    assert_close(model(**batch).logits, model(**without).logits, atol=1e-6, rtol=1e-5)
    model.config.classifier_reads_depth = True
    assert not torch.allclose(model(**batch).logits, model(**without).logits)


def test_four_parts_of_the_cell_embedding():
    model = ScFoundationModel(tiny_config()).eval()
    batch = tiny_batch()
    output = model(**batch)
    row, length = 1, GENES - 2
    hidden = output.last_hidden_state[row, :length]
    expected = torch.cat([hidden[1], hidden[0], hidden[2:].max(0).values, hidden[2:].mean(0)])
    assert_close(output.cell_embedding[row], expected)


def test_added_genes_are_read_and_not_predicted():
    model = ScFoundationForMaskedExpression(tiny_config()).eval()
    model.resize_token_embeddings(VOCAB + 1)
    batch = tiny_batch()
    before = model(**batch)
    batch["input_ids"][0, -1] = VOCAB
    after = model(**batch)
    assert after.expression_prediction.shape == (BATCH, NUM_GENES)
    assert not torch.allclose(before.cell_embedding[0], after.cell_embedding[0])


def test_gene_table_without_its_panel_is_refused():
    model = ScFoundationForMaskedExpression(tiny_config())
    with pytest.raises(ConfigurationError, match=f"can have {VOCAB} rows or more, not 66"):
        model.resize_token_embeddings(66)
    assert model.resize_token_embeddings().num_embeddings == VOCAB


def test_decoder_values_of_another_width_are_refused():
    model = ScFoundationForMaskedExpression(tiny_config())
    with pytest.raises(ConfigurationError, match=rf"\(batch, {NUM_GENES + 2}\)"):
        model(**tiny_batch(), decoder_expression_values=torch.zeros(BATCH, NUM_GENES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, "multiple of"),
        ({"target_token_id": 3}, "stand behind the genes"),
        ({"classifier_pad_position_id": VOCAB}, "classifier_pad_position_id"),
        ({"pad_token_id": VOCAB}, "pad_token_id"),
        ({"cell_embedding_size": 32}, "cell_embedding_size"),
        ({"num_random_features": 0}, "num_random_features"),
        ({"pooling": "mean"}, "pooling"),
        ({"vocab_size": 52, "pad_token_id": 5}, "vocab_size"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**settings)


def test_released_size():
    """119,252,285 parameters, as counted in the original."""
    with torch.device("meta"):
        model = ScFoundationForMaskedExpression(ScFoundationConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 119_252_285
    assert model.decoder.layers[0].self_attn.features.projection.shape == (266, 64)


def test_initial_weights_are_the_published_ones():
    model = ScFoundationForMaskedExpression(tiny_config(hidden_size=64, num_bins=100))
    query = model.model.layers[0].self_attn.q_proj
    assert 0.9 * (6 / 256) ** 0.5 < query.weight.abs().max() <= (6 / 256) ** 0.5
    assert query.bias.abs().sum() == 0
    assert 0.9 < model.model.embeddings.genes.weight.std() < 1.1
    assert model.decoder.layers[0].self_attn.q_proj.bias.abs().sum() > 0
