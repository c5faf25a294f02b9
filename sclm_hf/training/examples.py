"""Examples that the training loop takes as it takes a corpus."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..corpora.fingerprint import Fingerprint


class Batch(dict):
    """The inputs of a model for some examples.

    Attributes:
        size: how many examples they are.
    """

    size: int = 0


class TrainingExamples(ABC):
    """Examples in an order that is drawn for each epoch.

    What is drawn depends on the seed, the epoch and the example alone, not on batches or processes.

    Args:
        seed: seed of all draws.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples per epoch."""

    @abstractmethod
    def batch(self, examples: np.ndarray, epoch: int) -> dict[str, Any]:
        """The inputs and `labels` of examples."""

    @abstractmethod
    def identity(self) -> str:
        """What tells these examples from others, so that a run does not go on with others."""

    def fingerprint(self) -> Fingerprint:
        """Which cells they are made of, where they can say so."""
        return {}

    def loader(
        self,
        batch_size: int,
        *,
        collator: Any,
        epoch: int,
        start: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """The batches of one process, in an order drawn for the epoch, from example `start` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        for first in range(start + rank * batch_size, len(order), batch_size * world_size):
            examples = order[first : first + batch_size]
            batch = Batch(collator(self.batch(examples, epoch), epoch))
            batch.size = len(examples)
            yield batch

    def order_id(self, batch_size: int, **budget: int) -> str:
        """What identifies the examples and their order."""
        text = repr((batch_size, self.seed, len(self))) + self.identity()
        return hashlib.sha256(text.encode()).hexdigest()[:16]
