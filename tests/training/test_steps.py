import torch

from sclm_hf.training.steps import steps


class OneOfTwo:
    """Stands for an accelerator; the other process has `theirs`: batches, of them real ones, cells, labels, stop."""

    num_processes, device = 2, "cpu"

    def __init__(self, *theirs):
        self.theirs = iter(theirs)

    def gather(self, mine):
        return torch.cat([mine, torch.tensor([next(self.theirs)])])


def batch(n_cells, n_ignored=0):
    labels = torch.zeros(n_cells, dtype=torch.long)
    labels[:n_ignored] = -100
    return {"attention_mask": torch.ones(n_cells, 3), "labels": labels}


FILLER = batch(1)


def cut(batches, *theirs, interrupted=False):
    return list(steps(batches, 2, OneOfTwo(*theirs, (0, 0, 0, 0, 0)), lambda: FILLER, lambda: interrupted))


def test_labels_and_cells_are_counted_over_all_processes():
    mine = [batch(4, 1), batch(2), batch(5, 5)]
    first, last = cut(mine, (2, 2, 7, 6, 0), (1, 1, 3, 0, 0))
    assert (first.cells, first.items, first.n_batches, first.interrupted) == (13, 11, 4, False)
    # no label at all counts as one, so that nothing is divided by zero
    assert (last.cells, last.items, last.n_batches) == (8, 1, 2)
    assert first.batches == [(mine[0], 1.0), (mine[1], 1.0)]


def test_a_process_without_a_batch_gets_a_filler_that_does_not_count():
    mine = [batch(4), {}, batch(2)]
    first, last = cut(mine, (2, 2, 6, 6, 0), (2, 2, 3, 3, 1))
    assert first.batches == [(mine[0], 1.0), (FILLER, 0.0)]
    assert (first.cells, first.items, first.n_batches) == (10, 10, 3)
    assert last.batches == [(mine[2], 1.0), (FILLER, 0.0)]
    assert (last.cells, last.n_batches, last.interrupted) == (5, 3, True)


def test_a_wish_to_stop_reaches_the_step():
    assert [step.interrupted for step in cut([batch(1)], (1, 1, 1, 1, 0), interrupted=True)] == [True]


def test_sets_of_classes_that_say_nothing_are_not_counted():
    sets = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    (step,) = cut([{"attention_mask": torch.ones(3, 4), "labels": sets}], (1, 1, 0, 0, 0))
    assert (step.cells, step.items) == (3, 1)
