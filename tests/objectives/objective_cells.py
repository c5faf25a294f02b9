"""Batches as a corpus hands them out."""

import numpy as np

PAD, CLS = 99, 98
IGNORED = -100


def cells(n=40, seed=0):
    """A batch of `n` cells of 5 to 24 genes, `<cls>` first, values 0 to 5."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 25, n)
    ids = np.full((n, 25), PAD)
    values = np.full((n, 25), -2.0, np.float32)
    for i, length in enumerate(lengths):
        ids[i, : length + 1] = np.r_[CLS, generator.permutation(90)[:length]]
        values[i, : length + 1] = np.r_[-2, generator.integers(0, 6, length)]
    mask = (ids != PAD).astype(np.int64)
    return {
        "input_ids": ids,
        "expression_values": values,
        "attention_mask": mask,
        "cell_ids": generator.integers(-(2**62), 2**62, n),
    }


def rows(batch, chosen):
    return {name: values[chosen] for name, values in batch.items()}
