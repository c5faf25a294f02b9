import json
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from sclm_hf.adapters.lora import add_lora, load_adapter, lora_config, merge_adapter, save_adapter
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmError
from sclm_hf.modeling.cellplm.configuration_cellplm import CellPLMConfig
from sclm_hf.modeling.cellplm.modeling_cellplm import CellPLMForSequenceClassification
from sclm_hf.modeling.scgpt.configuration_scgpt import ScGPTConfig
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForMaskedExpression, ScGPTForSequenceClassification, ScGPTModel
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

LABELS = {0: "B", 1: "NK", 2: "T"}
SIZES = {
    "vocab_size": 23,
    "pad_token_id": 20,
    "cls_token_id": 21,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def batch(n=7, genes=13):
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(20, generator=generator)[:genes] for _ in range(n)])
    ids[:, 0] = 21
    return {
        "input_ids": ids,
        "expression_values": torch.randint(1, 9, (n, genes), generator=generator).float(),
        "attention_mask": torch.ones_like(ids),
        "labels": torch.arange(n) % 3,
    }


@pytest.fixture
def base(tmp_path):
    """Folder of a pre-trained model without a classifier."""
    torch.manual_seed(0)
    ScGPTForMaskedExpression(ScGPTConfig(**SIZES)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def classifier(base):
    torch.manual_seed(1)
    return ScGPTForSequenceClassification.from_pretrained(
        base, id2label=LABELS, label2id={name: i for i, name in LABELS.items()}, hidden_dropout_prob=0.0
    )


def train_a_little(model, steps=3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        optimizer.step()
    return model.eval()


def test_every_adapter_weight_and_the_head_move_and_nothing_else(base):
    model = add_lora(classifier(base))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_a_little(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    adapters = {name for name in before if ".lora_A." in name or ".lora_B." in name}
    head = {name for name in before if ".modules_to_save." in name}
    assert len(adapters) == 2 * 2 * 4 and len(head) > 0
    assert moved == adapters | head


def test_a_bare_lora_config_finds_the_family(base):
    model = peft.get_peft_model(ScGPTModel.from_pretrained(base), peft.LoraConfig())
    adapted = {name.split(".")[-2] for name, module in model.named_modules() if name.endswith(".lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_defaults_come_from_the_registry_and_can_be_changed(base):
    config = lora_config(classifier(base))
    assert config.modules_to_save == ["classifier"] and config.task_type == "SEQ_CLS"
    assert lora_config(ScGPTModel.from_pretrained(base)).modules_to_save is None
    config = lora_config(classifier(base), r=3, target_modules=["linear1"], train_gene_embeddings=True)
    assert config.r == 3 and config.target_modules == {"linear1"}
    assert config.modules_to_save == ["classifier", "genes"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, r"`r` \(`lora_r`\) must be at least 1, got 0"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must be at least 0 and below 1, got 1\.0"),
        ({"target_modules": ["q_proj", "qproj"]}, r"names \['qproj'\].*no such linear layer.*'q_proj'"),
    ],
)
def test_settings_that_fit_no_model_are_refused(base, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        add_lora(classifier(base), **settings)


@pytest.mark.parametrize(("encoder", "n_layers"), [("flowformer", 8), ("mlp", 3), ("none", 1)])
def test_an_encoder_without_attention_is_adapted_too(encoder, n_layers):
    sizes = {"vocab_size": 9, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    model = CellPLMForSequenceClassification(CellPLMConfig(**sizes, encoder_type=encoder, id2label=LABELS))
    adapted = add_lora(model)
    assert sum(name.endswith("lora_A.default.weight") for name, _ in adapted.named_parameters()) == n_layers


def test_save_and_load_give_the_same_logits_and_labels(base, tmp_path):
    model = train_a_little(add_lora(classifier(base)))
    save_adapter(model, tmp_path / "adapter")
    for loaded in (
        load_adapter(tmp_path / "adapter"),
        peft.PeftModel.from_pretrained(classifier(base), tmp_path / "adapter").eval(),
    ):
        torch.testing.assert_close(loaded(**batch()).logits, model(**batch()).logits, rtol=0, atol=0)
        assert loaded.get_base_model().config.id2label == LABELS
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../base"
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".lora_" in name or ".classifier." in name for name in saved)


def test_the_card_says_what_the_adapter_is_and_one_that_is_there_stays(base, tmp_path):
    model, card = add_lora(classifier(base), r=3), tmp_path / "adapter" / "README.md"
    save_adapter(model, tmp_path / "adapter")
    text = card.read_text(encoding="utf-8")
    assert "More Information Needed" not in text
    assert str(tmp_path) not in text
    for fact in (
        "`../base`",
        "scGPT",
        "Rank and alpha: 3 and 16",
        "k_proj, o_proj",
        "in full: classifier",
        "B, NK, T",
    ):
        assert fact in text
    # a folder is no repository of the Hub
    assert ModelCard(text).data.to_dict() == {"library_name": "peft", "tags": ["lora", "single-cell"]}
    card.write_text("---\nlicense: mit\n---\n\n# My annotator\n", encoding="utf-8")
    save_adapter(model, tmp_path / "adapter")
    assert "# My annotator" in card.read_text(encoding="utf-8") and ModelCard.load(card).data.license == "mit"


def test_a_loaded_adapter_can_be_trained_on(base, tmp_path):
    save_adapter(train_a_little(add_lora(classifier(base))), tmp_path / "adapter")
    model = load_adapter(tmp_path / "adapter", is_trainable=True)
    loss = model(**batch()).loss.item()
    assert train_a_little(model, steps=5)(**batch()).loss.item() < loss


def test_merging_keeps_the_output_and_the_adapted_model(base, tmp_path):
    model = train_a_little(add_lora(classifier(base)))
    expected = model(**batch()).logits
    merge_adapter(model).save_pretrained(tmp_path / "merged")
    merged = ScGPTForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**batch()).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(**batch()).logits, expected, rtol=0, atol=0)
    assert merged.config.id2label == LABELS
    assert set(merged.state_dict()) == set(classifier(base).state_dict())


def test_added_genes_are_saved_with_the_adapter(tmp_path):
    torch.manual_seed(0)
    tokenizer = GeneTokenizer.from_genes([f"GENE{i}" for i in range(20)])
    ids = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id}
    ScGPTForMaskedExpression(ScGPTConfig(**(SIZES | ids))).save_pretrained(tmp_path / "base")
    tokenizer = tokenizer.add_genes(["NEW1", "NEW2"])
    model = classifier(tmp_path / "base")
    model.resize_token_embeddings(tokenizer.gene_vocabulary.size)
    model = train_a_little(add_lora(model))
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("scgpt"), tokenizer)
    save_adapter(model, tmp_path / "adapter", processor=processor)
    loaded = load_adapter(tmp_path / "adapter")
    known = AutoProcessor.from_pretrained(tmp_path / "adapter").tokenizer.gene_vocabulary
    assert known["NEW2"] == 24 == loaded.get_input_embeddings().num_embeddings - 1
    cells = batch()
    cells["input_ids"][:, 3] = known["NEW2"]
    torch.testing.assert_close(loaded(**cells).logits, model(**cells).logits, rtol=0, atol=0)
    merged = merge_adapter(model)
    torch.testing.assert_close(merged(**cells).logits, model(**cells).logits, rtol=0, atol=1e-5)


def test_an_adapter_that_would_lose_added_genes_is_refused(base, tmp_path):
    model = classifier(base)
    model.resize_token_embeddings(25)
    adapted = peft.get_peft_model(model, peft.LoraConfig())
    with pytest.raises(ConfigurationError, match=r"25 gene embeddings.*modules_to_save=\['genes'\]"):
        save_adapter(adapted, tmp_path / "adapter")


def test_a_base_that_moved_is_named_by_the_caller(base, tmp_path):
    model = train_a_little(add_lora(classifier(base)))
    save_adapter(model, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"is not the base.*does not exist.*`base_model_name_or_path`.*base="):
        load_adapter(tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter", base=tmp_path / "moved")
    np.testing.assert_array_equal(loaded(**batch()).logits.detach(), model(**batch()).logits.detach())


def test_base_and_adapter_can_move_together_and_be_used_from_anywhere(base, tmp_path, monkeypatch):
    model = train_a_little(add_lora(classifier(base)))
    save_adapter(model, tmp_path / "run" / "adapter")
    (tmp_path / "elsewhere").mkdir()
    for part in ("base", "run"):
        (tmp_path / part).rename(tmp_path / "elsewhere" / part)
    monkeypatch.chdir(tmp_path)
    loaded = load_adapter("elsewhere/run/adapter")
    np.testing.assert_array_equal(loaded(**batch()).logits.detach(), model(**batch()).logits.detach())


def test_saving_again_leaves_every_file_as_it_is(base, tmp_path):
    model = train_a_little(add_lora(classifier(base)))
    save_adapter(model, tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    save_adapter(model, tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before
    assert not any(str(tmp_path).encode() in content for content in before.values())


def test_patterns_of_ones_own_are_saved_as_names(base, tmp_path):
    model = peft.get_peft_model(ScGPTModel.from_pretrained(base), peft.LoraConfig(target_modules=r".*\.0\..*q_proj"))
    save_adapter(model, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["layers.0.self_attn.q_proj"]
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == 2
    load_adapter(tmp_path / "adapter")


def damaged_settings(**changes):
    def damage(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def damaged_weights(change):
    def damage(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors, sorted(name for name in tensors if "lora_A" in name)[0])
        save_file(tensors, path, {"format": "pt"})

    return damage


def only_a_pickle(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")


SLOW = r"(([a-z0-9_.])+)+X"

DAMAGES = {
    "a tensor missing": (damaged_weights(lambda tensors, name: tensors.pop(name)), "lacks `.*lora_A"),
    "all of LoRA missing": (
        damaged_weights(lambda tensors, name: [tensors.pop(key) for key in list(tensors) if "lora_" in key]),
        "lacks `.*lora_A.* and 15 more",
    ),
    "an unknown tensor": (
        damaged_weights(lambda tensors, name: tensors.update({name.replace("lora_A", "lora_Z"): torch.zeros(1)})),
        "unknown weights, `.*lora_Z",
    ),
    "another shape": (damaged_weights(lambda tensors, name: tensors.update({name: torch.zeros(8, 3)})), "lora_A"),
    "NaN": (damaged_weights(lambda tensors, name: tensors[name].fill_(torch.nan)), "NaN or infinite in `.*lora_A"),
    "infinite": (
        damaged_weights(lambda tensors, name: tensors[name].fill_(torch.inf)),
        "NaN or infinite in `.*lora_A",
    ),
    "whole numbers": (
        damaged_weights(lambda tensors, name: tensors.update({name: tensors[name].long()})),
        "not floating point in `.*lora_A",
    ),
    "a pickle": (only_a_pickle, "holds no `adapter_model.safetensors`"),
    "a slow pattern for targets": (damaged_settings(target_modules=SLOW), "`target_modules`.*no plain name"),
    "a slow pattern to leave out": (damaged_settings(exclude_modules=SLOW), "`exclude_modules`.*no plain name"),
    "a slow pattern to save": (damaged_settings(modules_to_save=[SLOW]), "`modules_to_save`.*no plain name"),
    "a slow pattern for layers": (
        damaged_settings(layers_pattern=SLOW, layers_to_transform=[0]),
        "`layers_pattern`.*no plain name",
    ),
    "a slow pattern for ranks": (damaged_settings(rank_pattern={SLOW: 4}), "`rank_pattern`.*no plain name"),
    "a slow pattern for alphas": (damaged_settings(alpha_pattern={SLOW: 4}), "`alpha_pattern`.*no plain name"),
    "a library to import": (
        damaged_settings(megatron_config={"a": 1}, megatron_core="antigravity"),
        "`megatron_config`.*would import",
    ),
    "a class of another library": (
        damaged_settings(auto_mapping={"base_model_class": "system", "parent_library": "os"}),
        "`auto_mapping`.*'os'",
    ),
    "another method": (damaged_settings(peft_type="NONSENSE"), "not an adapter that can be read"),
    "a claimed rank": (damaged_settings(r=10**6), "lora_"),
    "an impossible rank": (damaged_settings(r=10**12), "`r` is 1,000,000,000,000"),
    "no base": (damaged_settings(base_model_name_or_path=5), "names no base"),
    "a base elsewhere": (damaged_settings(base_model_name_or_path="../nowhere"), "nowhere.*does not exist"),
    "a device as base": (damaged_settings(base_model_name_or_path="/dev/zero"), "zero.*no folder"),
    "no object": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json"),
    "deep settings": (
        lambda folder: (folder / "adapted_config.json").write_text("[" * 10**5),
        "adapted_config.json",
    ),
    "no class": (
        lambda folder: (folder / "adapted_config.json").write_text('{"model_type": "scgpt"}'),
        "class `None`",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    ScGPTForMaskedExpression(ScGPTConfig(**SIZES)).save_pretrained(folder / "base")
    save_adapter(add_lora(classifier(folder / "base")), folder / "adapter")
    return folder


def test_peft_does_not_warn_of_what_is_refused(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "damaged") / "adapter"
    DAMAGES["a tensor missing"][0](folder)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(CheckpointError, match="lacks"):
        warnings.simplefilter("always")
        load_adapter(folder)
    assert not caught


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused(sound, tmp_path, damage):
    shutil.copytree(sound, tmp_path / "copy")
    change, message = DAMAGES[damage]
    change(tmp_path / "copy" / "adapter")
    with pytest.raises(SclmError, match=message):
        load_adapter(tmp_path / "copy" / "adapter")


def test_the_base_is_read_with_as_much_care_as_any_checkpoint(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "copy")
    weights = load_file(folder / "base" / "model.safetensors")
    (folder / "base" / "model.safetensors").unlink()
    torch.save(weights, folder / "base" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"base` holds no weights as safetensors"):
        load_adapter(folder / "adapter")
    weights["model.layers.0.linear1.weight"][0, 0] = torch.nan
    save_file(weights, folder / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"`model.layers.0.linear1.weight`.*NaN"):
        load_adapter(folder / "adapter")


def test_the_wrong_base_is_refused(base, tmp_path):
    save_adapter(add_lora(classifier(base)), tmp_path / "adapter")
    ScGPTModel(ScGPTConfig(**(SIZES | {"hidden_size": 16}))).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="not the base"):
        load_adapter(tmp_path / "adapter", base=tmp_path / "other")


def test_an_unsaved_base_and_a_folder_without_adapter_are_refused(base, tmp_path):
    model = add_lora(ScGPTForSequenceClassification(ScGPTConfig(**SIZES)))
    with pytest.raises(ConfigurationError, match="never saved"):
        save_adapter(model, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="not an adapter"):
        load_adapter(base)
