import numpy as np
import pytest
import torch

from sclm_hf.objectives.contrastive import Contrast, ContrastiveCollator, contrastive_loss

from ..training.training_cells import CellsInMemory, classifier

CELLS = torch.tensor([0, 1, 2, 0, 1, 2])


def brute_force(projected, together, compared, temperature=0.1):
    directions = projected / projected.norm(dim=1, keepdim=True)
    losses = []
    for row in range(len(projected)):
        scores = {other: float(directions[row] @ directions[other]) / temperature for other in compared[row]}
        total = np.log(sum(map(np.exp, scores.values())))
        losses.append(np.mean([total - scores[other] for other in together[row]]))
    return np.mean(losses)


def others(row):
    return [other for other in range(6) if other != row]


def test_views_of_a_cell_are_told_from_all_others():
    projected = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = brute_force(projected, [[3], [4], [5], [0], [1], [2]], [others(row) for row in range(6)])
    assert contrastive_loss(projected, CELLS).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(projected, torch.arange(6)).item() == 0


def test_cells_of_one_label_belong_together_and_doubtful_ones_are_left_out():
    projected = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    # a T cell, a CD4 T cell that may be the same, a B cell, another T cell, and two of which nothing is said
    sets = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    together = [[3], [4], [5], [0], [1], [2]]
    compared = [others(row) for row in range(6)]
    compared[0].remove(1), compared[1].remove(0), compared[1].remove(3), compared[3].remove(1)
    cells = torch.tensor([0, 1, 2, 9, 1, 2])
    found = contrastive_loss(projected, cells, torch.tensor(sets, dtype=torch.bool))
    assert found.item() == pytest.approx(brute_force(projected, together, compared), rel=1e-5)


def test_views_keep_the_number_of_their_cell():
    batch = CellsInMemory(4).batch(np.array([3, 1, 3, 1]))
    inputs = ContrastiveCollator()(batch, 0)
    assert inputs["cells"].tolist() == [1, 0, 1, 0] and not {"labels", "cell_ids"} & set(inputs)
    labelled = ContrastiveCollator(label_sets=np.eye(3, dtype=bool))(batch, 0)
    np.testing.assert_array_equal(labelled["labels"].numpy().argmax(1), batch["labels"])


def test_the_encoder_learns_from_it():
    module = Contrast(classifier().model)
    inputs = ContrastiveCollator()(CellsInMemory(4).batch(np.array([0, 1, 0, 1])), 0)
    module(**inputs).loss.backward()
    assert module.kept.get_input_embeddings().weight.grad.abs().sum() > 0
