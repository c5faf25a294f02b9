import pytest
import torch
from torch.testing import assert_close

from sclm_hf.modeling.common import performer
from sclm_hf.modeling.common.attention import performer_attention_naive
from sclm_hf.modeling.common.performer import PerformerLayer

BATCH, TOKENS = 3, 23


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return PerformerLayer(20, 3, 16, 44, 37, bias=True, dropout=0.0, norm_eps=1e-5)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(performer, "default_chunk_size", lambda *_: 5)
    monkeypatch.setattr(performer, "FEED_FORWARD_TOKENS", 4)


def written_out(layer, hidden_states, mask):
    attention, x = layer.self_attn, layer.norm1(hidden_states)
    heads = [attention.heads(proj(x)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)]
    attended = performer_attention_naive(*heads, attention.features.projection, key_mask=mask)
    x = hidden_states + attention.o_proj(attended.transpose(1, 2).flatten(2))
    return x + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(x))))


@pytest.mark.parametrize("masked", [False, True])
def test_chunked_layer_equals_the_formula(layer, small_chunks, masked):
    hidden_states = torch.randn(BATCH, TOKENS, 20, requires_grad=True)
    mask = (torch.arange(TOKENS) < 17).expand(BATCH, -1) if masked else None
    expected, result = written_out(layer, hidden_states, mask), layer(hidden_states, mask)
    assert_close(result, expected, atol=1e-5, rtol=1e-5)
    parameters = [hidden_states, *layer.parameters()]
    ours = torch.autograd.grad(result.square().sum(), parameters)
    assert_close(ours, torch.autograd.grad(expected.square().sum(), parameters), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert_close(layer(hidden_states, mask), expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_the_same_when_chunks_are_recomputed(layer, small_chunks, monkeypatch):
    """A chunk that drew other numbers in the backward pass would give gradients of another function."""
    layer.dropout.p = 0.5
    hidden_states = torch.randn(1, TOKENS, 20, requires_grad=True)

    def gradient():
        torch.manual_seed(1)
        return torch.autograd.grad(layer(hidden_states).square().sum(), hidden_states)

    recomputed = gradient()
    monkeypatch.setattr(performer, "recomputed", performer.run_directly)
    assert_close(recomputed, gradient(), atol=1e-5, rtol=1e-5)


def test_weights_are_those_of_the_attention(layer):
    hidden_states = torch.randn(BATCH, TOKENS, 20)
    attention = layer.self_attn
    attended, weights = attention(hidden_states, None, "batch", True)
    assert_close(weights.sum(-1), torch.ones(BATCH, 3, TOKENS))
    values = attention.heads(attention.v_proj(hidden_states))
    assert_close(attention.o_proj((weights @ values).transpose(1, 2).flatten(2)), attended, atol=1e-5, rtol=1e-5)
