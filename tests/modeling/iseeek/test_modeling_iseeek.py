import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification, BertModel

from sclm_hf import (
    ISEEEKConfig,
    ISEEEKForMaskedLM,
    ISEEEKForSequenceClassification,
    ISEEEKForTokenClassification,
    ISEEEKModel,
)
from sclm_hf.errors import ConfigurationError

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester


def tiny_config(**changes) -> ISEEEKConfig:
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
    return ISEEEKConfig(**settings | changes)


def tiny_batch(genes: int = GENES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCAB, (BATCH, genes), generator=generator)
    mask = torch.ones(BATCH, genes, dtype=torch.long)
    mask[1, -2:] = mask[5, -1:] = 0
    ids[:, 0] = 2
    ids[torch.arange(BATCH), mask.sum(1) - 1] = 3
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


class TestISEEEK(InputTester, ModelTester):
    family = "iseeek"
    base_class = ISEEEKModel
    head_classes = (ISEEEKForMaskedLM, ISEEEKForSequenceClassification, ISEEEKForTokenClassification)
    permutation_equivariant = False
    keywords_read = frozenset({"position_ids", "token_type_ids"})

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if not labels:
            return batch
        if model_class is ISEEEKForSequenceClassification:
            batch["labels"] = torch.arange(BATCH) % 5
        else:
            classes = VOCAB if model_class is ISEEEKForMaskedLM else 5
            is_target = batch["attention_mask"].bool() & (torch.arange(GENES) % 3 == 1)
            batch["labels"] = torch.where(is_target, batch["input_ids"] % classes, -100)
        return batch

    def without_dropout(self):
        return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_cell_embedding_is_that_of_cls():
    output = ISEEEKModel(tiny_config()).eval()(**tiny_batch())
    assert torch.equal(output.cell_embedding, output.last_hidden_state[:, 0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 30}, "num_attention_heads"),
        ({"cell_embedding_size": 5}, "cell_embedding_size"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_configurations_that_contradict_themselves(changes, named):
    with pytest.raises(StrictDataclassError, match=named):
        tiny_config(**changes)


def test_cells_that_are_too_long_are_refused():
    with pytest.raises(ConfigurationError, match="18 tokens do not fit"):
        ISEEEKModel(tiny_config())(**tiny_batch(genes=18))


def test_inputs_of_bert_are_read_as_bert_reads_them():
    torch.manual_seed(0)
    model = ISEEEKModel(tiny_config()).eval()
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
    ours = ISEEEKForMaskedLM(tiny_config()).eval()
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
    again, info = ISEEEKModel.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not info["missing_keys"]
    assert isinstance(again.config, ISEEEKConfig)
    assert_close(again.eval()(**batch).cell_embedding, expected[:, 0], atol=1e-5, rtol=1e-5)


def test_gene_classifiers_are_those_of_the_stock_class(tmp_path):
    """Classifiers of cells are not: the stock ones pool otherwise."""
    torch.manual_seed(0)
    ours = ISEEEKForTokenClassification(tiny_config()).eval()
    ours.save_pretrained(tmp_path)
    stock, info = BertForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = tiny_batch()
    real = batch["attention_mask"].bool()
    logits = stock.eval()(**batch).logits
    assert_close(logits[real], ours(**batch).logits[real], atol=1e-5, rtol=1e-5)
