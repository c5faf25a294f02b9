"""The losses of integration on any encoder."""

import numpy as np
import pytest
import torch
from torch import nn

from sclm_hf.errors import CorpusError
from sclm_hf.modeling.common.losses import elastic_cell_similarity
from sclm_hf.objectives.integration import (
    BatchIntegration,
    ExpressionFromCell,
    IntegrationCollator,
    IntegrationWeights,
)

from ..tasks.tiny import make_model

NOTHING = {"expression": 0, "similarity": 0, "adversary": 0, "labels": 0}


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(4, 80, (6, 9), generator=generator),
        "expression_values": torch.randint(1, 50, (6, 9), generator=generator).float(),
        "attention_mask": torch.ones(6, 9, dtype=torch.long),
        "batch_labels": torch.tensor([0, 1, 0, 1, 0, 1]),
    }


def trained(model=None, num_labels=0, **weights):
    torch.manual_seed(0)
    return BatchIntegration(model or make_model(), 2, num_labels, IntegrationWeights(**(NOTHING | weights)))


def test_the_gradient_of_the_discriminator_is_reversed_for_the_encoder_alone(inputs):
    module = trained(adversary=1.0)
    loss = module(**inputs).loss
    loss.backward()
    encoder = module.encoder.layers[0].linear1.weight
    step = encoder.grad.clone()
    with torch.no_grad():
        encoder += 1e-2 * step / step.norm()
    assert module(**inputs).loss < loss
    told = module.discriminator[-1].weight
    with torch.no_grad():
        encoder -= 1e-2 * step / step.norm()
        told -= 1e-2 * told.grad / told.grad.norm()
    assert module(**inputs).loss < loss


def test_each_loss_counts_its_weight(inputs):
    cell = make_model()(**{name: one for name, one in inputs.items() if name != "batch_labels"}).cell_embedding
    expected = 2 * elastic_cell_similarity(cell, 0.3)
    assert trained(similarity=2.0, similarity_threshold=0.3)(**inputs).loss.item() == pytest.approx(expected.item())
    assert trained()(**inputs).loss == 0
    labels = torch.tensor([0, 1, 2, -100, -100, -100])
    module = trained(num_labels=3, labels=3.0)
    told = nn.functional.cross_entropy(module.classifier(cell)[:3], labels[:3])
    assert module(**inputs, label_numbers=labels).loss.item() == pytest.approx(3 * told.item())
    assert module(**inputs, label_numbers=torch.full((6,), -100)).loss == 0


def test_expression_is_asked_gene_by_gene_and_the_batch_is_told():
    decoder, generator = ExpressionFromCell(4, 5, 2), torch.Generator().manual_seed(0)
    cell, genes = torch.randn(3, 4, generator=generator), torch.randn(7, 5, generator=generator)
    together = decoder(cell, genes, torch.tensor([0, 1, 0]))
    by_cell = decoder(cell, genes.expand(3, -1, -1), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(together, by_cell)
    assert not torch.allclose(together, decoder(cell, genes, torch.tensor([1, 1, 0])))


def test_cells_of_each_batch_go_alone_through_an_encoder_with_norms_of_its_own_for_batches(inputs):
    model = make_model(domain_norm="dsbn", num_batch_labels=2).train()
    module = trained(model, similarity=1.0).train()
    found = module(**inputs).cell_embedding
    rows = inputs["batch_labels"] == 1
    again = make_model(domain_norm="dsbn", num_batch_labels=2).train()
    again.config.hidden_dropout_prob = 0
    for part in (module, again):
        for one in part.modules():
            if isinstance(one, nn.Dropout):
                one.p = 0.0
    model.config.hidden_dropout_prob = 0
    found = module(**inputs).cell_embedding
    alone = again(**{name: one[rows] for name, one in inputs.items()}).cell_embedding
    torch.testing.assert_close(found[rows], alone)


def test_the_collator_asks_for_batches_and_keeps_labels_apart():
    batch = {"cell_ids": np.arange(2), "input_ids": np.ones((2, 3), np.int64), "labels": np.array([0, -100])}
    collator = IntegrationCollator()
    with pytest.raises(CorpusError, match="the batch of each cell"):
        collator(batch)
    assert sorted(collator(batch | {"batch_labels": np.zeros(2, np.int64)})) == [
        "batch_labels",
        "input_ids",
        "label_numbers",
    ]
