"""What a new model starts from."""

import pytest

from sclm_hf.opening.new_models import new_config
from sclm_hf.opening.tiny import make_processor

GENES = [f"GENE{number}" for number in range(9)]


@pytest.mark.parametrize("family", ["geneformer", "iseeek", "tgpt"])
@pytest.mark.parametrize(("width", "expected"), [(32, 0.1), (64, 0.08), (128, 0.04), (256, 0.02), (768, 0.02)])
def test_narrow_models_begin_with_larger_weights(family, width, expected):
    processor = make_processor(family, GENES)
    names = ("n_embd", "n_head") if family == "tgpt" else ("hidden_size", "num_attention_heads")
    settings = dict(zip(names, (width, 2), strict=True))
    assert new_config(family, processor, settings).initializer_range == pytest.approx(expected)
    assert new_config(family, processor, settings | {"initializer_range": 0.02}).initializer_range == 0.02


def test_families_with_weights_of_their_own_keep_them():
    assert new_config("scgpt", make_processor("scgpt", GENES), {"hidden_size": 64}).initializer_range == 0.1
    assert new_config("linear", make_processor("linear", GENES), {"hidden_size": 5}).initializer_range == 0.02
