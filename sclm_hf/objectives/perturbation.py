"""Perturbations: from control cells to cells that were perturbed, which are other cells."""

from collections.abc import Sequence

import numpy as np

IGNORE = -100.0


def token_batch(
    controls: np.ndarray,
    genes: Sequence[np.ndarray],
    gene_ids: np.ndarray,
    perturbed: Sequence[Sequence[int]],
    pad_token_id: int,
    pad_value: float,
    targets: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Inputs of a model that reads a token per gene, with a flag for each that says whether it is perturbed.

    The perturbed genes come first, so that nothing cuts them off. One that the data do not measure has the value 0 and
    no target.

    Args:
        controls: (cells, n_genes) log-normalised expression of control cells.
        genes: for each cell, numbers of the measured genes to read; perturbed ones need not be among them.
        gene_ids: (n_genes,) their ids.
        perturbed: for each cell, ids of the perturbed genes.
        pad_token_id: fills shorter cells.
        pad_value: their value.
        targets: (cells, n_genes) expression of perturbed cells.

    Returns:
        `input_ids`, `expression_values`, `perturbation_ids` and `attention_mask`, each (cells, tokens); and `labels`,
        where there are targets.
    """
    column_of = {int(number): column for column, number in enumerate(gene_ids) if number >= 0}
    rows = []
    for own, ids in zip(genes, perturbed, strict=True):
        columns = [column_of.get(number, -1) for number in ids]
        rest = own[~np.isin(own, columns)]
        rows.append((np.array([*ids, *gene_ids[rest]], np.int64), np.array([*columns, *rest], np.int64), len(ids)))
    shape = (len(rows), max(len(ids) for ids, _, _ in rows))
    batch = {
        "input_ids": np.full(shape, pad_token_id, np.int64),
        "expression_values": np.full(shape, pad_value, np.float32),
        "perturbation_ids": np.zeros(shape, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
    }
    labels = np.full(shape, IGNORE, np.float32)
    for row, (ids, columns, n_perturbed) in enumerate(rows):
        batch["input_ids"][row, : len(ids)] = ids
        batch["expression_values"][row, : len(ids)] = np.where(columns < 0, 0, controls[row, columns])
        batch["perturbation_ids"][row, :n_perturbed] = 1
        batch["attention_mask"][row, : len(ids)] = 1
        if targets is not None:
            labels[row, : len(ids)] = np.where(columns < 0, IGNORE, targets[row, columns])
    return batch if targets is None else batch | {"labels": labels}
