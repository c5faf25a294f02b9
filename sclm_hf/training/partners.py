"""What a model is up against: linear baselines on the same cells, which it is weighed with and saved together with."""

import copy
import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..corpora.cell_corpus import CellCorpus
from ..errors import ConfigurationError, require
from ..evaluation.baselines.linear import LinearBaseline
from ..evaluation.baselines.measured import Measured, measured_in
from ..evaluation.ensembles import choose_weights
from ..evaluation.metrics import Predictions
from ..evaluation.reports import ResultsTable, compare
from ..files import model_replaced
from ..logging import get_logger, quiet_transformers
from ..opening.files import ADAPTER_CONFIG
from ..opening.partners import MODEL, PARTNERS_FILE, PARTNERS_FOLDER, SAVED, combined, write_partners
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from .callbacks import LossLog
from .counts import ABSENT, counts_in_order, labels_in_order
from .linear import BASELINES, as_linear_model
from .loop import chosen_on_these

logger = get_logger(__name__)

TITLES = {
    "zscored": "z-scored logistic regression",
    "pca": "PCA + logistic regression",
    "scaled_pca": "scaled PCA + logistic regression",
    MODEL: "model alone",
    "ensemble": SAVED,
}

MOST_CELLS = 10_000
"""Baselines are fitted on so many cells at most, drawn from every label."""

MOST_FOLDED = 3_000
"""With more cells to train on a part of them is held out, instead of several parts in turn."""

MOST_FOLDS, HELD_OUT = 5, 0.2


@dataclass(frozen=True)
class Comparison:
    """A model beside linear baselines, on cells that none of them saw.

    Attributes:
        weights: weights of the log-probabilities of the saved annotator, by name.
        table: macro-F1 and accuracy of each, with intervals.
        per_label: method -> label -> F1.
        n_cells: cells of each label among those tested.
        tested_on: which cells these are.
        caveats: how far the scores depend on choices made on the same cells.
        fitted_after: the partners that are saved were fitted on these cells too, once they were tested.
    """

    weights: dict[str, float]
    table: ResultsTable
    per_label: dict[str, dict[str, float]]
    n_cells: dict[str, int]
    tested_on: str
    caveats: tuple[str, ...] = ()
    fitted_after: bool = False

    def macro_f1(self, method: str) -> float:
        """Macro-F1 of a method, by its key in `TITLES`."""
        found = (one for one in self.table.results if one.method == TITLES[method] and one.metric == "macro_f1")
        return next(found).mean

    def verdict(self) -> str:
        """In plain words: whether the model is worth it, and what `annotate` will use."""
        best = max(BASELINES, key=self.macro_f1)
        ours, theirs = self.macro_f1(MODEL), self.macro_f1(best)
        how = "below" if ours < theirs else "above" if ours > theirs else "level with"
        names = [f"{TITLES[name]} ({weight:g})" for name, weight in self.weights.items()]
        return (
            f"The model alone (macro-F1 {ours:.3f}) is {how} {TITLES[best]} ({theirs:.3f}) on {self.tested_on}; "
            f"`annotate` uses {' and '.join(names)}, macro-F1 {self.macro_f1('ensemble'):.3f} there."
        )

    def summary(self) -> str:
        """The scores as text, those of each label included, the verdict and the caveats."""
        width = max(map(len, [*TITLES.values(), *self.n_cells]))
        accuracy = {one.method: one.mean for one in self.table.results if one.metric == "accuracy"}
        lines = [f"{'':{width}}  macro-F1  accuracy"]
        for name, title in TITLES.items():
            lines.append(f"{title:{width}}  {self.macro_f1(name):8.3f}  {accuracy[title]:8.3f}")
        short = {"zscored": "z-scored", "pca": "PCA", "scaled_pca": "scaled", MODEL: "model", "ensemble": "saved"}
        lines += ["", f"{'F1 of each label':{width}}  {'cells':>6}" + "".join(f"{short[name]:>10}" for name in TITLES)]
        for label, number in self.n_cells.items():
            scores = "".join(f"{self.per_label[name][label]:10.3f}" for name in TITLES)
            lines.append(f"{label:{width}}  {number:6}{scores}")
        return "\n".join([*lines, "", self.verdict(), *self.caveats])

    def note(self) -> str:
        """F1 of each label in one sentence, for a card."""
        ours, alone = self.per_label["ensemble"], self.per_label[MODEL]
        each = [f"{label} {ours[label]:.2f} and {alone[label]:.2f} ({n:,})" for label, n in self.n_cells.items()]
        return f"F1 of each label, {TITLES['ensemble']} and {TITLES[MODEL]} (cells tested): {'; '.join(each)}."

    def to_log(self) -> dict[str, Any]:
        """The scores by method, for the log of a run."""
        accuracy = {one.method: one.mean for one in self.table.results if one.metric == "accuracy"}
        scores = {
            name: {"macro_f1": self.macro_f1(name), "accuracy": accuracy[title], "f1": self.per_label[name]}
            for name, title in TITLES.items()
        }
        return {**scores, "weights": self.weights, "tested_on": self.tested_on, "caveats": list(self.caveats)}

    def to_dict(self) -> dict[str, Any]:
        """The comparison as values that JSON can hold."""
        return dataclasses.asdict(self)


class Rivals:
    """The linear baselines of a run and the cells that they learn from.

    Args:
        corpus: the cells to train on.
        genes: names of the genes of all files.
        species: species of the cells, as for `CellProcessor.map_genes`.
        seed: seed of what is drawn.
    """

    def __init__(
        self,
        corpus: CellCorpus,
        genes: Sequence[str],
        *,
        species: str | None = None,
        seed: int = 0,
    ) -> None:
        self.label_names, self.seed, self.species = corpus.label_names, seed, species
        self.genes = GeneVocabulary.from_genes(genes, ())
        self.labels = labels_in_order(corpus)
        self.counts, self.measured = self.read(corpus)

    def read(self, corpus: CellCorpus) -> tuple[scipy.sparse.csr_matrix, Measured | None]:
        """(n_cells, n_genes) counts of cells, and which were measured (None = all)."""
        return counts_in_order(corpus, self.genes, self.species)

    def and_cells_of(self, corpus: CellCorpus) -> "Rivals":
        """These baselines with more cells to learn from, those of `corpus`."""
        both = copy.copy(self)
        counts, measured = self.read(corpus)
        both.counts = scipy.sparse.vstack([self.counts, counts], format="csr")
        both.labels = np.concatenate([self.labels, labels_in_order(corpus)])
        if self.measured is not None or measured is not None:
            both.measured = measured_in(self.counts, self.measured).and_of(measured_in(counts, measured))
        return both

    def fit(
        self, cells: np.ndarray | None = None, *, names: Collection[str] = tuple(BASELINES)
    ) -> dict[str, LinearBaseline]:
        """The baselines, fitted on some of the cells to train on (None = all); on `MOST_CELLS` of them at most."""
        cells = np.arange(len(self.labels)) if cells is None else cells
        if len(cells) > MOST_CELLS:
            logger.warning("The baselines are fitted on %s of %s cells.", f"{MOST_CELLS:,}", f"{len(cells):,}")
            cells = cells[evenly(self.labels[cells], MOST_CELLS, seed=self.seed)]
        labels = np.array(self.label_names)[self.labels[cells]]
        given = self.counts[cells], labels, self._measured(cells)
        fitted = {name: baseline().fit(*given) for name, baseline in BASELINES.items() if name in names}
        return {name: knowing_all(baseline, self.label_names) for name, baseline in fitted.items()}

    def log_probabilities(
        self,
        fitted: Mapping[str, LinearBaseline],
        counts: scipy.sparse.csr_matrix,
        measured: Measured | None,
    ) -> dict[str, np.ndarray]:
        """Name -> (n_cells, n_labels) log-probabilities by fitted baselines, of cells as [`read`] gives them."""
        return {name: baseline.predict_log_proba(counts, measured) for name, baseline in fitted.items()}

    def out_of_fold(self, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """Name -> (n_tested, n_labels) log-probabilities of the tested cells of all splits, one after the other."""
        parts = [
            self.log_probabilities(self.fit(train), self.counts[test], self._measured(test)) for train, test in splits
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in BASELINES}

    def _measured(self, cells: np.ndarray) -> Measured | None:
        return None if self.measured is None else self.measured.of(cells)


def compared(
    log_probabilities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    label_names: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    tested_on: str,
    also_chosen: str = "",
    fitted_after: bool = False,
    seed: int = 0,
) -> Comparison:
    """Weigh a model and baselines, and score each of them and all together.

    Weights that are chosen on these cells are not scored on them: see [`cross_fitted`].

    Args:
        log_probabilities: each of `BASELINES`, and `model` -> (n_cells, n_labels), of cells that none of them saw.
        labels: (n_cells,) numbers of the true labels.
        label_names: names of the labels.
        weights: weights that were chosen on other cells; by default they are chosen on these.
        tested_on: which cells these are, for people.
        also_chosen: what else of the model was chosen on these cells, for people.
        fitted_after: partners that are saved are fitted on these cells too, once they were tested.
        seed: seed of the folds in which weights are scored.
    """
    ordered = {name: log_probabilities[name] for name in (*BASELINES, MODEL)}
    chosen = dict(weights or choose_weights(ordered, labels))
    fitted_after = fitted_after and bool(chosen.keys() - {MODEL})
    together = combined(ordered, chosen) if weights else cross_fitted(ordered, labels, seed=seed)
    scores = ordered | {"ensemble": together}
    names = np.array(label_names)
    cells = np.arange(len(labels))
    predicted = {name: names[scores[name].argmax(axis=1)] for name in TITLES}
    methods = {TITLES[name]: [Predictions(tested_on, cells, names[labels], predicted[name])] for name in TITLES}
    present = names[np.unique(labels)]
    comparison = Comparison(
        weights=chosen,
        table=ResultsTable("cells of the training files", tested_on, "cell type annotation", compare(methods)),
        per_label={name: _f1_of_labels(names[labels], predicted[name], present) for name in TITLES},
        n_cells={str(name): int((names[labels] == name).sum()) for name in present},
        tested_on=tested_on,
        caveats=_caveats(cross_fitted=not weights, also_chosen=also_chosen, fitted_after=fitted_after),
        fitted_after=fitted_after,
    )
    comparison.table.notes += [comparison.verdict(), *comparison.caveats, comparison.note()]
    return comparison


def cross_fitted(log_probabilities: Mapping[str, np.ndarray], labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Probabilities of classifiers together, each cell weighed with weights that were chosen without it.

    The cells of each label are dealt to `MOST_FOLDS` folds; the weights of each fold are chosen on the others.

    Args:
        log_probabilities: name -> (n_cells, n_labels), as for `choose_weights`.
        labels: (n_cells,) numbers of the true labels.
        seed: seed of the folds.

    Returns:
        (n_cells, n_labels) probabilities. A single cell, for which nothing can be chosen, gets equal weights.
    """
    parts = _dealt(labels, seed)
    together = np.empty_like(next(iter(log_probabilities.values())))
    for part in np.unique(parts):
        here, others = parts == part, parts != part
        weights = dict.fromkeys(log_probabilities, 1.0)
        if others.any():
            seen = {name: values[others] for name, values in log_probabilities.items()}
            weights = choose_weights(seen, labels[others])
        together[here] = combined({name: values[here] for name, values in log_probabilities.items()}, weights)
    return together


def _dealt(labels: np.ndarray, seed: int) -> np.ndarray:
    """(n_cells,) numbers of the folds that cells are dealt to, label by label."""
    draws = uniforms_for(cell_keys(np.arange(len(labels)), seed, 0), Stream.FOLD, 1)[:, 0]
    parts = np.empty(len(labels), np.int64)
    parts[np.lexsort((draws, labels))] = np.arange(len(labels)) % MOST_FOLDS
    return parts


def _caveats(*, cross_fitted: bool, also_chosen: str, fitted_after: bool) -> tuple[str, ...]:
    found = []
    if cross_fitted:
        found.append(
            f"The {SAVED} is scored by cross-fitting: the weights for each fold of these cells were chosen on the "
            "other folds, the saved weights on all of them."
        )
    if also_chosen:
        found.append(chosen_on_these(also_chosen))
    if fitted_after:
        found.append("The partners that are saved were fitted again, on these cells too.")
    return tuple(found)


def save_partners(
    folder: Path, fitted: Mapping[str, LinearBaseline], comparison: Comparison, genes: Sequence[str]
) -> None:
    """Write `partners.json`, a line of the log, and the baselines that have a weight, as linear models.

    Args:
        folder: folder of the model; they are written into that of its adapter too.
        fitted: the baselines.
        comparison: their weights, and what the file says of them.
        genes: names of the columns that the baselines were fitted on.
    """
    for place in (folder, folder / "adapter"):
        if place == folder or (place / ADAPTER_CONFIG).exists():
            _save_partners(place, fitted, comparison, genes)
    log = LossLog(folder / "training_log.jsonl")
    log.append({"step": max((record["step"] for record in log.read()), default=0), "comparison": comparison.to_log()})


def weigh_out_of_fold(
    rivals: Rivals,
    tested: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    folder: Path,
    *,
    evaluated: tuple[CellCorpus, np.ndarray, np.ndarray] | None = None,
    also_chosen: str = "",
) -> Comparison:
    """Weigh a model by cells to train on that each was tested on without having seen them, and save its partners.

    Args:
        rivals: the baselines.
        tested: (n_tested, n_labels) log-probabilities of the model for the tested cells of all splits.
        splits: cells fitted on and cells tested.
        folder: folder of the model.
        evaluated: other cells to score all on, instead of these: a corpus, the (n_cells, n_labels) log-probabilities
            of the model, and the (n_cells,) labels.
        also_chosen: what else of the model was chosen on the tested cells, for people.

    Returns:
        The comparison.
    """
    places = np.concatenate([test for _, test in splits])
    among = f"{len(places):,} cells in {len(splits)} folds" if len(splits) > 1 else f"{len(places):,} cells held out"
    found = compared(
        rivals.out_of_fold(splits) | {MODEL: tested},
        rivals.labels[places],
        rivals.label_names,
        tested_on=among,
        also_chosen=also_chosen,
        seed=rivals.seed,
    )
    fitted = rivals.fit()
    if evaluated is not None:
        corpus, predicted, labels = evaluated
        theirs = rivals.log_probabilities(fitted, *rivals.read(corpus))
        found = compared(
            theirs | {MODEL: predicted},
            labels,
            rivals.label_names,
            weights=found.weights,
            tested_on=f"{len(labels):,} cells to evaluate on",
        )
    save_partners(folder, fitted, found, list(rivals.genes))
    return found


def weigh_held_out(
    rivals: Rivals,
    predicted: np.ndarray,
    corpus: CellCorpus,
    folder: Path,
    *,
    tested_on: str,
    also_chosen: str = "",
    fit_on_all: bool = False,
) -> Comparison:
    """Weigh a model by cells that were held out, and save its partners.

    Args:
        rivals: the baselines, of the cells that the model was trained on.
        predicted: (n_cells, n_labels) log-probabilities of the model for the cells of `corpus`.
        corpus: the cells held out.
        folder: folder of the model.
        tested_on: what they are called.
        also_chosen: what else of the model was chosen on them, for people.
        fit_on_all: fit the partners again, on these cells too, before they are saved.

    Returns:
        The comparison.
    """
    fitted = rivals.fit()
    theirs = rivals.log_probabilities(fitted, *rivals.read(corpus))
    found = compared(
        theirs | {MODEL: predicted},
        labels_in_order(corpus),
        rivals.label_names,
        tested_on=tested_on,
        also_chosen=also_chosen,
        fitted_after=fit_on_all,
        seed=rivals.seed,
    )
    if fit_on_all:
        fitted = rivals.and_cells_of(corpus).fit(names=found.weights)
    save_partners(folder, fitted, found, list(rivals.genes))
    return found


def _save_partners(
    folder: Path, fitted: Mapping[str, LinearBaseline], comparison: Comparison, genes: Sequence[str]
) -> None:
    # no model is labelled together with partners of an earlier one
    (folder / PARTNERS_FILE).unlink(missing_ok=True)
    for name in comparison.weights.keys() & fitted.keys():
        model, processor = as_linear_model(fitted[name], genes)
        place = folder / PARTNERS_FOLDER / name
        with quiet_transformers(), model_replaced(place, folder / f".{name}.tmp") as unfinished:
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
    write_partners(folder, comparison.weights, {"comparison": comparison.to_dict()})


def folds(labels: np.ndarray, *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cells to fit on and cells to test on: each is tested once, or, of more than `MOST_FOLDED`, a fifth of them.

    Labels are divided evenly.

    Raises:
        ConfigurationError: each label has one cell.
    """
    selection = require("sklearn.model_selection", extra="evaluation")
    counts = np.unique(labels, return_counts=True)[1]
    if counts.max() < 2:
        raise ConfigurationError("Each label has one cell: to be cross-validated, one at least needs two.")
    n_folds = int(min(counts.max(), MOST_FOLDS))
    if len(labels) > MOST_FOLDED:
        n_folds = round(1 / HELD_OUT)
    splitter = selection.StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a label with one cell is tested by a model that does not know it
        warnings.filterwarnings("ignore", "The least populated class")
        splits = list(splitter.split(labels, labels))
    return splits[:1] if len(labels) > MOST_FOLDED else splits


def evenly(labels: np.ndarray, n_cells: int, *, seed: int = 0) -> np.ndarray:
    """(n_cells,) ascending positions of cells drawn from every label in proportion, one at least."""
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        cells = generator.permutation(np.flatnonzero(labels == label))
        place[cells] = np.arange(len(cells)) / len(cells)
    return np.sort(np.argsort(place, kind="stable")[:n_cells])


def knowing_all(baseline: LinearBaseline, labels: Sequence[str]) -> LinearBaseline:
    """A fitted baseline with all labels of a model, in their order; those of no cell get the logit `ABSENT`."""
    columns = [list(labels).index(label) for label in baseline.classes]
    whole = copy.copy(baseline)
    whole.classes = np.array(labels)
    whole.weights, whole.biases = np.zeros((len(baseline.weights), len(labels))), np.full(len(labels), ABSENT)
    whole.weights[:, columns], whole.biases[columns] = baseline.weights, baseline.biases
    return whole


def _f1_of_labels(true: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    metrics = require("sklearn.metrics", extra="evaluation")
    scores = metrics.f1_score(true, predicted, labels=list(labels), average=None, zero_division=0)
    return {str(label): float(value) for label, value in zip(labels, scores, strict=True)}
