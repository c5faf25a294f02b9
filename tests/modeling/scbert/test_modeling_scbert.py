import pytest
import torch
from torch.testing import assert_close

from sclm_hf import ScBERTConfig, ScBERTForMaskedExpression, ScBERTForSequenceClassification, ScBERTModel
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common import performer

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester

CLS, PAD = VOCAB - 2, VOCAB - 1


def tiny_config(**changes) -> ScBERTConfig:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "head_dim": 16,
        "intermediate_size": 37,
        "pad_token_id": PAD,
        "cls_token_id": CLS,
        "num_labels": 5,
        # padding and batch-mates change nothing then; the default is tested with the recorded numbers
        "key_maximum": "sequence",
    }
    return ScBERTConfig(**settings | changes)


def tiny_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(VOCAB - 2, generator=generator)[:GENES] for _ in range(BATCH)])
    values = torch.randint(0, 6, (BATCH, GENES), generator=generator)
    mask = torch.ones(BATCH, GENES, dtype=torch.long)
    ids[:, 0], values[:, 0] = CLS, 0
    mask[1, -2:] = mask[5, -1:] = 0
    ids[mask == 0], values[mask == 0] = PAD, 6
    return {"input_ids": ids, "expression_values": values, "attention_mask": mask}


class TestScBERT(InputTester, ModelTester):
    family = "scbert"
    needs_values = True
    base_class = ScBERTModel
    head_classes = (ScBERTForMaskedExpression, ScBERTForSequenceClassification)

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if not labels:
            return batch
        if model_class is ScBERTForSequenceClassification:
            batch["labels"] = torch.arange(BATCH) % 5
            return batch
        is_target = (batch["expression_values"] > 0) & (torch.arange(GENES) % 3 == 1) & batch["attention_mask"].bool()
        batch["labels"] = batch["expression_values"].masked_fill(~is_target, -100)
        batch["expression_values"] = batch["expression_values"].masked_fill(is_target, 6)
        return batch

    def no_batches(self, batch):
        # without ids, genes are the first ones of the table
        return ((changes, told) for changes, told in super().no_batches(batch) if told != "`input_ids`")

    def parameters_without_gradient(self, head_class):
        return {"model.embeddings.genes.weight"}  # frozen, as published


@pytest.mark.parametrize("learn", [True, False])
def test_gene_table_is_frozen_unless_told_otherwise(learn, tmp_path):
    model = ScBERTForMaskedExpression(tiny_config(freeze_gene_embeddings=not learn))
    model.save_pretrained(tmp_path)
    for one in (model, ScBERTForMaskedExpression.from_pretrained(tmp_path)):
        assert one.get_input_embeddings().weight.requires_grad is learn
        one(**tiny_batch(), labels=torch.ones(BATCH, GENES)).loss.backward()
        gradient = one.get_input_embeddings().weight.grad
        assert bool(gradient is not None and gradient.abs().sum() > 0) is learn


def test_new_gene_table_tells_genes_apart_unless_it_is_frozen():
    assert ScBERTModel(tiny_config()).get_input_embeddings().weight.abs().max() == 0
    learned = ScBERTModel(tiny_config(freeze_gene_embeddings=False)).get_input_embeddings().weight
    assert 0.9 < learned.std() < 1.1


def test_batch_mates_matter_as_published_unless_told_otherwise():
    batch = tiny_batch()
    alone = {name: tensor[:1] for name, tensor in batch.items()}
    model = ScBERTModel(tiny_config(key_maximum="batch")).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.k_proj.weight *= 3
        assert (model(**batch).cell_embedding[0] - model(**alone).cell_embedding[0]).abs().max() > 1e-4
        model.config.key_maximum = "sequence"
        independent = model(**batch).cell_embedding[0]
        assert_close(independent, model(**alone).cell_embedding[0], atol=1e-5, rtol=1e-5)
        model.config.key_maximum = "batch"
        assert_close(independent, model(**alone).cell_embedding[0], atol=1e-5, rtol=1e-5)


def test_classifier_finds_genes_by_their_ids():
    model = ScBERTForSequenceClassification(tiny_config()).eval()
    values = torch.randint(0, 6, (3, VOCAB - 1))
    ordered = model(expression_values=values).logits
    order = torch.randperm(VOCAB - 1)
    shuffled = model(input_ids=order.expand(3, -1), expression_values=values[:, order]).logits
    assert_close(ordered, shuffled, atol=1e-5, rtol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    model = ScBERTForMaskedExpression(tiny_config()).eval()
    expected = model(**tiny_batch()).logits
    monkeypatch.setattr(performer, "default_chunk_size", lambda *_: 3)
    monkeypatch.setattr(performer, "FEED_FORWARD_TOKENS", 2)
    real = tiny_batch()["attention_mask"].bool()
    assert_close(model(**tiny_batch()).logits[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("wrong", "told"), [(2.5, "not whole"), (-1, "from -1 to"), (7, "to 7")])
def test_values_that_are_no_bins_are_refused(wrong, told):
    model, batch = ScBERTModel(tiny_config()), tiny_batch()
    batch["expression_values"] = batch["expression_values"].float()
    model(**batch)
    batch["expression_values"][0, 2] = wrong
    with pytest.raises(ConfigurationError, match=f"bins, whole numbers from 0 to 6.*{told}"):
        model(**batch)


def test_cells_without_cls_are_not_pooled_at_cls():
    model, batch = ScBERTModel(tiny_config(pooling="cls")), tiny_batch()
    assert torch.isfinite(model(**batch).cell_embedding).all()
    batch["input_ids"][2, 0] = 1
    with pytest.raises(ConfigurationError, match="every cell needs `<cls>`"):
        model(**batch)


def test_published_fine_tuning_needs_two_layers():
    with pytest.raises(ConfigurationError, match="last layer but one"):
        ScBERTForSequenceClassification(tiny_config(num_hidden_layers=1)).freeze_as_published()


def test_gene_attention_leaves_padding_out():
    model = ScBERTModel(tiny_config()).eval()
    batch = tiny_batch()
    shares = model.gene_attention(**batch)
    assert_close(shares.sum(1), torch.ones(BATCH))
    assert (shares[batch["attention_mask"] == 0] == 0).all()
    alone = {name: tensor[1:2, :-2] for name, tensor in batch.items()}
    assert_close(shares[1:2, :-2], model.gene_attention(**alone), atol=1e-6, rtol=1e-5)


def test_cell_embedding_from_cls():
    model = ScBERTModel(tiny_config(pooling="cls")).eval()
    output = model(**tiny_batch())
    assert_close(output.cell_embedding, output.last_hidden_state[:, 0])


def test_features_are_drawn_anew_in_training_only():
    model = ScBERTModel(tiny_config(redraw_interval=1))
    first = model.layers[0].self_attn.features.projection.clone()
    model.eval()(**tiny_batch())
    model.train()(**tiny_batch())
    assert model.redraw.calls == 1
    assert torch.equal(first, model.layers[0].self_attn.features.projection)
    model(**tiny_batch())
    assert model.redraw.calls == 0
    assert not torch.equal(first, model.layers[0].self_attn.features.projection)


def test_published_fine_tuning_trains_the_last_layer_but_one():
    model = ScBERTForSequenceClassification(tiny_config(num_hidden_layers=3))
    model.freeze_as_published()
    trained = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert {name for name in trained if name.startswith("model")} == {"model.layers", "model.norm"}
    assert all(p.requires_grad for p in model.model.layers[1].parameters())
    assert not any(p.requires_grad for p in model.model.layers[2].parameters())


def test_bad_input():
    model = ScBERTModel(tiny_config())
    with pytest.raises(ConfigurationError, match="expression_values"):
        model(input_ids=tiny_batch()["input_ids"])
    with pytest.raises(ConfigurationError, match=f"{VOCAB - 1} positions.*{VOCAB} values"):
        model(expression_values=torch.zeros(1, VOCAB, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell_embedding_size": 31}, "cell_embedding_size"),
        ({"mask_value": 7}, "mask_value"),
        ({"num_positions": VOCAB + 1}, "num_positions"),
        ({"num_random_features": 0}, "num_random_features"),
        ({"key_maximum": "row"}, "key_maximum"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**settings)
