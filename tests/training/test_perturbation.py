import numpy as np
import torch

from sclm_hf.evaluation.perturbations.screen import Condition, Screen
from sclm_hf.objectives.complete import CompleteCollator
from sclm_hf.objectives.perturbation import IGNORE, token_batch
from sclm_hf.opening.perturbation import new_perturbation_model, new_set_model
from sclm_hf.training.perturbation import CellPairs, CellSets

from ..tasks.prediction.screens import GENES, features, make_screen

CONDITIONS = [Condition("all", name) for name in ("GENE1", "GENE2", "GENE0+GENE1")]


def screen():
    cells = make_screen(("GENE1", "GENE2", "GENE0+GENE1", "GENE3"))
    names = cells.obs["perturbation"].astype(str).to_numpy(object)
    return Screen(cells.X, tuple(GENES), names, np.full(len(names), "all", object), "control")


def pairs(max_length=12):
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    _, processor = new_perturbation_model("scgpt", GENES, tiny)
    ids = processor.map_genes(GENES).gene_ids
    tokens = dict(zip(GENES, ids.tolist(), strict=True))
    settings = {"gene_ids": ids, "tokens_of": tokens, "processor": processor, "max_length": max_length}
    return CellPairs(screen(), CONDITIONS, 0, **settings), tokens


def sets():
    table = features()
    model = new_set_model(GENES, table.index, table.to_numpy(np.float32), {"cells_per_set": 8, "hidden_size": 8})
    return CellSets(screen(), CONDITIONS, 0, columns=np.arange(len(GENES)), model=model)


def batches(examples, size=4, **share):
    return list(examples.loader(size, collator=CompleteCollator(), epoch=share.pop("epoch", 1), **share))


def test_perturbed_genes_come_first_whatever_the_length():
    examples, tokens = pairs(max_length=4)
    for batch in batches(examples):
        for ids, flags in zip(batch["input_ids"], batch["perturbation_ids"], strict=True):
            assert set(ids[flags == 1].tolist()) in (
                {tokens["GENE1"]},
                {tokens["GENE2"]},
                {tokens["GENE0"], tokens["GENE1"]},
            )
            assert len(ids) == 4 == len(set(ids.tolist()))


def test_a_perturbed_gene_that_is_not_measured_has_a_token_and_no_target():
    batch = token_batch(
        np.ones((1, 3), np.float32),
        [np.arange(3)],
        np.array([5, 6, 7]),
        [[9, 6]],
        pad_token_id=0,
        pad_value=-2,
        targets=np.full((1, 3), 4, np.float32),
    )
    assert batch["input_ids"].tolist() == [[9, 6, 5, 7]] and batch["perturbation_ids"].tolist() == [[1, 1, 0, 0]]
    assert batch["expression_values"].tolist() == [[0, 1, 1, 1]] and batch["labels"].tolist() == [[IGNORE, 4, 4, 4]]


def test_examples_are_of_seen_conditions_only():
    real = {tuple(row) for condition in CONDITIONS for row in screen().dense(screen().rows(condition)).tolist()}
    for batch in batches(sets()):
        assert {tuple(row) for cells in batch["labels"].tolist() for row in cells} <= real
        controls = {tuple(row) for row in screen().dense(screen().controls("all")).tolist()}
        assert {tuple(row) for cells in batch["expression_values"].tolist() for row in cells} <= controls


def test_processes_and_a_stop_change_no_example():
    for examples in (pairs()[0], sets()):
        whole = batches(examples, 2)
        resumed = batches(examples, 2, start=4)
        shared = [batches(examples, 2, rank=rank, world_size=2) for rank in range(2)]
        for name in ("labels", "expression_values"):
            assert all(torch.equal(a[name], b[name]) for a, b in zip(whole[2:], resumed, strict=True))
            assert all(torch.equal(a[name], b[name]) for a, b in zip(whole[::2], shared[0], strict=True))
            assert all(torch.equal(a[name], b[name]) for a, b in zip(whole[1::2], shared[1], strict=True))


def test_epochs_differ_and_other_cells_have_another_order():
    examples = sets()
    assert not torch.equal(batches(examples)[0]["labels"], batches(examples, epoch=2)[0]["labels"])
    assert examples.order_id(4) != pairs()[0].order_id(4) != pairs()[0].order_id(8)
