from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from sclm_hf.modeling.common.attention import chunked
from sclm_hf.modeling.common.attention.chunked import chunked_attention_forward, chunked_is_faster

SDPA, EAGER = SimpleNamespace(_attn_implementation="sdpa"), SimpleNamespace(_attn_implementation="eager")


@pytest.mark.parametrize("masked", [False, True, "keys"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_equals_fused_attention(monkeypatch, masked, scaling):
    monkeypatch.setattr(chunked, "QUERIES_PER_CHUNK", 5)
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 13, 8) for _ in range(3))
    mask = None
    if masked:
        mask = torch.rand(3, 1, 1 if masked == "keys" else 13, 13) > 0.3
        mask[..., 0] = True
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling).transpose(1, 2)
    result, weights = chunked_attention_forward(None, query, key, value, mask, scaling=scaling)
    assert_close(result, expected, atol=1e-6, rtol=1e-5)
    assert weights is None


def test_is_chosen_where_it_is_faster_only():
    long = torch.zeros(1, 1, chunked.FEWEST_TOKENS, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        assert chunked_is_faster(SDPA, long)
        for config, query in ((EAGER, long), (SDPA, long.float()), (SDPA, long[:, :, 1:])):
            assert not chunked_is_faster(config, query)
    assert not chunked_is_faster(SDPA, long)


def test_bfloat16_is_as_close_as_fused_attention():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 600, 16) for _ in range(3))
    mask = torch.ones(2, 1, 1, 600, dtype=torch.bool)
    mask[1, ..., 500:] = False
    exact = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    result, _ = chunked_attention_forward(None, *half, mask)
    assert F.cosine_similarity(result.float(), exact, dim=-1).min() > 0.999
