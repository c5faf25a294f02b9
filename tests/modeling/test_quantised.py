"""Quantised weights are integers: no input is ever cast to their type, and what reads numbers stays in float."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import cosine_similarity, linear
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

from .inputs import cells

CLASSES = (AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification)

AS_TABLES = ("lm_head", "cls.predictions.decoder", "decoder.mean")
"""Layers whose rows are looked up, or that are tied to a table: quantisers leave them alone."""


class IntegerLinear(nn.Linear):
    """A linear layer with weights of 8 bits, and inputs and outputs in float, as all quantisers have it."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__(1, 1)
        weight = layer.weight.detach()
        weight = weight if isinstance(layer, nn.Linear) else weight.T
        self.out_features, self.in_features = weight.shape
        self.scale = weight.abs().max() / 127
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, hidden_states):
        assert hidden_states.is_floating_point()
        return linear(hidden_states, self.weight * self.scale, self.bias)


@pytest.fixture(scope="module", params=[name for name, family in FAMILIES.items() if not family.is_fitted])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return make_tiny_checkpoint(request.param, folder, genes=[f"GENE{i}" for i in range(20)])


def opened(auto_class, base, **settings):
    torch.manual_seed(0)
    return auto_class.from_pretrained(base, **settings).eval()


def outputs(model) -> list[torch.Tensor]:
    # CellPLM draws its latent
    torch.manual_seed(0)
    with torch.no_grad():
        found = model(**cells(model))
    return [found[name] for name in ("last_hidden_state", "cell_embedding", "logits") if found.get(name) is not None]


@pytest.mark.parametrize("auto_class", CLASSES, ids=lambda auto_class: auto_class.__name__)
def test_no_input_is_cast_to_the_type_of_weights(auto_class, base):
    model = opened(auto_class, base)
    expected, replaced = outputs(model), 0
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, Conv1D)) and not name.endswith(AS_TABLES):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, IntegerLinear(module))
            replaced += 1
    assert replaced >= 8
    for tensor, wanted in zip(outputs(model), expected, strict=True):
        assert torch.isfinite(tensor).all() and cosine_similarity(tensor.flatten(), wanted.flatten(), 0) > 0.99


def test_quantize_dynamic_converts_every_linear_layer(base):
    model = opened(AutoModelForSequenceClassification, base)
    linears = sum(isinstance(module, nn.Linear) for module in model.modules())
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    kind = torch.ao.nn.quantized.dynamic.Linear
    assert sum(isinstance(module, kind) for module in quantised.modules()) == linears
    for tensor, wanted in zip(
        outputs(quantised), outputs(opened(AutoModelForSequenceClassification, base)), strict=True
    ):
        assert cosine_similarity(tensor.flatten(), wanted.flatten(), 0) > 0.99


def torchao_int8():
    quantization = pytest.importorskip("torchao.quantization")
    return transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())


def bitsandbytes_int8():
    pytest.importorskip("bitsandbytes")
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_nf4():
    pytest.importorskip("bitsandbytes")
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def quanto_int8():
    pytest.importorskip("optimum.quanto")
    return transformers.QuantoConfig(weights="int8")


# quantiser -> least cosine of the outputs of tiny models with those in float
QUANTISERS = {torchao_int8: 0.99, bitsandbytes_int8: 0.99, quanto_int8: 0.99, bitsandbytes_nf4: 0.9}


@pytest.mark.parametrize("auto_class", CLASSES, ids=lambda auto_class: auto_class.__name__)
@pytest.mark.parametrize("quantiser", QUANTISERS, ids=lambda quantiser: quantiser.__name__)
def test_quantised_loading_changes_little(quantiser, auto_class, base):
    model = opened(auto_class, base, quantization_config=quantiser(), device_map="cpu")
    for tensor, wanted in zip(outputs(model), outputs(opened(auto_class, base)), strict=True):
        assert torch.isfinite(tensor).all()
        assert cosine_similarity(tensor.flatten(), wanted.flatten(), 0) > QUANTISERS[quantiser]
    for name, module in model.named_modules():
        if "embeddings." in f"{name}." or module in heads(model):
            for weight in module.parameters():
                assert type(weight.data) is torch.Tensor and weight.is_floating_point()


def heads(model) -> list[nn.Module]:
    if model.base_model is model:
        return []
    return [module for name, module in model.named_children() if name != model.base_model_prefix]


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=lambda quantiser: quantiser.__name__)
def test_an_adapter_trains_on_a_quantised_base_and_comes_back(quantiser, base, tmp_path):
    import peft

    def quantised(seed):
        torch.manual_seed(seed)
        settings = {"quantization_config": quantiser(), "device_map": "cpu", "num_labels": 3}
        return AutoModelForSequenceClassification.from_pretrained(base, **settings).eval()

    model = peft.get_peft_model(quantised(0), peft.LoraConfig(task_type="SEQ_CLS"))
    batch = cells(model)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch, labels=torch.arange(6) % 3).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(quantised(1), tmp_path).eval()
    assert_close(reloaded(**batch).logits, model.eval()(**batch).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_all_layers(dtype, base):
    model = opened(AutoModelForSequenceClassification, base, dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
