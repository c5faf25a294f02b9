"""Classes explained by a task-specific model that reads a number for each gene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, require
from ...logging import counted, progress_bar, warn
from ...opening.partners import label_names
from ...tokenization.encodings.keys import Stream, cell_keys, hash_names, uniforms_for
from ...versions import package_versions
from ..files.h5ad import write_h5ad
from ..perturbation.intervals import describe_intervals
from ..running.provenance import PACKAGES, check_adata, writable
from ..running.specialists import open_specialist
from .curves import FRACTIONS, RANDOM, Curves, curve_records
from .explaining import MOST_GAP, check_per_cell, summary
from .values import ValueReader

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ..explain import ExplainSettings
    from ..running.verb import Verb


def explain_by_specialist(
    adata: "AnnData", verb: "Verb", model: Any, processor: Any, given: Mapping[str, Any]
) -> "DataFrame":
    """A table of genes; arguments, results and errors are those of [`explain`]."""
    check_adata(adata)
    loaded, _ = open_specialist(verb, model, processor, given)
    settings = verb.choose(given)
    if settings.per_cell is not None:
        check_per_cell(Path(settings.per_cell))
    names = label_names(loaded.model.config)
    if settings.label is not None and settings.label not in names:
        raise ConfigurationError(
            f"`label` (`--label`) {settings.label!r} is no class of `{loaded.name}`: it knows {', '.join(names)}."
        )
    reader = ValueReader(loaded.model, settings.batch_size)
    if "attention" in settings.method_names and not reader.has_attention:
        raise ConfigurationError(
            f"{loaded.record.title} has no attention between genes: leave `attention` out of `methods` (`--methods`)."
        )
    run = _Explanation(reader, adata, loaded.processor, names, settings)
    table = run.table()
    table.attrs["explain"] = writable(
        {
            "model": loaded.name,
            "revision": loaded.revision,
            "family": loaded.record.name,
            "settings": settings.to_record(),
            "versions": package_versions(*PACKAGES),
        }
    )
    table.attrs["explain"] |= run.facts()
    table.attrs["fractions"] = FRACTIONS.tolist()
    table.attrs["curves"] = run.curve_records()
    if settings.per_cell is not None:
        write_h5ad(run.per_cell(), settings.per_cell)
    return table


class _Explanation:
    """Scores of the genes of cells, and the curves that test them.

    Args:
        reader: runs the model.
        adata: the cells.
        processor: makes numbers of them.
        names: names of the classes.
        settings: those of the verb.
    """

    def __init__(
        self, reader: ValueReader, adata: "AnnData", processor: Any, names: Sequence[str], settings: "ExplainSettings"
    ) -> None:
        self._reader, self._names, self._settings = reader, names, settings
        self._genes = np.array(processor.genes, object)
        values = processor(adata)["expression_values"]
        self._mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        wanted = self._wanted(settings.gene_names)
        labels = self._labels(values)
        rows = self._rows(values, wanted, labels)
        self._values, self._labels_of = values[rows], labels[rows]
        self._scored = wanted & (self._values != 0)
        self._obs_names = np.asarray(adata.obs_names)[rows]
        with progress_bar(total=len(settings.method_names), desc="explain", unit="method") as bar:
            self._scores = {}
            for name in settings.method_names:
                self._scores[name] = self._score(name)
                bar.update(1)

    def _wanted(self, given: Sequence[str] | None) -> np.ndarray:
        """(genes,) bool, those to score."""
        if given is None:
            return np.ones(len(self._genes), bool)
        if absent := [name for name in given if name not in set(self._genes)]:
            raise ConfigurationError(
                f"`genes` (`--genes`): {len(absent):,} of {len(given):,} ({', '.join(absent[:5])}) are not read by "
                f"the model. It reads {len(self._genes):,} genes, such as {', '.join(map(repr, self._genes[:3]))}."
            )
        return np.isin(self._genes, list(given))

    def _labels(self, values: np.ndarray) -> np.ndarray:
        """(cells,) number of the class that is explained."""
        if self._settings.label is not None:
            return np.full(len(values), self._names.index(self._settings.label))
        return self._reader.logits(values).argmax(axis=1)

    def _rows(self, values: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The cells to explain.

        Raises:
            ConfigurationError: none expresses two genes, of which one is to be scored.
        """
        rng, most, chosen = np.random.default_rng(self._settings.seed), self._settings.max_cells, []
        for label in np.unique(labels):
            of_label = np.flatnonzero(labels == label)
            drawn = most is not None and len(of_label) > most
            chosen.append(rng.choice(of_label, most, replace=False) if drawn else of_label)
        rows = np.sort(np.concatenate(chosen))
        expressed = values[rows] != 0
        kept = rows[(expressed.sum(axis=1) > 1) & (expressed & wanted).any(axis=1)]
        if not len(kept):
            raise ConfigurationError(
                f"None of {counted(len(rows), 'cell')} expresses two genes that the model reads, one of them to be "
                "scored: give other cells, or name other `genes` (`--genes`)."
            )
        if n_left := len(rows) - len(kept):
            warn(
                f"{counted(n_left, 'cell')} of {len(rows):,} left out: without two genes, or without one to be scored."
            )
        return kept

    def _score(self, method: str) -> np.ndarray:
        """(cells, genes) scores."""
        if method == "knock_out":
            return self._reader.knock_outs(self._values, self._labels_of, self._scored)
        if method == "attention":
            scores, self._entropy = self._reader.rollout(self._values, self._labels_of)
            return scores
        scores, self._gap = self._reader.integrated_gradients(
            self._values, self._labels_of, self._mean, self._settings.n_steps
        )
        return scores

    def curve_records(self) -> list[dict[str, Any]]:
        """See [`explain`]."""
        keys = cell_keys(hash_names([str(name) for name in self._obs_names]), self._settings.seed, 0)
        random = uniforms_for(keys, Stream.LEAVING, len(self._genes))
        orders = {RANDOM: random, "expression": self._values, **self._scores}
        return curve_records({name: self._curves(scores) for name, scores in orders.items()}, self._settings.seed)

    def _curves(self, scores: np.ndarray) -> Curves:
        found = []
        for cell, label, scored, one in zip(self._values, self._labels_of, self._scored, scores, strict=True):
            edited = _edited(cell, np.flatnonzero(scored), one)
            found.append(self._reader.probabilities(edited, np.full(len(edited), label)))
        found = np.array(found).reshape(len(found), 2, len(FRACTIONS))
        return Curves(found[:, 0], found[:, 1])

    def facts(self) -> dict[str, Any]:
        """What the record says beside model, versions and settings."""
        labels, counts = np.unique(self._labels_of, return_counts=True)
        facts: dict[str, Any] = {
            "n_cells": {self._names[label]: int(count) for label, count in zip(labels, counts, strict=True)},
            "interval": describe_intervals(None),
        }
        if "attention" in self._scores:
            facts["attention_entropy"] = self._entropy
        if "integrated_gradients" in self._scores:
            facts["integrated_gradients_gap"] = self._gap
            if self._gap > MOST_GAP:
                warn(
                    f"Integrated gradients miss {self._gap:.0%} of the change of the log-odds with "
                    f"{self._settings.n_steps} steps: take more `n_steps` (`--n-steps`)."
                )
        return facts

    def table(self) -> "DataFrame":
        """See [`explain`]."""
        pandas = require("pandas", extra="anndata")
        parts = []
        for label in np.unique(self._labels_of):
            rows = self._labels_of == label
            for method, scores in self._scores.items():
                values = np.where(self._scored[rows], scores[rows], np.nan)
                part = summary(pandas, values, self._genes, self._settings.seed)
                part.insert(0, "method", method)
                part.insert(0, "label", self._names[label])
                parts.append(part)
        return pandas.concat(parts, ignore_index=True)

    def per_cell(self) -> "AnnData":
        """Cells and genes with one layer of scores per method, in which genes that were not scored are not stored."""
        anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
        from scipy.sparse import csr_matrix

        rows, columns = np.nonzero(self._scored)
        layers = {
            method: csr_matrix((scores[rows, columns], (rows, columns)), shape=scores.shape)
            for method, scores in self._scores.items()
        }
        obs = pandas.DataFrame(
            {"label": pandas.Categorical([self._names[label] for label in self._labels_of])},
            index=[str(name) for name in self._obs_names],
        )
        return anndata.AnnData(obs=obs, var=pandas.DataFrame(index=self._genes.astype(str)), layers=layers)


def _edited(cell: np.ndarray, scored: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(2 · fractions, genes) the cell at each fraction of deletion, and of insertion; one gene stays at least."""
    order = scored[np.argsort(-scores[scored], kind="stable")]
    n_least = int(len(order) == np.count_nonzero(cell))
    counts = np.rint(FRACTIONS * (len(order) - n_least)).astype(int)
    deleted = [order[:count] for count in counts] + [order[n_least + count :] for count in counts]
    edited = np.tile(cell, (len(deleted), 1))
    for line, genes in zip(edited, deleted, strict=True):
        line[genes] = 0
    return edited
