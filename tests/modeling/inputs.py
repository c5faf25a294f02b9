"""Cells as the models of each family take them, made up."""

import torch
from torch import Tensor

CELLS, GENES = 6, 8


def cells(model) -> dict[str, Tensor]:
    """Six cells of eight of twenty genes; of all genes for scBERT, which knows no others."""
    family, generator = model.config.model_type, torch.Generator().manual_seed(0)
    if family == "cellplm":
        return {"input_ids": torch.arange(GENES), "expression_values": torch.rand(CELLS, GENES, generator=generator)}
    if family == "scbert":
        shape = (CELLS, model.config.num_positions)
        return {"expression_values": torch.randint(1, 5, shape, generator=generator)}
    ids = torch.stack([4 + torch.randperm(16, generator=generator)[:GENES] for _ in range(CELLS)])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family in ("scgpt", "scfoundation"):
        batch["expression_values"] = torch.randint(1, 5, ids.shape, generator=generator).float()
    return batch
