"""Training models of perturbations through the one loop: what its cells are, and what it is called with."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.perturbations.screen import Condition, Screen
from ..objectives.complete import CompleteCollator
from ..objectives.perturbation import token_batch
from .arguments import TrainingConfig
from .examples import TrainingExamples
from .loop import TrainingResult, train

if TYPE_CHECKING:
    from ..modeling.cell_set.modeling_cell_set import CellSetForPerturbation
    from ..tokenization.processing_cell import CellProcessor


class PerturbationExamples(TrainingExamples):
    """Examples of perturbed cells.

    Args:
        screen: the cells.
        conditions: those to learn from.
        seed: seed of all draws.
    """

    def __init__(self, screen: Screen, conditions: Sequence[Condition], seed: int) -> None:
        super().__init__(seed)
        self.screen, self.conditions = screen, list(conditions)

    def identity(self) -> str:
        digest = hashlib.sha256(repr((self.conditions, self.screen.genes)).encode())
        for condition in self.conditions:
            digest.update(self.screen.rows(condition).tobytes())
        return digest.hexdigest()

    def _generator(self, epoch: int, example: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, int(example)])


class CellPairs(PerturbationExamples):
    """Each perturbed cell with a control cell of its type, drawn anew in every epoch; tokens and flags.

    Args:
        screen, conditions, seed: see above.
        gene_ids: (n_genes,) ids of the genes of the screen, negative where the model does not know them.
        tokens_of: name of a perturbed gene -> its id.
        processor: of the model.
        max_length: most tokens per cell.
    """

    def __init__(
        self,
        screen: Screen,
        conditions: Sequence[Condition],
        seed: int,
        *,
        gene_ids: np.ndarray,
        tokens_of: dict[str, int],
        processor: "CellProcessor",
        max_length: int,
    ) -> None:
        super().__init__(screen, conditions, seed)
        self._rows = np.concatenate([screen.rows(condition) for condition in self.conditions])
        self._gene_ids, self._max_length = gene_ids, max_length
        self._known = np.flatnonzero(gene_ids >= 0)
        self._tokens = {
            condition: [tokens_of[gene] for gene in screen.parts(condition.perturbation)]
            for condition in self.conditions
        }
        self._pad = processor.tokenizer.pad_token_id, processor.feature_extractor.pad_value

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, examples: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        screen, rows = self.screen, self._rows[examples]
        controls, genes, perturbed = [], [], []
        for example, row in zip(examples, rows, strict=True):
            generator = self._generator(epoch, example)
            condition = Condition(str(screen.contexts[row]), str(screen.perturbations[row]))
            controls.append(generator.choice(screen.controls(condition.context)))
            perturbed.append(self._tokens[condition])
            genes.append(self._draw(generator, self._max_length - len(perturbed[-1])))
        sources, targets = screen.dense(np.array(controls)), screen.dense(rows)
        return token_batch(sources, genes, self._gene_ids, perturbed, *self._pad, targets=targets)

    def _draw(self, generator: np.random.Generator, number: int) -> np.ndarray:
        return self._known if number >= len(self._known) else generator.permutation(self._known)[: max(number, 0)]


class CellSets(PerturbationExamples):
    """Sets of perturbed cells of one condition with as many control cells of its type.

    An epoch takes every perturbed cell once, on average; a condition with fewer cells than a set has some twice.

    Args:
        screen, conditions, seed: see above.
        columns: (genes,) numbers of the genes of the screen that the model reads.
        model: the model, which has the features of the perturbed genes.
    """

    def __init__(
        self,
        screen: Screen,
        conditions: Sequence[Condition],
        seed: int,
        *,
        columns: np.ndarray,
        model: "CellSetForPerturbation",
    ) -> None:
        super().__init__(screen, conditions, seed)
        self._size, self._columns = model.config.cells_per_set, columns
        self._features = {
            condition: model.features_of(screen.parts(condition.perturbation)).cpu().numpy()
            for condition in self.conditions
        }
        numbers = [max(1, round(len(screen.rows(condition)) / self._size)) for condition in self.conditions]
        self._of = np.repeat(np.arange(len(self.conditions)), numbers)

    def __len__(self) -> int:
        return len(self._of)

    def batch(self, examples: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        controls, perturbed, features = [], [], []
        for example in examples:
            generator = self._generator(epoch, example)
            condition = self.conditions[self._of[example]]
            controls.append(self._draw(generator, self.screen.controls(condition.context)))
            perturbed.append(self._draw(generator, self.screen.rows(condition)))
            features.append(self._features[condition])
        return {
            "expression_values": np.stack(controls),
            "perturbation_features": np.stack(features),
            "attention_mask": np.ones((len(examples), self._size), np.int64),
            "labels": np.stack(perturbed),
        }

    def _draw(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """(cells per set, genes) expression of some of the cells."""
        drawn = generator.choice(rows, self._size, replace=len(rows) < self._size)
        return self.screen.dense(drawn)[:, self._columns]


def train_perturbation_model(
    model: Any,
    examples: PerturbationExamples,
    config: TrainingConfig,
    *,
    chosen_by: PerturbationExamples | None = None,
    processor: "CellProcessor | None" = None,
) -> TrainingResult:
    """Train a model of perturbations and save it in `config.output_dir`.

    Args:
        model: the model.
        examples: what it learns from.
        config: the settings.
        chosen_by: examples of perturbations that are not learnt from, which choose the checkpoint.
        processor: saved with the model.

    Raises:
        Those of [`~sclm_hf.training.loop.train`].
    """
    return train(
        model,
        examples,
        CompleteCollator(),
        config,
        eval_corpus=chosen_by,
        processor=processor,
    )
