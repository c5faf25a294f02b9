"""Cells predicted by models: tokens of genes with flags, or sets of cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, GeneCoverageError
from ...evaluation.perturbations.features import Parts
from ...evaluation.perturbations.screen import Screen
from ...logging import counted, warn
from ...objectives.perturbation import token_batch
from ...opening.perturbation import reads_sets

if TYPE_CHECKING:
    from ...tokenization.processing_cell import CellProcessor

LEAST_KNOWN = 0.3
"""Share of the genes that a model must know."""


class TokenPredictor:
    """Predictions of a model that reads a token per gene.

    Genes that it does not know stay as they are in the control cell. More genes than it reads at once are read in
    several groups, each with the perturbed genes.

    Args:
        model: the model.
        processor: its processor.
        screen: the cells.
        perturbations: what is learnt from and predicted.
        max_length: most tokens at once.
        batch_size: cells at once.
        species: species of the cells.
        seed: seed of the groups.

    Attributes:
        gene_ids: (n_genes,) ids of the genes of the screen, negative for those not known.
        tokens_of: perturbed gene -> its id.
    """

    def __init__(
        self,
        model: Any,
        processor: "CellProcessor",
        screen: Screen,
        perturbations: Sequence[Parts],
        *,
        max_length: int,
        batch_size: int,
        species: str | None,
        seed: int,
    ) -> None:
        self._model, self._batch_size, self._seed = model, batch_size, seed
        self._pad = processor.tokenizer.pad_token_id, processor.feature_extractor.pad_value
        self.gene_ids = processor.map_genes(list(screen.genes), species=species).gene_ids
        _report_unknown(self.gene_ids >= 0)
        names = sorted({gene for parts in perturbations for gene in parts})
        place = {name: column for column, name in enumerate(screen.genes)}
        ids = [self.gene_ids[place[name]] if name in place else -1 for name in names]
        found = processor.tokenizer.gene_vocabulary.map_genes(names, species=species).gene_ids
        # names of one gene point to the first of them
        found = np.where(found < -1, found[np.where(found < -1, -2 - found, 0)], found)
        self.tokens_of = {
            name: int(known if known >= 0 else other) for name, known, other in zip(names, ids, found, strict=True)
        }
        if unknown := [name for name, token in self.tokens_of.items() if token < 0]:
            raise GeneCoverageError(
                f"The model does not know {counted(len(unknown), 'perturbed gene')}, {', '.join(unknown[:5])}: rename "
                "them as in its vocabulary, leave these perturbations out, or use another `method` (`--method`)."
            )
        longest = max(len(parts) for parts in perturbations)
        if max_length <= longest:
            raise ConfigurationError(
                f"`max_length` of {max_length} has no room beside {counted(longest, 'perturbed gene')}: raise it."
            )
        self.max_length = max_length

    def cells(self, parts: Parts, controls: np.ndarray) -> np.ndarray:
        """(cells, n_genes) expression of control cells after a perturbation."""
        import torch

        ids = [self.tokens_of[gene] for gene in parts]
        known = np.flatnonzero((self.gene_ids >= 0) & ~np.isin(self.gene_ids, ids))
        size = self.max_length - len(ids)
        if len(known) > size:
            known = np.random.default_rng(self._seed).permutation(known)
        # the perturbed genes alone, where they are all that is known
        groups = [known[start : start + size] for start in range(0, len(known), size)] or [known]
        column_of = {int(number): column for column, number in enumerate(self.gene_ids) if number >= 0}
        own = [(place, column_of[number]) for place, number in enumerate(ids) if number in column_of]
        result = controls.copy()
        for genes in groups:
            for start in range(0, len(controls), self._batch_size):
                rows = slice(start, start + self._batch_size)
                number = len(controls[rows])
                batch = token_batch(controls[rows], [genes] * number, self.gene_ids, [ids] * number, *self._pad)
                with torch.inference_mode():
                    inputs = {name: torch.from_numpy(values).to(self._model.device) for name, values in batch.items()}
                    predicted = self._model(**inputs, do_sample=False).expression_prediction.float().cpu().numpy()
                result[rows, genes] = predicted[:, len(ids) :]
                for place, column in own if genes is groups[0] else ():
                    result[rows, column] = predicted[:, place]
        return np.maximum(result, 0)


class SetPredictor:
    """Predictions of the set model; genes that it does not know stay as they are in the control cell.

    Args:
        model: the model.
        screen: the cells.
        perturbations: what is learnt from and predicted.

    Raises:
        GeneCoverageError: the data lack genes that it reads, or it knows no features of a perturbed gene.
    """

    def __init__(self, model: Any, screen: Screen, perturbations: Sequence[Parts]) -> None:
        self._model, place = model, {name: column for column, name in enumerate(screen.genes)}
        if absent := [name for name in model.config.genes if name not in place]:
            raise GeneCoverageError(
                f"The data lack {counted(len(absent), 'gene')} that the model reads, such as {absent[0]}: it takes "
                "the genes that it was trained on."
            )
        self.columns = np.array([place[name] for name in model.config.genes])
        _report_unknown(np.isin(np.arange(len(screen.genes)), self.columns))
        known = set(model.config.perturbed_genes)
        if unknown := sorted({gene for parts in perturbations for gene in parts} - known):
            raise GeneCoverageError(
                f"The model knows no features of {counted(len(unknown), 'perturbed gene')}, {', '.join(unknown[:5])}: "
                "leave these perturbations out, or train it with features that have them."
            )

    def cells(self, parts: Parts, controls: np.ndarray) -> np.ndarray:
        """(cells, n_genes) expression of control cells after a perturbation."""
        import torch

        features = self._model.features_of(parts)[None]
        result, size = controls.copy(), self._model.config.cells_per_set
        for start in range(0, len(controls), size):
            rows = slice(start, start + size)
            with torch.inference_mode():
                cells = torch.from_numpy(controls[rows][:, self.columns])[None].to(self._model.device)
                predicted = self._model(cells, features).expression_prediction[0]
            result[rows, self.columns] = predicted.float().cpu().numpy()
        return result


def model_predictor(
    model: Any, processor: "CellProcessor | None", screen: Screen, perturbations: Sequence[Parts], **settings: Any
) -> TokenPredictor | SetPredictor:
    """The predictor of a model; `settings` are those of [`TokenPredictor`]."""
    if reads_sets(model):
        return SetPredictor(model, screen, perturbations)
    return TokenPredictor(model, processor, screen, perturbations, **settings)


def _report_unknown(known: np.ndarray) -> None:
    if known.mean() < LEAST_KNOWN:
        raise GeneCoverageError(f"The model knows {known.sum():,} of the {len(known):,} genes of the data: too few.")
    if not known.all():
        warn(
            f"The model does not know {(~known).sum():,} of the {len(known):,} genes: they stay in predicted cells as "
            "they are in control cells."
        )
