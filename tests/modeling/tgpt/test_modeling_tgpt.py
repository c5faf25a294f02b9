import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.testing import assert_close
from transformers import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model, StaticCache

from sclm_hf import TGPTConfig, TGPTForCausalLM, TGPTForSequenceClassification, TGPTForTokenClassification, TGPTModel
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.modeling.tgpt.modeling_tgpt import mean_over_genes

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester


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


class TestTGPT(InputTester, ModelTester):
    family = "tgpt"
    base_class = TGPTModel
    head_classes = (TGPTForCausalLM, TGPTForSequenceClassification, TGPTForTokenClassification)
    permutation_equivariant = False
    keywords_read = frozenset({"position_ids", "past_key_values", "token_type_ids"})

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
    embeddings = ours.transformer(**batch).cell_embedding
    assert_close(again.eval()(**batch).cell_embedding, embeddings, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("name", ["n_embd", "hidden_size"])
def test_sizes_are_taken_by_either_name(name):
    config = TGPTConfig(**{name: 64}, num_attention_heads=4, num_hidden_layers=2)
    assert (config.n_embd, config.hidden_size, config.cell_embedding_size) == (64, 64, 64)
    assert (config.n_head, config.n_layer) == (4, 2)


def language_model(**changes) -> TGPTForCausalLM:
    torch.manual_seed(0)
    return TGPTForCausalLM(tiny_config(**changes)).eval()


def stock(model: TGPTForCausalLM) -> GPT2LMHeadModel:
    """transformers' own class with the same weights."""
    settings = {name: getattr(model.config, name) for name in GPT2Config.__dataclass_fields__}
    twin = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("use_cache", [False, True])
def test_prompts_of_any_length_are_read_as_gpt2_reads_them(tokens, use_cache):
    model, ids = language_model(embed_token_types=False), torch.tensor([[1, 7, 9]])[:, :tokens]
    found, expected = model(ids, use_cache=use_cache), stock(model)(ids, use_cache=use_cache)
    assert_close(found.logits, expected.logits)
    assert found.cell_embedding is None and (found.past_key_values is not None) == use_cache


def test_masks_of_each_position_and_packed_rows_are_read_as_gpt2_reads_them():
    model, ids = language_model(embed_token_types=False), tiny_batch()["input_ids"][:2]
    twin = stock(model)
    mask = torch.ones(GENES, GENES).tril().log().expand(2, 1, -1, -1)
    assert_close(model(ids, mask).logits, twin(ids, attention_mask=mask).logits)
    packed, positions = ids.reshape(1, -1), torch.arange(GENES).repeat(2)[None]
    logits = model(packed, position_ids=positions).logits
    assert_close(logits, twin(packed, position_ids=positions, use_cache=False).logits)
    assert_close(logits.reshape(2, GENES, -1), model(ids).logits, atol=1e-5, rtol=1e-5)
    # more tokens than positions, none of them beyond the last
    longer = torch.cat([packed, packed], dim=1)
    assert model(longer, position_ids=positions.repeat(1, 2)).logits.shape[1] == 4 * GENES


def test_positions_that_the_model_has_not_are_refused():
    ids = torch.tensor([[1, 7, 9]])
    with pytest.raises(ConfigurationError, match=r"0 to 16, .* reach from 15 to 17"):
        language_model()(ids, position_ids=torch.tensor([[15, 16, 17]]))
    cache = language_model()(ids.repeat(1, 5), use_cache=True).past_key_values
    with pytest.raises(ConfigurationError, match="18 tokens do not fit"):
        language_model()(ids, past_key_values=cache)


def test_shifted_labels_are_what_labels_are_shifted_to():
    model, batch = language_model(), TestTGPT().inputs(TGPTForCausalLM, labels=True)
    labels = batch.pop("labels")
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = model(**batch, labels=labels).loss
    assert_close(model(**batch, shift_labels=shifted).loss, expected)
    assert_close(model(**batch, labels=labels.fill_(-100), shift_labels=shifted).loss, expected)
    with pytest.raises(ConfigurationError, match=r"`labels` must be \(13, 7\)"):
        model(**batch, labels=labels[:, 1:])


def test_a_cell_embedding_is_made_of_whole_cells_alone():
    model, batch = TGPTModel(tiny_config()).eval(), tiny_batch()
    ids = batch["input_ids"]
    several = torch.tensor([[0, 1, 2, 3, 0, 1, 2]]).expand(BATCH, -1)
    for inputs in ({"use_cache": True}, {"attention_mask": torch.ones(BATCH, 1, GENES, GENES)}):
        assert model(ids, **inputs).cell_embedding is None
    assert model(ids, position_ids=several).cell_embedding is None
    assert model(ids, position_ids=torch.arange(GENES).expand(BATCH, -1)).cell_embedding is not None
    assert model(ids[:, :1], pool_cells=False).cell_embedding is None
    with pytest.raises(ConfigurationError, match="mean over the genes of a whole cell: `position_ids`"):
        model(ids, position_ids=several, pool_cells=True)


def test_a_classifier_of_cells_refuses_what_is_no_whole_cell():
    model, batch = TGPTForSequenceClassification(tiny_config()).eval(), tiny_batch()
    cache = TGPTModel(tiny_config())(batch["input_ids"][:, :2], use_cache=True).past_key_values
    with pytest.raises(ConfigurationError, match="leave `past_key_values`"):
        model(batch["input_ids"], past_key_values=cache)


@pytest.mark.slow
def test_decoding_with_a_static_cache_compiles_without_graph_breaks():
    torch.compiler.reset()
    model, ids = language_model(), torch.tensor([[1, 7, 9], [1, 20, 4]])
    caches = [StaticCache(config=model.config, max_cache_len=9) for _ in range(2)]
    for cache in caches:
        model(ids, past_key_values=cache, use_cache=True)
    step = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[3], [3]]), "use_cache": True}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(**step, past_key_values=caches[0]).logits
    assert_close(found, model(**step, past_key_values=caches[1]).logits)
    assert_close(found[:, 0], model(torch.cat([ids, step["input_ids"]], dim=1)).logits[:, -1], atol=1e-5, rtol=1e-5)


def test_generation_with_and_without_cache_agrees():
    model = language_model()
    start = torch.tensor([[1, 7, 9], [1, 20, 4]])
    how = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(start, attention_mask=torch.ones_like(start), use_cache=True, **how)
    without = model.generate(start, attention_mask=torch.ones_like(start), use_cache=False, **how)
    assert with_cache.shape == (2, 12)
    assert torch.equal(with_cache, without)
    static = model.generate(start, attention_mask=torch.ones_like(start), cache_implementation="static", **how)
    assert torch.equal(with_cache, static)
    from_nothing = model.generate(start[:, :1], attention_mask=torch.ones(2, 1), **how)
    assert from_nothing.shape == (2, 10)
    logits = model(with_cache, use_cache=True).logits
    assert torch.equal(logits[:, 2:-1].argmax(-1), with_cache[:, 3:])
    assert_close(model(with_cache, logits_to_keep=2).logits, logits[:, -2:], atol=1e-6, rtol=1e-6)
