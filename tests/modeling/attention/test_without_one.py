"""Attention in cells that lack one token, beside attention over the tokens that are left."""

import pytest
import torch
from torch.testing import assert_close

from sclm_hf.modeling.common.attention.without_one import attend_whole_cells, attend_without_one

CELLS, TOKENS, HEADS, HEAD_DIM = 3, 9, 2, 5


def attention(query, key, values):
    scores = torch.einsum("qhd,khd->hqk", query, key) * 0.3
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values)


@pytest.mark.parametrize("sharpness", [1, 30, 1000])
@pytest.mark.parametrize("one_cell", [False, True])
def test_it_equals_attention_over_the_others_however_sharp_it_is(sharpness, one_cell):
    generator = torch.Generator().manual_seed(0)
    query, key, values = torch.randn(3, CELLS, TOKENS, HEADS, HEAD_DIM, generator=generator)
    query = query * sharpness
    mask = torch.ones(CELLS, TOKENS, dtype=torch.long)
    mask[1, 7:] = 0
    cells, places = torch.tensor([[1] * 7 if one_cell else [0, 1, 1, 2, 2, 2, 0], [3, 1, 0, 2, 5, 4, -1]])
    found = attend_without_one(attend_whole_cells(query, key, values, mask, 0.3), cells, places)
    # in double precision, what is right
    for cell, place, context in zip(cells.tolist(), places.tolist(), found, strict=True):
        kept = [position for position in range(TOKENS) if position != place and mask[cell, position]]
        expected = attention(query[cell].double(), key[cell, kept].double(), values[cell, kept].double())
        plain = attention(query[cell], key[cell, kept], values[cell, kept])
        rounding = float((plain - expected).abs().max())
        assert_close(context[kept], expected[kept].float(), atol=max(1e-5, 4 * rounding), rtol=0)
