import numpy as np
import pytest
import torch

from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator

from .objective_cells import CLS, IGNORED, PAD, cells, rows


def collator(**settings):
    return MaskedExpressionCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD), **settings)


def test_masks_the_stated_number_of_genes_and_asks_for_their_values():
    batch = cells()
    inputs = collator(mask_ratio=0.4)(batch)
    masked = (inputs["expression_values"] == -1).numpy()
    n_genes = batch["attention_mask"].sum(1) - 1
    assert masked.sum(1).tolist() == [int(n * 0.4) for n in n_genes]
    np.testing.assert_array_equal(inputs["labels"].numpy()[masked], batch["expression_values"][masked])
    assert (inputs["labels"].numpy()[~masked] == IGNORED).all()
    assert not masked[:, 0].any() and not masked[batch["input_ids"] == PAD].any()
    assert set(inputs) == {"input_ids", "expression_values", "attention_mask", "labels"}


def test_the_mask_of_a_cell_belongs_to_the_cell():
    batch = cells()
    together = collator(mask_ratio=(0.2, 0.7), ratio_per="cell")(batch)
    one_by_one = [collator(mask_ratio=(0.2, 0.7), ratio_per="cell")(rows(batch, [i])) for i in range(40)]
    for i, alone in enumerate(one_by_one):
        assert torch.equal(together["labels"][i], alone["labels"][0])
    reordered = rows(batch, np.arange(40))
    reordered["input_ids"] = batch["input_ids"][:, ::-1].copy()
    reordered["expression_values"] = batch["expression_values"][:, ::-1].copy()
    reordered["attention_mask"] = batch["attention_mask"][:, ::-1].copy()
    labels = collator(mask_ratio=0.5)(reordered)["labels"].flip(1)
    assert torch.equal(labels, collator(mask_ratio=0.5)(batch)["labels"])


def test_seed_and_epoch_change_the_mask():
    batch = cells()
    labels = collator()(batch, 0)["labels"]
    assert torch.equal(labels, collator()(batch)["labels"])
    assert not torch.equal(labels, collator()(batch, 1)["labels"])
    assert not torch.equal(labels, collator(seed=1)(batch, 0)["labels"])
    later = collator()
    later.set_epoch(1)
    assert torch.equal(later(batch)["labels"], collator()(batch, 1)["labels"])


def test_every_gene_is_masked_equally_often():
    batch = rows(cells(), [0])
    n = int(batch["attention_mask"].sum()) - 1
    masked = sum((collator(mask_ratio=0.5)(batch, epoch)["labels"] != IGNORED).double() for epoch in range(2000))
    share = masked[0, 1 : n + 1] / 2000
    assert (share - int(n * 0.5) / n).abs().max() < 0.05


def test_one_of_several_ratios_is_drawn_per_batch():
    batch = cells()
    n_genes = batch["attention_mask"].sum(1) - 1
    counts = [
        (collator(mask_ratio=(0.25, 0.75))(batch, epoch)["labels"] != IGNORED).sum(1).tolist() for epoch in range(20)
    ]
    low, high = ([int(n * ratio) for n in n_genes] for ratio in (0.25, 0.75))
    assert all(count in (low, high) for count in counts)
    assert low in counts and high in counts


def test_a_ratio_per_batch_is_that_of_its_first_cell():
    batch = cells()
    alone = [
        (collator(mask_ratio=(0.25, 0.75))(rows(batch, [i]))["labels"] != IGNORED).sum().item() for i in range(40)
    ]
    n_genes = batch["attention_mask"].sum(1) - 1
    for i in range(4):
        together = (collator(mask_ratio=(0.25, 0.75))(rows(batch, [i, 7]))["labels"] != IGNORED).sum(1).tolist()
        ratio = 0.25 if alone[i] == int(n_genes[i] * 0.25) else 0.75
        assert together == [alone[i], int(n_genes[7] * ratio)]
    assert len({alone[i] == int(n_genes[i] * 0.25) for i in range(4)}) == 2


def test_zeros_are_masked_only_when_asked():
    batch = cells()
    labels = collator(mask_ratio=0.5, mask_zeros=False)(batch)["labels"]
    assert (labels == 0).sum() == 0 and (labels > 0).any()
    assert (collator(mask_ratio=0.5)(batch)["labels"] == 0).any()


def test_single_cells_are_padded_like_a_batch():
    batch = cells()
    singles = [
        {
            name: values[i] if values.ndim == 1 else values[i][: batch["attention_mask"][i].sum()]
            for name, values in batch.items()
        }
        for i in range(40)
    ]
    longest = batch["attention_mask"].sum(1).max()
    padded, expected = collator()(singles), collator()(batch)
    for name, tensor in padded.items():
        assert torch.equal(tensor, expected[name][:, :longest]), name


def test_missing_cell_ids_and_wrong_ratios_are_refused():
    batch = cells()
    del batch["cell_ids"]
    with pytest.raises(CorpusError, match="remove_unused_columns"):
        collator()(batch)
    with pytest.raises(ConfigurationError, match="mask_ratio"):
        collator(mask_ratio=1.0)
    with pytest.raises(ConfigurationError, match="ratio_per"):
        collator(ratio_per="gene")
