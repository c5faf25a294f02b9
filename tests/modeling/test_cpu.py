import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sclm_hf.modeling.common import cpu
from sclm_hf.modeling.common.cpu import (
    cell_by_cell_attention,
    fast_on_cpu,
    has_fast_bfloat16,
    has_slow_products,
    onednn_linear,
)


def tensors(*shape, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype) for _ in range(3)]


def mask_of_keys():
    mask = torch.rand(3, 1, 1, 13) > 0.3
    mask[..., 0] = True
    return mask


MASKS = {
    "none": lambda: None,
    "keys": mask_of_keys,
    "keys of every query": lambda: mask_of_keys().expand(3, 1, 13, 13),
    "keys written out": lambda: mask_of_keys().expand(3, 1, 13, 13).contiguous(),
    "queries": lambda: torch.ones(3, 1, 13, 13, dtype=torch.bool).tril(),
    "numbers": lambda: torch.randn(3, 1, 13, 13),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
@torch.no_grad()
def test_attention_equals_that_of_torch(monkeypatch, mask, scale):
    monkeypatch.setattr(cpu, "FEWEST_TOKENS", 1)
    query, key, value = tensors(3, 2, 13, 8)
    mask = mask()
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    assert_close(cell_by_cell_attention(query, key, value, mask, scale=scale), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_attention_in_bfloat16_is_as_close_as_that_of_torch():
    query, key, value = tensors(2, 2, 600, 16)
    mask = torch.ones(2, 1, 1, 600, dtype=torch.bool)
    mask[1, ..., 500:] = False
    exact = F.scaled_dot_product_attention(query, key, value, mask)
    half = cell_by_cell_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(half.float(), exact, dim=-1).min() > 0.999


def test_gradients_take_the_attention_of_torch(monkeypatch):
    monkeypatch.setattr(cpu, "_attention_in_chunks", None)
    half = tensors(1, 1, 600, 8, dtype=torch.bfloat16)
    half[0].requires_grad_(True)
    cell_by_cell_attention(*half).sum().backward()
    assert half[0].grad is not None


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(7, 5)

    def forward(self, x):
        y = self.linear(x)
        return y, y @ y.transpose(0, 1), torch.addmm(y[0], x, self.linear.weight.t()), torch.einsum("ij,kj->ik", y, y)


@pytest.mark.parametrize("native", [False, True])
@torch.no_grad()
def test_products_of_bfloat16_are_rounded_products_of_float32(monkeypatch, native):
    monkeypatch.setattr(cpu, "has_fast_bfloat16", lambda: native)
    model = Products().to(torch.bfloat16)
    x = torch.randn(6, 7).bfloat16()
    expected = model(x)
    seen = []
    monkeypatch.setattr(
        cpu, "_widened", lambda one: seen.append(one) or (one.float() if hasattr(one, "float") else one)
    )
    with fast_on_cpu(model):
        found = model(x)
    assert bool(seen) is not native
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert_close(one, other)


@torch.no_grad()
def test_products_of_other_types_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(cpu, "has_slow_products", lambda: False)
    model = Products()
    x = torch.randn(6, 7)
    with fast_on_cpu(model):
        found = model(x)
    for one, other in zip(found, model(x), strict=True):
        assert torch.equal(one, other)


needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@needs_onednn
@torch.no_grad()
def test_onednn_gives_the_same_products_of_float32(monkeypatch):
    monkeypatch.setattr(cpu, "has_slow_products", lambda: True)
    model = Products()
    x = torch.randn(6, 14)[:, ::2]
    seen = []
    linear = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: seen.append(args) or linear(*args))
    with fast_on_cpu(model):
        found = model(x)
    assert len(seen) == 2, "the linear layer and addmm"
    for one, other in zip(found, model(x), strict=True):
        assert_close(one, other)


def test_onednn_leaves_alone_what_it_cannot_do():
    layer = nn.Linear(7, 5)
    assert onednn_linear(torch.randn(6, 7), layer.weight).requires_grad
    with torch.no_grad():
        for x in (torch.randn(7), torch.randn(0, 7), torch.randn(2, 0, 7)):
            assert torch.equal(onednn_linear(x, layer.weight, layer.bias), layer(x))
        double = layer.double()
        x = torch.randn(6, 7).double()
        assert torch.equal(onednn_linear(x, double.weight, double.bias), double(x))


@needs_onednn
@torch.no_grad()
def test_onednn_gives_the_same_whatever_the_strides_and_shapes(monkeypatch):
    monkeypatch.setattr(cpu, "has_slow_products", lambda: True)
    x, weight = torch.randn(6, 7), torch.randn(5, 7)
    for bias in (torch.randn(10)[::2], torch.randn(1).expand(5), torch.randn(1), torch.randn(6, 5)):
        assert_close(onednn_linear(x, weight, bias), nn.functional.linear(x, weight, bias))
        with fast_on_cpu(Products()):
            found = torch.addmm(bias, x, weight.t())
        assert_close(found, torch.addmm(bias, x, weight.t()))
    assert_close(onednn_linear(x, weight[0]), nn.functional.linear(x, weight[0]))
    windows = torch.randn(12)
    for one, other in ((x[:, ::2], weight[:, ::2]), (windows.unfold(0, 7, 1), weight), (x, windows.unfold(0, 7, 1))):
        assert_close(onednn_linear(one, other), nn.functional.linear(one, other))


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("hidden", [0, 100])
def test_onednn_gives_the_same_attention(monkeypatch, hidden):
    monkeypatch.setattr(cpu, "has_slow_products", lambda: True)
    query, key, value = (torch.randn(2, 3, 600, 8) for _ in range(3))
    mask = torch.ones(2, 1, 1, 600, dtype=torch.bool)
    mask[1, ..., 600 - hidden :] = False
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    assert_close(cell_by_cell_attention(query, key, value, mask), expected)


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        ({"avx512_f": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_f": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_f": False, "cpu_name": "AMD EPYC"}, False),
        ({}, False),
    ],
)
def test_mkl_is_slow_where_it_leaves_vectors_unused(monkeypatch, capabilities, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert has_slow_products() is slow


def test_compiled_models_and_training_are_left_alone():
    model = Products()
    model.compile(backend="eager")
    with fast_on_cpu(model):
        assert not torch.overrides._get_current_function_mode_stack()


def test_what_the_processor_can_is_asked_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    assert has_fast_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert not has_fast_bfloat16()
    intel = {"avx512_bf16": True, "cpu_name": "Intel Xeon"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: intel)
    assert not has_fast_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: intel | {"amx_bf16": True})
    assert has_fast_bfloat16()
