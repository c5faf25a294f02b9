import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.testing import assert_close

from sclm_hf import LinearConfig, LinearForSequenceClassification, LinearModel

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester


def tiny_config(**changes) -> LinearConfig:
    return LinearConfig(
        **{"vocab_size": VOCAB, "hidden_size": 11, "initializer_range": 0.2, "num_labels": 5} | changes
    )


def tiny_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(BATCH, GENES, dtype=torch.long)
    mask[1, -2:] = mask[5, -1:] = 0
    return {
        "input_ids": torch.randint(1, VOCAB, (BATCH, GENES), generator=generator).masked_fill(mask == 0, 0),
        "expression_values": torch.randn(BATCH, GENES, generator=generator).masked_fill(mask == 0, 0),
        "attention_mask": mask,
    }


class TestLinear(InputTester, ModelTester):
    family = "linear"
    base_class = LinearModel
    head_classes = (LinearForSequenceClassification,)
    needs_values = True

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        return tiny_batch() | ({"labels": torch.arange(BATCH) % 5} if labels else {})

    def without_dropout(self):
        return {}


def test_a_cell_is_the_sum_of_its_genes():
    model, batch = LinearModel(tiny_config()).eval(), tiny_batch()
    output = model(**batch)
    assert output.last_hidden_state is None
    expected = (model.genes.weight[batch["input_ids"]] * batch["expression_values"][..., None]).sum(1)
    assert_close(output.cell_embedding, expected, atol=1e-5, rtol=1e-5)
    one_by_one = model(**batch, output_hidden_states=True)
    assert one_by_one.last_hidden_state.shape == (BATCH, GENES, 11)
    assert_close(one_by_one.cell_embedding, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"), [({"num_hidden_layers": 1}, "no layers"), ({"cell_embedding_size": 4}, "must equal")]
)
def test_configurations_that_contradict_themselves(changes, named):
    with pytest.raises(StrictDataclassError, match=named):
        tiny_config(**changes)
