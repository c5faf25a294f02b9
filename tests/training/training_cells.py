"""Cells in memory with the two methods that training asks of a corpus, and a model small enough to train in a test."""

import numpy as np
import torch

from sclm_hf.modeling.scgpt.configuration_scgpt import ScGPTConfig
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForMaskedExpression, ScGPTForSequenceClassification

PAD, CLS, GENES = 19, 18, 18
LABEL_NAMES = ("B", "NK", "T")


class CellsInMemory:
    """`n` cells of different lengths; their label shows in which genes they express."""

    def __init__(self, n: int = 26, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.labels = generator.integers(0, 3, n)
        self.cells = []
        for label in self.labels:
            genes = np.arange(GENES)[generator.random(GENES) < np.where(np.arange(GENES) % 3 == label, 0.9, 0.4)]
            values = generator.integers(1, 6, len(genes))
            self.cells.append((np.r_[CLS, genes], np.r_[-2, values].astype(np.float32)))

    def __len__(self) -> int:
        return len(self.cells)

    def batch(self, rows) -> dict[str, np.ndarray]:
        length = max(len(self.cells[row][0]) for row in rows)
        ids = np.full((len(rows), length), PAD)
        values = np.full((len(rows), length), -2.0, np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(self.cells[row][0])], values[i, : len(self.cells[row][1])] = self.cells[row]
        return {
            "input_ids": ids,
            "expression_values": values,
            "attention_mask": (ids != PAD).astype(np.int64),
            "cell_ids": np.asarray(rows, np.int64),
            "labels": self.labels[rows],
        }

    def loader(self, batch_size, *, collator=None, num_workers=0, epoch=0, start=0, rank=0, world_size=1):
        order = np.random.default_rng(epoch).permutation(len(self))[start:]
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for rows in batches[rank::world_size]:
            yield collator(self.batch(rows), epoch)


def tiny_config(**settings) -> ScGPTConfig:
    defaults = {
        "vocab_size": 20,
        "pad_token_id": PAD,
        "cls_token_id": CLS,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_bins": 6,
    }
    return ScGPTConfig(**(defaults | settings))


def masked_model(**settings) -> ScGPTForMaskedExpression:
    torch.manual_seed(0)
    return ScGPTForMaskedExpression(tiny_config(**settings))


def classifier(**settings) -> ScGPTForSequenceClassification:
    torch.manual_seed(0)
    names = dict(enumerate(LABEL_NAMES))
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    return ScGPTForSequenceClassification(tiny_config(**labels, **settings))
