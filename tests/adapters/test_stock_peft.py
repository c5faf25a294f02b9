"""Stock peft on every family: a configuration without anything of ours trains, comes back, merges and switches off."""

import importlib

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from sclm_hf.adapters.lora import add_lora, merge_adapter
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

from ..modeling.inputs import CELLS, cells

# what a method needs for layers as small as ours
SETTINGS = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 10},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "PVERA": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 4},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "r": 2},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 10},
}
# these adapt no layers, or only models of transformers that they name
OTHER_METHODS = {"ADAPTION_PROMPT", "SHADOW", "TRAINABLE_TOKENS", "XLORA"}
PROMPTS = {"CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}
ADAPTABLE = [name for name, family in FAMILIES.items() if family.lora_target_modules]
"""Families with layers to adapt."""

METHODS = sorted({str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - OTHER_METHODS - PROMPTS)

LINEAR_ONLY = {
    *("ADAMSS", "BEFT", "BOFT", "C3A", "DELORA", "GLORA", "HRA", "LILY", "LOHA", "LOKR", "MISS", "OFT", "PEANUT"),
    *("POLY", "PSOFT", "ROAD", "SHIRA", "SUPERTUNING"),
}
"""peft refuses GPT-2's Conv1D for these."""
NEVER_MERGED = {"LILY", "POLY"}
"""peft refuses to merge these whatever the model."""
UNREACHED = {"GLORA": ("glora_C", "glora_D")}
"""What acts on the bias of keys, which attention cannot see, and on biases that are zero."""


def is_everyday(family: str, method: str) -> bool:
    """Every method on one family, and two methods on all."""
    return family == "uce" or method in ("LORA", "IA3")


CASES = [
    pytest.param(family, method, marks=[] if is_everyday(family, method) else pytest.mark.slow)
    for family in ADAPTABLE
    for method in METHODS
    if family != "tgpt" or method not in LINEAR_ONLY
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Family -> folder of a pre-trained model without a classifier."""
    root, made = tmp_path_factory.mktemp("bases"), {}

    def base(family: str):
        if family not in made:
            made[family] = make_tiny_checkpoint(family, root / family, genes=[f"GENE{i}" for i in range(20)])
        return made[family]

    return base


def classifier(base, seed=0):
    """The classifier on the base: whatever the base lacks depends on the seed."""
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).eval()


def stock(method: str, **settings):
    return PEFT_TYPE_TO_CONFIG_MAPPING[method](task_type="SEQ_CLS", **SETTINGS.get(method, {}), **settings)


def train_a_little(model, batch) -> set[str]:
    """Names of the parameters that three steps moved."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(trained.values(), lr=1e-2)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch, labels=torch.arange(CELLS) % 3).loss.backward()
        optimizer.step()
    model.eval()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_stock_adapter_trains_reloads_merges_and_switches_off(family, method, bases, tmp_path):
    base = classifier(bases(family))
    batch = cells(base)
    unadapted = base(**batch).logits
    model = peft.get_peft_model(base, stock(method))
    if method == "POLY":
        # a sample is one row to CellPLM's layers
        batch["task_ids"] = torch.zeros(1 if family == "cellplm" else CELLS, dtype=torch.long)
    moved = train_a_little(model, batch)
    still = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - moved
    assert moved and not [name for name in still if not any(part in name for part in UNREACHED.get(method, ()))]
    adapted = model(**batch).logits
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(classifier(bases(family), seed=1), tmp_path).eval()
    assert_close(reloaded(**batch).logits, adapted, rtol=0, atol=0)
    with model.disable_adapter():
        assert_close(model(**batch).logits, unadapted, rtol=0, atol=0)
    if method not in NEVER_MERGED and (family, method) != ("scbert", "BEFT"):
        assert_close(merge_adapter(model)(**batch).logits, adapted, rtol=1e-4, atol=2e-5)


def heads_without_weights():
    return [pytest.param(family, name, id=name) for family in ADAPTABLE for name in FAMILIES[family].models]


@pytest.mark.parametrize(("family", "name"), heads_without_weights())
def test_nothing_random_stays_out_of_an_adapter(family, name, bases):
    """Opened twice, a model on a base without its head differs in nothing but what the adapter brings."""
    model_class = getattr(importlib.import_module(FAMILIES[family].modeling_module), name)
    settings = {"num_labels_per_task": [3, 2]} if "MultiTask" in name else {}
    outside = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = peft.get_peft_model(model_class.from_pretrained(bases(family), **settings), peft.LoraConfig())
        inside = (".lora_", ".modules_to_save.", ".original_module.")
        state = model.state_dict()
        outside.append({key: tensor for key, tensor in state.items() if not any(part in key for part in inside)})
    assert_close(*outside, rtol=0, atol=0)


@pytest.mark.parametrize("family", ADAPTABLE)
def test_the_stock_route_and_ours_save_the_same_tensors(family, bases, tmp_path):
    peft.get_peft_model(classifier(bases(family)), stock("LORA")).save_pretrained(tmp_path / "stock")
    add_lora(classifier(bases(family))).save_pretrained(tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "stock"))
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}


@pytest.mark.parametrize("family", ADAPTABLE)
def test_an_adapter_of_transformers_own_brings_its_head_along(family, bases, tmp_path):
    model = classifier(bases(family))
    model.add_adapter(stock("LORA"))
    batch = cells(model)
    train_a_little(model, batch)
    model.save_pretrained(tmp_path)
    reloaded = classifier(bases(family), seed=1)
    reloaded.load_adapter(tmp_path)
    assert_close(reloaded.eval()(**batch).logits, model(**batch).logits, rtol=0, atol=0)


def test_a_trained_layer_of_the_base_is_left_to_the_base(bases, tmp_path):
    classifier(bases("geneformer")).save_pretrained(tmp_path)
    model = peft.get_peft_model(classifier(tmp_path), peft.LoraConfig())
    assert model.get_base_model().random_modules == () and not model.active_peft_config.modules_to_save


def test_a_method_that_saves_no_modules_refuses_a_random_head(bases):
    with pytest.raises(ConfigurationError, match=r"\['classifier'\] of TGPTForSequenceClassification started random"):
        peft.get_peft_model(
            classifier(bases("tgpt")), peft.TrainableTokensConfig(token_indices=[1], target_modules=["wte"])
        )


PROMPT_METHODS = (peft.PrefixTuningConfig, peft.PromptTuningConfig, peft.PromptEncoderConfig)
WITH_PROMPTS = ("geneformer", "iseeek", "tgpt")
"""Families whose tokens are genes alone, with a table of weights: their bare models take virtual tokens."""


@pytest.mark.parametrize("family", ADAPTABLE)
@pytest.mark.parametrize("prompts", PROMPT_METHODS)
def test_virtual_tokens_are_refused_where_a_model_takes_none(family, prompts, bases):
    refused = [("SEQ_CLS", classifier(bases(family)))]
    if prompts is peft.PrefixTuningConfig or family not in WITH_PROMPTS:
        refused.append(("FEATURE_EXTRACTION", AutoModel.from_pretrained(bases(family))))
    for task, model in refused:
        with pytest.raises(ConfigurationError, match="takes none: choose a method that adapts layers"):
            peft.get_peft_model(model, prompts(task_type=task, num_virtual_tokens=3))


@pytest.mark.parametrize("family", WITH_PROMPTS)
@pytest.mark.parametrize("prompts", PROMPT_METHODS[1:])
def test_virtual_tokens_change_the_cell_and_come_back(family, prompts, bases, tmp_path):
    def opened():
        return AutoModel.from_pretrained(bases(family)).eval()

    model = peft.get_peft_model(opened(), prompts(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)).eval()
    batch = cells(model)
    found = model(**batch).cell_embedding
    assert found.shape[0] == CELLS and not torch.equal(found, opened()(**batch).cell_embedding)
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(opened(), tmp_path).eval()
    assert_close(reloaded(**batch).cell_embedding, found, rtol=0, atol=0)


def test_a_language_model_takes_a_prefix(bases, tmp_path):
    def opened():
        return AutoModelForCausalLM.from_pretrained(bases("tgpt")).eval()

    prefix = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(opened(), prefix).eval()
    batch = cells(opened())
    assert not torch.equal(model(**batch).logits, opened()(**batch).logits)
    model.save_pretrained(tmp_path)
    assert_close(peft.PeftModel.from_pretrained(opened(), tmp_path).eval()(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ADAPTABLE)
def test_every_table_of_peft_names_layers_that_there_are(family, bases):
    names = [f".{name}" for name, _ in classifier(bases(family)).named_modules()]
    tables = {name: table for name, table in vars(peft.utils.constants).items() if name.endswith("MODULES_MAPPING")}
    assert len(tables) > 30
    for title, table in tables.items():
        for target in table[family]:
            assert any(name.endswith(f".{target}") for name in names), f"{title}: {target}"
