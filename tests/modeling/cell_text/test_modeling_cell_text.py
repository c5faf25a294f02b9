"""Language models that read cells: no cell is ever taken for another, and nothing but the prompt decides."""

import copy

import peft
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from sclm_hf import CellTextConfig, CellTextForConditionalGeneration, CellTextModel
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.cell_text.modeling_cell_text import PROJECTORS
from sclm_hf.registry import FAMILIES

from .tiny import LANGUAGE_MODELS, small_cell_text_model, small_language_model, small_llama, some_cells

# family -> why it cannot be the encoder of a cell-text model
EXCEPTIONS = {"uce": "its protein table is a file of its own, never saved with other weights"}
# family -> why a resampler cannot read it
WITHOUT_GENES = {"linear": "vectors of genes come only with `output_hidden_states`: they fill the memory"}

PROMPTS = ("<cell> which type", "is this <cell> other <cell> cell type one two")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A model and its processor, of a scGPT and a Llama."""
    return small_cell_text_model(tmp_path_factory.mktemp("model"))


def batch_of(processor, prompts=PROMPTS, n_cells=3):
    return processor(list(prompts), **some_cells(processor, n_cells), return_tensors="pt")


def with_labels(batch, model):
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return dict(batch) | {"labels": labels.masked_fill(labels == model.config.cell_token_id, -100)}


def one_by_one(processor, batch_cells, prompts=PROMPTS):
    """The same prompts, each alone with its own cells."""
    start = 0
    for prompt in prompts:
        stop = start + prompt.count("<cell>")
        cells = batch_cells | {name: batch_cells[name][start:stop] for name in ("cells", "cell_ids")}
        yield processor(prompt, **cells, return_tensors="pt")
        start = stop


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in EXCEPTIONS])
def test_any_encoder_reads_and_a_prompt_means_the_same_alone(tmp_path, family, projector):
    model, processor = small_cell_text_model(tmp_path, family, projector=projector)
    batch = batch_of(processor)
    if projector == "resampler" and family in WITHOUT_GENES:
        with pytest.raises(ConfigurationError, match="`projector` to 'mlp'"):
            model(**batch)
        return
    together = model(**batch).logits
    for row, alone in enumerate(one_by_one(processor, some_cells(processor, 3))):
        logits = model(**alone).logits[0]
        assert_close(together[row, -len(logits) :], logits, atol=2e-5, rtol=1e-4)


def test_families_that_cannot_are_refused(tmp_path):
    for family in EXCEPTIONS:
        with pytest.raises(ConfigurationError, match="another family"):
            small_cell_text_model(tmp_path / family, family)


@pytest.mark.parametrize("kind", ["llama", *LANGUAGE_MODELS])
def test_padding_on_the_left_changes_nothing_with_any_language_model(tmp_path, kind):
    language = small_llama if kind == "llama" else lambda: small_language_model(kind)
    model, processor = small_cell_text_model(tmp_path, language=language)
    alone = processor(PROMPTS[0], **some_cells(processor, 1), return_tensors="pt")
    padded = dict(alone)
    for name, fill in (("input_ids", 0), ("attention_mask", 0)):
        padded[name] = torch.nn.functional.pad(alone[name], (5, 0), value=fill)
    assert_close(model(**padded).logits[:, 5:], model(**alone).logits, atol=1e-5, rtol=1e-4)
    settings = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        model.generate(**padded, **settings)[:, 5:],
        model.generate(**alone, **settings),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 2, "use_cache": False},
        {"do_sample": True, "num_return_sequences": 3, "top_k": 1},
    ],
)
def test_beams_and_several_answers_never_mix_cells(found, settings):
    model, processor = found
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None} | settings
    together = model.generate(**batch_of(processor), **settings)[:, -4:]
    alone = [model.generate(**one, **settings)[:, -4:] for one in one_by_one(processor, some_cells(processor, 3))]
    assert torch.equal(together, torch.cat(alone))


def test_other_cells_give_other_logits(found):
    model, processor = found
    first, second = (
        processor(PROMPTS[0], **some_cells(processor, 1, seed=seed), return_tensors="pt") for seed in (0, 1)
    )
    assert (model(**first).logits - model(**second).logits).abs().max() > 1e-3


def test_a_placeholder_is_never_said(found):
    model, processor = found
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.cell_token_id] *= 100
    said = model.generate(**batch_of(processor), max_new_tokens=8, do_sample=False)[:, -8:]
    assert not (said == model.config.cell_token_id).any()


def test_text_alone_is_answered_as_the_language_model_answers_it(tmp_path):
    language, tokenizer = small_llama()
    expected = copy.deepcopy(language)
    model, processor = small_cell_text_model(tmp_path, language=lambda: (language, tokenizer))
    model.cell_text.language_model.load_state_dict(language.state_dict())
    batch = processor("which type is this", return_tensors="pt")
    n_words = expected.config.vocab_size
    assert_close(model(**batch).logits[..., :n_words], expected(**batch).logits, atol=0, rtol=0)


def test_save_and_load_by_every_auto_class(found, tmp_path):
    model, processor = found
    model.save_pretrained(tmp_path)
    batch = batch_of(processor)
    for auto_class in (AutoModelForMultimodalLM, AutoModelForImageTextToText):
        reloaded = auto_class.from_pretrained(tmp_path)
        assert type(reloaded) is CellTextForConditionalGeneration
        assert torch.equal(reloaded.eval()(**batch).logits, model(**batch).logits)
        assert reloaded.generation_config.suppress_tokens == [model.config.cell_token_id]
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is CellTextModel
    states = base.eval()(**batch).last_hidden_state
    assert torch.equal(model.get_output_embeddings()(states), model(**batch).logits)


def test_tied_embeddings_stay_tied(tmp_path):
    model, processor = small_cell_text_model(tmp_path, language=lambda: small_llama(tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "saved")
    reloaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved")
    assert reloaded.get_output_embeddings().weight is reloaded.get_input_embeddings().weight
    assert torch.equal(reloaded.eval()(**batch_of(processor)).logits, model(**batch_of(processor)).logits)


def test_config_round_trip(found, tmp_path):
    config = found[0].config
    config.save_pretrained(tmp_path)
    reloaded = CellTextConfig.from_pretrained(tmp_path)
    for name in ("cell_config", "text_config"):
        assert type(getattr(reloaded, name)) is type(getattr(config, name))
    assert (reloaded.cell_token_id, reloaded.num_cell_tokens) == (config.cell_token_id, 3)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_gradients_reach_every_parameter(tmp_path, projector):
    model, processor = small_cell_text_model(tmp_path, projector=projector)
    model.train()
    model(**with_labels(batch_of(processor), model)).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_activation_checkpointing_gives_the_same_loss(found):
    model, batch = copy.deepcopy(found[0]).train(), with_labels(batch_of(found[1]), found[0])
    model.cell_text.cell_model.eval()
    loss = model(**batch).loss
    model.activation_checkpointing_enable()
    again = model(**batch).loss
    again.backward()
    assert_close(loss, again)


def test_accumulation_equals_one_batch(found):
    model, processor = found
    batch = with_labels(batch_of(processor), model)
    targets = (batch["labels"][:, 1:] != -100).sum()
    parts = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(2)]
    assert_close(model(**batch).loss, sum(model(**part, num_items_in_batch=targets).loss for part in parts))


def test_bfloat16_is_finite(found):
    model = copy.deepcopy(found[0]).to(torch.bfloat16)
    assert torch.isfinite(model(**with_labels(batch_of(found[1]), model)).loss)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_new_model_gets_all_its_numbers_on_meta(found, projector):
    config = CellTextConfig.from_dict(found[0].config.to_dict() | {"projector": projector})
    with torch.device("meta"):
        model = CellTextForConditionalGeneration(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(77)
    model.init_weights()
    assert not [name for name, tensor in model.state_dict().items() if (tensor == 77).any()]


def test_the_first_stage_trains_the_projector_alone(found):
    model = copy.deepcopy(found[0])
    model.train_projector_only()
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad} == {"projector"}
    assert model.train().cell_text.language_model.training and not model.cell_text.cell_model.training
    model(**with_labels(batch_of(found[1]), model)).loss.backward()
    assert all(p.grad is not None for p in model.cell_text.projector.parameters())


def test_labels_are_the_only_target():
    assert find_labels(CellTextForConditionalGeneration) == ["labels"]


def test_stock_trainer_trains_it(found, tmp_path):
    model, processor = copy.deepcopy(found[0]), found[1]
    batch = with_labels(batch_of(processor), model)
    rows = [{name: tensor[row] for name, tensor in batch.items()} for row in range(2)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, use_cpu=True, save_strategy="no", disable_tqdm=True, learning_rate=1e-2
    )
    before = model.eval()(**batch).loss
    Trainer(model, arguments, train_dataset=rows).train()
    assert model.eval()(**batch).loss < before


def test_a_lora_of_the_language_model_leaves_the_encoder_alone(found, tmp_path):
    base, processor = copy.deepcopy(found[0]), found[1]
    settings = peft.LoraConfig(
        r=2,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        modules_to_save=["projector"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(copy.deepcopy(base), settings)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {part for name in trained for part in ("cell_model", "language_model", "projector") if part in name} == {
        "language_model",
        "projector",
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(**with_labels(batch_of(processor), base)).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    batch = batch_of(processor)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(reloaded(**batch).logits, model(**batch).logits)
    assert_close(reloaded.merge_and_unload()(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)
    assert (base(**batch).logits - model(**batch).logits).abs().max() > 1e-4


def test_batches_that_are_none_are_refused(found):
    model, batch = found[0], batch_of(found[1])
    cells = {name: value for name, value in batch.items() if name.startswith("cell_")}
    words = {name: value for name, value in batch.items() if not name.startswith("cell_")}
    for inputs, told in (
        (words, "more placeholders than cells"),
        (words | {name: value[[1, 1]] for name, value in cells.items()}, "more cells than placeholders"),
        (words | {name: value[:1] for name, value in cells.items()}, "1 prompts and 2 prompts"),
        (words | {name: value[:, 0] for name, value in cells.items()}, r"\(batch, cells, genes\)"),
        (dict(batch) | {"labels": batch["input_ids"]}, "learn to say"),
        ({"inputs_embeds": torch.zeros(2, 4, 32)} | cells, "`inputs_embeds` tell nothing"),
        ({"input_ids": torch.ones(1, 65, dtype=torch.long)}, "reads 64"),
        ({}, "exactly one"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            model(**inputs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_cell_tokens": 0}, "at least 1"),
        ({"cell_token_id": 99}, "0 to"),
        ({"projector": "resampler", "resampler_heads": 5}, "multiple of `resampler_heads`"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(found, changes, told):
    with pytest.raises(Exception, match=told):
        CellTextConfig.from_dict(found[0].config.to_dict() | changes)
