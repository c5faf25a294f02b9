import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, BertModel

from sclm_hf import (
    GeneformerConfig,
    GeneformerForMaskedLM,
    GeneformerForMultiTaskClassification,
    GeneformerForSequenceClassification,
    GeneformerForTokenClassification,
    GeneformerModel,
)
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.geneformer.modeling_geneformer import mean_over_genes

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester


def tiny_config(**changes) -> GeneformerConfig:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 17,
        "initializer_range": 0.2,
        "num_labels": 5,
    }
    return GeneformerConfig(**settings | changes)


def tiny_batch(genes: int = GENES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (BATCH, genes), generator=generator)
    mask = torch.ones(BATCH, genes, dtype=torch.long)
    mask[1, -2:] = mask[5, -1:] = 0
    ids[:, 0] = 2
    ids[torch.arange(BATCH), mask.sum(1) - 1] = 3
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


class TestGeneformer(InputTester, ModelTester):
    family = "geneformer"
    base_class = GeneformerModel
    head_classes = (GeneformerForMaskedLM, GeneformerForSequenceClassification, GeneformerForTokenClassification)
    permutation_equivariant = False
    keywords_read = frozenset({"position_ids", "token_type_ids"})

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if not labels:
            return batch
        if model_class is GeneformerForSequenceClassification:
            batch["labels"] = torch.arange(BATCH) % 5
        else:
            classes = VOCAB if model_class is GeneformerForMaskedLM else 5
            is_target = batch["attention_mask"].bool() & (torch.arange(GENES) % 3 == 1)
            batch["labels"] = torch.where(is_target, batch["input_ids"] % classes, -100)
        return batch

    def without_dropout(self):
        return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize("special", [True, False])
def test_mean_of_a_cell_does_not_depend_on_padding(special):
    torch.manual_seed(0)
    model = GeneformerModel(tiny_config(pooling="mean", has_special_tokens=special)).eval()
    batch = tiny_batch()
    padded = {name: torch.nn.functional.pad(tensor, (0, 4)) for name, tensor in batch.items()}
    assert_close(model(**batch).cell_embedding, model(**padded).cell_embedding, atol=1e-5, rtol=1e-5)
    alone = model(batch["input_ids"][1:2, :-2]).cell_embedding
    assert_close(model(**batch).cell_embedding[1:2], alone, atol=1e-5, rtol=1e-5)


def test_defaults_follow_the_dictionary():
    assert (GeneformerConfig().has_special_tokens, GeneformerConfig().pooling) == (True, "cls")
    first = GeneformerConfig(vocab_size=25426)
    assert (first.has_special_tokens, first.pooling) == (False, "mean")
    assert GeneformerConfig(has_special_tokens=True, pooling="mean").pooling == "mean"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 30}, "num_attention_heads"),
        ({"cell_embedding_layer": 3}, "cell_embedding_layer"),
        ({"cell_embedding_size": 5}, "cell_embedding_size"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_labels_per_task": [2, 3], "task_weights": [1.0]}, "task_weights"),
    ],
)
def test_configurations_that_contradict_themselves(changes, named):
    with pytest.raises(StrictDataclassError, match=named):
        tiny_config(**changes)


@pytest.mark.parametrize("layer", [-3, -2, -1, 0, 1, 2])
def test_layer_that_is_pooled(layer):
    model = GeneformerModel(tiny_config(cell_embedding_layer=layer)).eval()
    output = model(**tiny_batch(), output_hidden_states=True)
    assert torch.equal(output.cell_embedding, output.hidden_states[layer][:, 0])


def test_mean_over_genes_leaves_out_special_tokens_and_padding():
    states = torch.arange(10.0).reshape(1, 5, 2)
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    assert mean_over_genes(states, mask, True).tolist() == [[3.0, 4.0]]
    assert mean_over_genes(states, mask, False).tolist() == [[3.0, 4.0]]
    assert mean_over_genes(states, mask[:, [0, 1, 2, 4, 4]], True).tolist() == [[2.0, 3.0]]
    assert mean_over_genes(states, torch.tensor([[1, 1, 0, 0, 0]]), True).tolist() == [[0.0, 0.0]]


def test_cells_that_are_too_long_are_refused():
    with pytest.raises(ConfigurationError, match="18 tokens do not fit"):
        GeneformerModel(tiny_config())(**tiny_batch(genes=18))


def test_inputs_of_bert_are_read_as_bert_reads_them():
    torch.manual_seed(0)
    model = GeneformerModel(tiny_config()).eval()
    settings = {name: getattr(model.config, name) for name in BertConfig.__dataclass_fields__}
    stock = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
    stock.load_state_dict(model.state_dict())
    ids = tiny_batch()["input_ids"]
    mask = torch.ones(BATCH, 1, GENES, GENES).tril().bool()
    batch = {"attention_mask": mask, "token_type_ids": ids % 2, "position_ids": torch.arange(GENES).flip(0)[None]}
    expected = stock(ids, **batch).last_hidden_state
    assert_close(model(ids, **batch).last_hidden_state, expected)
    embeddings = model.get_input_embeddings()(ids)
    assert_close(model(inputs_embeds=embeddings, **batch).last_hidden_state, expected)
    with pytest.raises(ConfigurationError, match="`position_ids` must be 0 to 16"):
        model(ids, position_ids=torch.arange(GENES)[None] + 17)
    with pytest.raises(ConfigurationError, match=f"`position_ids` must be .* {GENES} genes"):
        model(ids, position_ids=torch.arange(GENES - 1)[None])


def test_stock_classes_read_our_folders_and_ours_read_theirs(tmp_path):
    torch.manual_seed(0)
    ours = GeneformerForMaskedLM(tiny_config()).eval()
    ours.save_pretrained(tmp_path / "ours")
    stock, info = BertForMaskedLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = tiny_batch()
    real = batch["attention_mask"].bool()
    assert_close(stock.eval()(**batch).logits[real], ours(**batch).logits[real], atol=1e-5, rtol=1e-5)
    encoder = BertModel.from_pretrained(tmp_path / "ours").eval()
    expected = ours.bert(**batch).last_hidden_state
    assert_close(encoder(**batch).last_hidden_state[real], expected[real], atol=1e-5, rtol=1e-5)

    stock.config = BertConfig(**{name: getattr(ours.config, name) for name in BertConfig.__dataclass_fields__})
    stock.save_pretrained(tmp_path / "stock")
    again, info = GeneformerModel.from_pretrained(
        tmp_path / "stock", output_loading_info=True, has_special_tokens=False
    )
    assert not info["missing_keys"]
    assert (again.config.has_special_tokens, again.config.pooling) == (False, "mean")
    assert_close(again.eval()(**batch).last_hidden_state[real], expected[real], atol=1e-5, rtol=1e-5)


def multi_task(**changes):
    torch.manual_seed(0)
    return GeneformerForMultiTaskClassification(
        tiny_config(num_labels_per_task=[3, 2], multitask_pooling="attention", **changes)
    ).eval()


def test_multi_task_losses_and_weights(tmp_path):
    batch = tiny_batch()
    labels = torch.stack([torch.arange(BATCH) % 3, torch.arange(BATCH) % 2], dim=1)
    model = multi_task(task_weights=[1.0, 0.25])
    output = model(**batch, labels=labels)
    assert [tuple(logits.shape) for logits in output.logits] == [(BATCH, 3), (BATCH, 2)]
    assert_close(output.loss, output.losses[0] + 0.25 * output.losses[1])
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 4), slice(4, None))]
    # in one batch, all share the padding of the longest
    model.config.attention_pooling_includes_padding = False
    whole = model(**batch, labels=labels).loss
    summed = sum(
        model(**part, labels=part_labels, num_items_in_batch=labels.numel()).loss
        for part, part_labels in zip(parts, (labels[:4], labels[4:]), strict=True)
    )
    assert_close(whole, summed, atol=1e-6, rtol=1e-5)
    labels[2:, 1] = -100
    assert torch.isfinite(model(**batch, labels=labels).loss)

    model.save_pretrained(tmp_path)
    reloaded = GeneformerForMultiTaskClassification.from_pretrained(tmp_path).eval()
    assert_close(reloaded(**batch).logits, model(**batch).logits)
    assert GeneformerModel.from_pretrained(tmp_path).embeddings is not None


def test_multi_task_gradients_reach_every_parameter():
    model = multi_task().train()
    labels = torch.stack([torch.arange(BATCH) % 3, torch.arange(BATCH) % 2], dim=1)
    model(**tiny_batch(), labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_multi_task_labels_that_are_no_classes_are_refused():
    labels = torch.zeros(BATCH, 2, dtype=torch.long)
    labels[3, 1] = 2
    with pytest.raises(ConfigurationError, match=r"`labels\[:, 1\]` must be class numbers, 0 to 1"):
        multi_task()(**tiny_batch(), labels=labels)


def test_attention_pooling_depends_on_padding_only_where_the_original_does():
    batch = tiny_batch()
    padded = {name: torch.nn.functional.pad(tensor, (0, 4)) for name, tensor in batch.items()}
    model = multi_task()
    difference = (model(**batch).logits[0] - model(**padded).logits[0]).abs().max()
    assert difference > 1e-3
    model.config.attention_pooling_includes_padding = False
    assert_close(model(**batch).logits, model(**padded).logits, atol=1e-5, rtol=1e-5)
    alone = {name: tensor[:1] for name, tensor in batch.items()}
    independent = model(**alone).logits
    model.config.attention_pooling_includes_padding = True
    assert_close(model(**alone).logits, independent, atol=1e-5, rtol=1e-5)


def test_attention_pooling_starts_initialised(tmp_path):
    GeneformerForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    settings = {"num_labels_per_task": [2], "multitask_pooling": "attention"}
    model = GeneformerForMultiTaskClassification.from_pretrained(tmp_path, **settings)
    assert 0.1 < model.attention_pool.attention_weights.std() < 0.4


def test_multi_task_labels_are_one_for_each_task():
    with pytest.raises(ConfigurationError, match=r"\(13, 2\), cells by tasks; got \(13,\)"):
        multi_task()(**tiny_batch(), labels=torch.zeros(BATCH, dtype=torch.long))


def test_multi_task_classification_is_evaluated_by_the_stock_trainer(tmp_path):
    tester = TestGeneformer()
    labels = torch.stack([torch.arange(BATCH) % 3, torch.arange(BATCH) % 2], dim=1)
    trainer = tester.stock_trainer(multi_task(), tester.rows(tiny_batch() | {"labels": labels}), tmp_path)
    trainer.compute_metrics = None
    assert 0 < trainer.evaluate()["eval_loss"] < 20
    found = trainer.predict(trainer.eval_dataset)
    assert [part.shape for part in found.predictions] == [(BATCH, 3), (BATCH, 2)]
    assert found.label_ids.tolist() == labels.tolist()


def test_a_mean_over_genes_refuses_a_mask_of_each_position():
    model = GeneformerModel(tiny_config(pooling="mean"))
    with pytest.raises(ConfigurationError, match=r"needs an `attention_mask` \(batch, genes\)"):
        model(tiny_batch()["input_ids"], torch.ones(BATCH, 1, GENES, GENES))


def test_multi_task_needs_tasks():
    with pytest.raises(ConfigurationError, match="num_labels_per_task"):
        GeneformerForMultiTaskClassification(tiny_config())
