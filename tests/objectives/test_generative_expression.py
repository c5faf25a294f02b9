import numpy as np
import torch

from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator

from .objective_cells import CLS, IGNORED, PAD, cells, rows


def collator(**settings):
    return GenerativeExpressionCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD), **settings)


def test_splits_every_cell_without_losing_a_gene():
    batch = cells()
    inputs = collator(mask_ratio=0.5)(batch)
    known = inputs["input_ids"].shape[1]
    for i in range(40):
        real = batch["attention_mask"][i].astype(bool)
        expected = dict(zip(batch["input_ids"][i][real], batch["expression_values"][i][real], strict=True))
        here, there = inputs["attention_mask"][i].bool(), inputs["generation_attention_mask"][i].bool()
        perceived = dict(
            zip(inputs["input_ids"][i][here].tolist(), inputs["expression_values"][i][here].tolist(), strict=True)
        )
        targets = inputs["labels"][i, known:][there].tolist()
        generated = dict(zip(inputs["generation_ids"][i][there].tolist(), targets, strict=True))
        assert perceived | generated == expected and not set(perceived) & set(generated)
        assert len(generated) == int((real.sum() - 1) * 0.5)
        assert inputs["input_ids"][i, 0] == CLS
        assert (inputs["labels"][i, :known] == IGNORED).all()
        assert (inputs["labels"][i, known:][~there] == IGNORED).all()


def test_lengths_are_the_published_ones():
    batch = cells()
    for ratio in (0.25, 0.5, 0.75):
        longest = int(batch["attention_mask"].sum(1).max())
        inputs = collator(mask_ratio=ratio)(batch)
        assert inputs["generation_ids"].shape[1] == int((longest - 1) * ratio)
        assert inputs["input_ids"].shape[1] == longest - int((longest - 1) * ratio)


def test_a_cell_is_split_alike_in_every_batch():
    batch = cells()
    together = collator(mask_ratio=0.5)(batch)
    for i in range(40):
        alone = collator(mask_ratio=0.5)(rows(batch, [i]))
        n = int(alone["generation_attention_mask"].sum())
        assert torch.equal(together["generation_ids"][i, :n], alone["generation_ids"][0, :n])


def test_a_batch_without_genes_to_generate_keeps_its_shape():
    batch = rows(cells(), [0, 1])
    real = np.arange(25) < 2
    batch = {name: values[:, real] if values.ndim == 2 else values for name, values in batch.items()}
    inputs = collator(mask_ratio=0.5)(batch)
    assert inputs["generation_ids"].shape == (2, 1) and inputs["generation_attention_mask"].sum() == 0
    assert (inputs["labels"] == IGNORED).all()


def test_the_second_pass_starts_when_asked():
    assert collator(second_pass_after=3).forward_arguments(2) == {}
    assert collator(second_pass_after=3).forward_arguments(3) == {"generate_from_cell_embedding": True}
    assert collator(second_pass_after=None).forward_arguments(10**6) == {}
