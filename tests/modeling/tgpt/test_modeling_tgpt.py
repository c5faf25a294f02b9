import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.testing import assert_close
from transformers import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model

from sclm_hf import TGPTConfig, TGPTForCausalLM, TGPTForSequenceClassification, TGPTForTokenClassification, TGPTModel
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.modeling.tgpt.modeling_tgpt import mean_over_genes

from ..common import BATCH, GENES, VOCAB, ModelTester


def tiny_config(**changes) -> TGPTConfig:
    settings = {
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 37,
        "n_positions": 17,
        "initializer_range": 0.2,
        "num_labels": 5,
    }
    return TGPTConfig(**settings | changes)


def tiny_batch(genes: int = GENES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (BATCH, genes), generator=generator)
    mask = torch.ones(BATCH, genes, dtype=torch.long)
    mask[1, -2:] = mask[5, -1:] = 0
    ids[:, 0] = 1
    ids[torch.arange(BATCH), mask.sum(1) - 1] = 2
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


class TestTGPT(ModelTester):
    family = "tgpt"
    base_class = TGPTModel
    head_classes = (TGPTForCausalLM, TGPTForSequenceClassification, TGPTForTokenClassification)
    permutation_equivariant = False

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if not labels:
            return batch
        if model_class is TGPTForSequenceClassification:
            batch["labels"] = torch.arange(BATCH) % 5
        elif model_class is TGPTForTokenClassification:
            batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 5, -100)
        else:
            batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
            # never predicted, so it must not be counted
            batch["labels"][:, 0] = -100
        return batch

    def without_dropout(self):
        return dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop", "classifier_dropout"), 0.0)

    def lora_settings(self, head_class):
        # GPT-2 keeps its matrices transposed; peft finds out by itself, with a warning
        return {"fan_in_fan_out": True}


def test_defaults_are_the_released_model():
    config = TGPTConfig()
    assert (config.vocab_size, config.n_embd, config.n_layer, config.n_head) == (21150, 1024, 8, 16)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    with torch.device("meta"):
        model = TGPTForCausalLM(config)
    assert model.num_parameters() == 123_478_016


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_embd": 30}, "n_head"),
        ({"cell_embedding_size": 5}, "cell_embedding_size"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_configurations_that_contradict_themselves(changes, named):
    with pytest.raises(StrictDataclassError, match=named):
        tiny_config(**changes)


def test_mean_over_genes_leaves_out_special_tokens_and_padding():
    states = torch.arange(10.0).reshape(1, 5, 2)
    assert mean_over_genes(states, torch.tensor([[1, 1, 1, 1, 0]])).tolist() == [[3.0, 4.0]]
    assert mean_over_genes(states, torch.tensor([[1, 1, 1, 0, 0]])).tolist() == [[2.0, 3.0]]
    assert mean_over_genes(states, torch.tensor([[0, 0, 1, 1, 1]])).tolist() == [[6.0, 7.0]]


def test_cells_without_genes_are_refused():
    batch = tiny_batch()
    batch["attention_mask"][[2, 4], 2:] = 0
    with pytest.raises(ExpressionError, match=r"without genes.*\[2, 4\]"):
        TGPTModel(tiny_config())(**batch)


def test_cells_that_are_too_long_are_refused():
    with pytest.raises(ConfigurationError, match="18 tokens do not fit"):
        TGPTModel(tiny_config())(**tiny_batch(genes=18))


def test_token_types_left_out_are_zeros_and_can_be_ignored():
    torch.manual_seed(0)
    model = TGPTModel(tiny_config()).eval()
    with torch.no_grad():
        model.wte.weight[0] = torch.randn(32)
    batch = tiny_batch()
    zeros = torch.zeros_like(batch["input_ids"])
    with_them = model(**batch).last_hidden_state
    assert torch.equal(with_them, model(**batch, token_type_ids=zeros).last_hidden_state)
    assert not torch.allclose(with_them, model(**batch, token_type_ids=zeros + 5).last_hidden_state)
    model.config.embed_token_types = False
    without = model(**batch).last_hidden_state
    assert torch.equal(without, model(**batch, token_type_ids=zeros).last_hidden_state)
    assert (with_them - without).abs().max() > 0.1


def test_stock_classes_read_our_folders_and_ours_read_theirs(tmp_path):
    torch.manual_seed(0)
    ours = TGPTForCausalLM(tiny_config()).eval()
    ours.save_pretrained(tmp_path / "ours")
    stock, info = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = tiny_batch()
    types = torch.zeros_like(batch["input_ids"])
    real = batch["attention_mask"].bool()
    expected = ours(**batch)
    assert_close(stock.eval()(**batch, token_type_ids=types).logits[real], expected.logits[real], atol=1e-5, rtol=1e-5)
    decoder = GPT2Model.from_pretrained(tmp_path / "ours").eval()
    states = ours.transformer(**batch).last_hidden_state[real]
    assert_close(decoder(**batch, token_type_ids=types).last_hidden_state[real], states, atol=1e-5, rtol=1e-5)

    stock.config = GPT2Config(**{name: getattr(ours.config, name) for name in GPT2Config.__dataclass_fields__})
    stock.save_pretrained(tmp_path / "stock")
    again, info = TGPTModel.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not info["missing_keys"]
    assert isinstance(again.config, TGPTConfig)
    assert_close(again.eval()(**batch).cell_embedding, expected.cell_embedding, atol=1e-5, rtol=1e-5)


def test_gene_classifiers_are_those_of_the_stock_class(tmp_path):
    """Classifiers of cells are not: the stock ones pool otherwise."""
    torch.manual_seed(0)
    ours = TGPTForTokenClassification(tiny_config()).eval()
    ours.save_pretrained(tmp_path)
    stock, info = GPT2ForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = tiny_batch()
    real = batch["attention_mask"].bool()
    logits = stock.eval()(**batch, token_type_ids=torch.zeros_like(batch["input_ids"])).logits
    assert_close(logits[real], ours(**batch).logits[real], atol=1e-5, rtol=1e-5)


def test_generation_with_and_without_cache_agrees():
    torch.manual_seed(0)
    model = TGPTForCausalLM(tiny_config()).eval()
    start = torch.tensor([[1, 7, 9], [1, 20, 4]])
    how = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(start, attention_mask=torch.ones_like(start), use_cache=True, **how)
    without = model.generate(start, attention_mask=torch.ones_like(start), use_cache=False, **how)
    assert with_cache.shape == (2, 12)
    assert torch.equal(with_cache, without)
    from_nothing = model.generate(start[:, :1], attention_mask=torch.ones(2, 1), **how)
    assert from_nothing.shape == (2, 10)
    logits = model(with_cache, use_cache=True).logits
    assert torch.equal(logits[:, 2:-1].argmax(-1), with_cache[:, 3:])
    assert_close(model(with_cache, logits_to_keep=2).logits, logits[:, -2:], atol=1e-6, rtol=1e-6)
