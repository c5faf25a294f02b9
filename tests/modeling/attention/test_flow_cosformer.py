import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from sclm_hf.modeling.common.attention.cosformer import cosformer_attention, cosformer_attention_naive
from sclm_hf.modeling.common.attention.flow import flow_attention, flow_attention_naive

from ..golden import GOLDEN

TWINS = {
    "flow": (flow_attention, flow_attention_naive),
    "cosformer": (cosformer_attention, cosformer_attention_naive),
}


def tokens(count: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, count, 5, generator=generator, dtype=torch.float64)
    return F.gelu(query) + 0.3, F.gelu(key) + 0.3, value


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_equal_the_formula_with_its_gradients(name, chunk_size, masked):
    attention, naive = TWINS[name]
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]) if masked else None
    real = torch.ones(2, 7, dtype=torch.bool) if mask is None else mask.bool()
    results = []
    for function, settings in ((attention, {"chunk_size": chunk_size}), (naive, {})):
        inputs = [x.clone().requires_grad_() for x in tokens()]
        output = function(*inputs, mask=mask, **settings).transpose(1, 2)[real]
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def kept_for_gradients(attention, count: int, **settings) -> int:
    """Bytes that a forward keeps beside its inputs."""
    inputs = [x.clone().requires_grad_() for x in tokens(count)]
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x
    ):
        output = attention(*inputs, **settings)
    for x in (*inputs, output):
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("name", TWINS)
def test_chunks_keep_nothing_but_tables_for_gradients(name):
    attention, naive = TWINS[name]
    short, long = (kept_for_gradients(attention, count, chunk_size=16) for count in (64, 640))
    one = tokens(640)[0].nbytes
    assert long - short < one / 4
    assert kept_for_gradients(naive, 640) > 3 * one


@pytest.mark.parametrize("name", TWINS)
def test_tokens_that_do_not_exist_change_nothing(name):
    attention, _ = TWINS[name]
    inputs = tokens()
    mask = torch.tensor([[1] * 4 + [0] * 3] * 2)
    alone = attention(*(x[:, :, :4] for x in inputs))
    assert_close(attention(*inputs, mask=mask)[:, :, :4], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "moves"), [("flow", False), ("cosformer", True)])
def test_order_matters_to_cosformer_only(name, moves):
    attention, _ = TWINS[name]
    inputs, order = tokens(), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    changed = attention(*(x[:, :, order] for x in inputs)) - attention(*inputs)[:, :, order]
    assert bool(changed.abs().max() > 1e-3) is moves


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        ("flowformer", ("query_projection", "key_projection", "value_projection", "out_projection")),
        ("cosformer", ("q_proj", "k_proj", "v_proj", "out_proj")),
    ],
)
def test_recorded_layers_of_cellplm(layer, names):
    recorded = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "cellplm" / "attention.npz").items()}

    def linear(part, x):
        return F.linear(x, recorded[f"{layer}.{part}.weight"], recorded[f"{layer}.{part}.bias"])

    def norm(part, x):
        return F.layer_norm(x, x.shape[-1:], recorded[f"{layer}.{part}.weight"], recorded[f"{layer}.{part}.bias"])

    hidden = recorded["enc_in"][None]
    normed = norm("norm1", hidden)
    query, key, value = (
        linear(f"self_attn.{name}", normed).unflatten(-1, (4, -1)).transpose(1, 2) for name in names[:3]
    )
    if layer == "cosformer":
        attended = cosformer_attention(F.gelu(query), F.gelu(key), value, chunk_size=5)
    else:
        attended = flow_attention(query, key, value, chunk_size=5)
    hidden = hidden + linear(f"self_attn.{names[3]}", attended.transpose(1, 2).flatten(2))
    hidden = hidden + linear("_ff_block.3", F.gelu(linear("_ff_block.0", norm("norm2", hidden))))
    for call in ("out", "out_call2"):
        expected = recorded[f"{layer}.{call}"]
        # GELU's negative values bring some of cosFormer's denominators to `eps`, and those cells to 5e6: in float64
        # the small entries of these cells are as far from what was recorded
        scale = expected.abs().amax(1, keepdim=True).clamp(min=1)
        assert_close(hidden[0] / scale, expected / scale, rtol=0, atol=1e-5)
