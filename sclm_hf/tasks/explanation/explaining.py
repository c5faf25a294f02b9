"""Explained cells: chosen, scored, tested, and collected in a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from ...errors import CheckpointError, ConfigurationError, require
from ...files import check_output_file
from ...logging import counted, progress_bar, warn
from ...opening.inference import independent_cells
from ...opening.partners import label_names, model_weight
from ...registry import FAMILIES
from ...tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..files.h5ad import write_h5ad
from ..networks.attention import find_attention
from ..perturbation.intervals import describe_intervals, mean_intervals
from ..perturbation.tokens import separate
from ..running.batches import run_blocks
from ..running.prepared_cells import PreparedCells, prepare_cells
from ..running.provenance import check_adata, make_record
from .curves import FRACTIONS, RANDOM, Curves, curve_records
from .parts import EXPRESSION, ExplainedPart, explain_part, parts_of
from .reading import ClassCell, ClassReader
from .rollout import REMEDY

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...opening.loading import LoadedModel
    from ...sources.cell_source import CellSource
    from ...tokenization.processing_cell import CellProcessor
    from ..explain import ExplainSettings
    from ..files.pieces import Pieces
    from ..running.verb import Verb

_MOST_SCORES = 2**25
"""Scores that are in memory at a time, unless those of a single gene are more."""

MOST_GAP = 0.05
"""Part of the change of the log-odds that integrated gradients may miss without a warning."""


def explain_classes(
    adata: "AnnData", verb: "Verb", model: Any, processor: "CellProcessor | None", settings: "ExplainSettings"
) -> "DataFrame":
    """A table of genes; arguments, results and errors are those of [`explain`]."""
    check_adata(adata)
    if settings.per_cell is not None:
        check_per_cell(Path(settings.per_cell))
    return explain_cells(adata, verb, verb.load(model, processor, settings), settings)


def explain_cells(
    cells: "AnnData | CellSource",
    verb: "Verb",
    loaded: "LoadedModel",
    settings: "ExplainSettings",
    pieces: "Pieces | None" = None,
) -> "DataFrame":
    """A table of genes; results and errors are those of [`explain`].

    Args:
        cells: an AnnData, or a source that was opened, of which those cells are in memory that are explained.
        verb: the verb.
        loaded: the model and its processor.
        settings: the settings.
        pieces: keeps what was found of some cells; those that it has are not run again.
    """
    if settings.per_cell is not None:
        check_per_cell(Path(settings.per_cell))
    wanted = settings.gene_names
    given = check_classifier(loaded, verb, settings)
    prepared = prepare_cells(
        cells, loaded, layer=settings.layer, species=settings.species, batch_key=settings.batch_key
    )
    genes = _ScoredGenes(prepared, wanted)
    labels = _labels(loaded, prepared, given, settings, pieces)
    chosen = _cells(loaded, prepared, genes, labels, settings)
    found = _Explanation(loaded, prepared, settings)
    with independent_cells(loaded.model), progress_bar(total=len(chosen), desc=verb.name, unit="cell") as bar:
        for number, part in enumerate(parts_of(chosen, settings)):
            found.add(part, pieces, number)
            bar.update(len(part))
    names = label_names(loaded.model.config)
    table = found.table(genes, names)
    table.attrs["explain"] = make_record(loaded, prepared, settings.to_record()) | found.facts(names)
    table.attrs["fractions"] = FRACTIONS.tolist()
    table.attrs["curves"] = found.curve_records()
    if settings.per_cell is not None:
        write_h5ad(found.per_cell(genes, names, prepared.names), settings.per_cell)
    return table


def check_classifier(loaded: "LoadedModel", verb: "Verb", settings: "ExplainSettings") -> int | None:
    """Refuse a model whose classes cannot be explained; the number of the class asked for, if one is.

    Raises:
        CheckpointError: its family cannot be explained, or all that is saved with it counts more than the model.
        ConfigurationError: it has no classes, one only, or not this one; or no attention, which is asked for.
    """
    config, known = loaded.model.config, FAMILIES.get(loaded.model.config.model_type)
    if known is None or not verb.serves(known):
        able = ", ".join(sorted(one.name for one in FAMILIES.values() if verb.serves(one)))
        title = config.model_type if known is None else known.title
        raise CheckpointError(f"Classes of {title} cannot be explained gene by gene; those of {able} can.")
    if config.problem_type not in (None, "single_label_classification"):
        raise ConfigurationError(
            f"`{loaded.name}` was trained for `{config.problem_type}`: `explain` takes a model that gives each "
            "cell one of several classes."
        )
    names = label_names(config)
    if len(names) < 2:
        raise ConfigurationError(
            f"`{loaded.name}` knows one class only, {names[0]!r}, which no gene can speak for or against: fine-tune a "
            "model with at least 2 labels (`sclm-hf finetune`)."
        )
    if settings.label is not None and settings.label not in names:
        raise ConfigurationError(
            f"`label` (`--label`) {settings.label!r} is no class of `{loaded.name}`: it knows {', '.join(names)}."
        )
    if "attention" in settings.method_names:
        find_attention(loaded, REMEDY)
    weight = model_weight(loaded)
    if weight == 0:
        raise CheckpointError(
            f"`{loaded.name}` labels cells by its partners alone, and nothing of that comes from the model: fine-tune "
            "one without partners."
        )
    if weight is not None:
        warn(f"`{loaded.name}` labels cells together with partners; explained is the model without them.")
    return None if settings.label is None else names.index(settings.label)


def check_per_cell(path: Path) -> None:
    """Refuse a file for scores of each cell that has another name than `….h5ad`, or cannot be written.

    Raises:
        ConfigurationError: so it is.
    """
    if path.suffix != ".h5ad":
        raise ConfigurationError(
            f"`per_cell` (`--per-cell`) `{path}` must be named `….h5ad`: that is what is written."
        )
    check_output_file(path)


class _ScoredGenes:
    """The genes to score, in the order of the data.

    Raises:
        ConfigurationError: one is not in the data, or not read by the model.
    """

    def __init__(self, prepared: PreparedCells, wanted: Sequence[str] | None) -> None:
        columns = np.flatnonzero(prepared.gene_ids >= 0)
        names = np.array([str(name) for name in prepared.source.genes()[0]], object)[columns]
        if wanted is not None:
            if absent := [name for name in wanted if name not in set(names)]:
                raise ConfigurationError(
                    f"`genes` (`--genes`): {len(absent):,} of {len(wanted):,} ({', '.join(absent[:5])}) are not in "
                    f"the data, or not read by the model. Names must be those of the data, such as "
                    f"{', '.join(map(repr, names[:3]))}."
                )
            chosen = np.isin(names, list(wanted))
            columns, names = columns[chosen], names[chosen]
        # columns that mean one gene are one token, which is named after the first of them
        first = np.sort(np.unique(prepared.gene_ids[columns], return_index=True)[1])
        self.names, self.tokens = names[first], prepared.gene_ids[columns[first]]
        self._place_of = {token: place for place, token in enumerate(self.tokens.tolist())}

    def places(self, ids: np.ndarray) -> list[int]:
        """The place of each gene among those to score."""
        return [self._place_of[token] for token in ids.tolist()]


def _labels(
    loaded: "LoadedModel",
    prepared: PreparedCells,
    given: int | None,
    settings: "ExplainSettings",
    pieces: "Pieces | None",
) -> np.ndarray:
    """(n_cells,) number of the class that is explained."""
    if given is not None:
        return np.full(len(prepared.lengths), given)
    blocks = run_blocks(
        loaded,
        prepared,
        lambda model, batch: model(**batch).logits,
        batch_size=settings.batch_size,
        seed=settings.seed,
        description="classes",
        pieces=None if pieces is None else pieces.named("classes"),
    )
    return np.concatenate([logits.argmax(axis=1) for _, logits in blocks])


def _cells(
    loaded: "LoadedModel",
    prepared: PreparedCells,
    genes: _ScoredGenes,
    labels: np.ndarray,
    settings: "ExplainSettings",
) -> list[ClassCell]:
    """The cells to explain, the longest first.

    Raises:
        ConfigurationError: none has two genes, of which one is to be scored.
    """
    special = list(loaded.processor.tokenizer.gene_vocabulary.special_tokens.values())
    rng, rows = np.random.default_rng(settings.seed), []
    for label in np.unique(labels):
        of_label = np.flatnonzero(labels == label)
        most = settings.max_cells or len(of_label)
        rows.append(rng.choice(of_label, most, replace=False) if len(of_label) > most else of_label)
    numbers, cells = np.sort(np.concatenate(rows)), []
    for number, tokens in zip(
        numbers.tolist(), separate(prepared.tokens(loaded.processor, numbers, settings.seed)), strict=True
    ):
        n_genes = int((~np.isin(tokens.ids, special)).sum())
        scored = np.flatnonzero(np.isin(tokens.ids, genes.tokens))
        if n_genes > 1 and scored.size:
            cells.append(ClassCell(number, int(labels[number]), tokens, scored, n_genes))
    if not cells:
        raise ConfigurationError(
            f"None of {counted(len(numbers), 'cell')} has two genes that the model reads, one of them to be scored: "
            "give other cells, or name other `genes` (`--genes`)."
        )
    if n_left := len(numbers) - len(cells):
        warn(
            f"{counted(n_left, 'cell')} of {len(numbers):,} left out: without two genes, or without one to be scored."
        )
    return sorted(cells, key=lambda cell: (-cell.tokens.ids.size, cell.number))


class _Explanation:
    """Scores of the genes of cells, and the curves that test them."""

    def __init__(self, loaded: "LoadedModel", prepared: PreparedCells, settings: "ExplainSettings") -> None:
        self._settings = settings
        self._keys = cell_keys(prepared.cell_ids, settings.seed, 0)
        self._reader = ClassReader(loaded, prepared.names, prepared.batch_labels, settings.batch_size)
        self._cells: list[ClassCell] = []
        self._scores: dict[str, list[np.ndarray]] = {name: [] for name in settings.method_names}
        self._curves: dict[str, list[Curves]] = {}
        self._sums: list[np.ndarray] = []

    def add(self, cells: Sequence[ClassCell], pieces: "Pieces | None", number: int) -> None:
        """Score the genes of some cells, and test the scores; or take what is kept as piece `number`."""
        found = ExplainedPart.kept(pieces, number, cells, self._settings.method_names)
        if found is None:
            orders = {RANDOM: self._random, EXPRESSION: _expression}
            found = explain_part(self._reader, cells, self._settings, orders)
            if pieces is not None:
                found.keep(pieces, number)
        for name, scores in found.scores.items():
            self._scores[name] += scores
        for name, some in found.curves.items():
            self._curves.setdefault(name, []).append(some)
        if found.sums is not None:
            self._sums.append(found.sums)
        self._cells += cells

    def _random(self, cell: ClassCell) -> np.ndarray:
        ids = cell.tokens.ids[cell.genes].astype(np.int64)
        return uniforms_for(self._keys[[cell.number]], Stream.LEAVING, ids[None])[0]

    def curve_records(self) -> list[dict[str, Any]]:
        """See [`explain`]."""
        # in the order of the cells, so that intervals do not depend on how these were run
        order = np.argsort([cell.number for cell in self._cells])
        joined = {
            name: Curves(*(np.concatenate(one)[order] for one in zip(*parts, strict=True)))
            for name, parts in self._curves.items()
        }
        return curve_records(joined, self._settings.seed)

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """What the record says beside model, versions, settings and coverage."""
        labels, counts = np.unique([cell.label for cell in self._cells], return_counts=True)
        facts: dict[str, Any] = {
            "n_cells": {names[label]: int(count) for label, count in zip(labels, counts, strict=True)},
            "interval": describe_intervals(None),
        }
        if self._sums:
            sums, changes = np.concatenate(self._sums).T
            gap = float(np.abs(sums - changes).sum() / max(np.abs(changes).sum(), np.finfo(np.float32).tiny))
            facts["integrated_gradients_gap"] = gap
            if gap > MOST_GAP:
                warn(
                    f"Integrated gradients miss {gap:.0%} of the change of the log-odds with "
                    f"{self._settings.n_steps} steps: take more `n_steps` (`--n-steps`)."
                )
        return facts

    def table(self, genes: _ScoredGenes, names: Sequence[str]) -> "DataFrame":
        """See [`explain`]."""
        pandas = require("pandas", extra="anndata")
        labels = np.array([cell.label for cell in self._cells])
        parts = []
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            rows = rows[np.argsort([self._cells[row].number for row in rows])]
            for method in self._scores:
                part = _summed(pandas, self._matrix(rows, method, genes).tocsc(), genes.names, self._settings.seed)
                part.insert(0, "method", method)
                part.insert(0, "label", names[label])
                parts.append(part)
        return pandas.concat(parts, ignore_index=True)

    def _matrix(self, rows: Sequence[int], method: str, genes: _ScoredGenes) -> csr_matrix:
        """(rows, genes) scores of some cells; those of genes that were not scored are not stored."""
        cells = [self._cells[row] for row in rows]
        columns = np.concatenate([genes.places(cell.tokens.ids[cell.genes]) for cell in cells])
        starts = np.concatenate([[0], np.cumsum([cell.genes.size for cell in cells])])
        scores = np.concatenate([self._scores[method][row] for row in rows])
        return csr_matrix((scores, columns, starts), shape=(len(cells), len(genes.names)))

    def per_cell(self, genes: _ScoredGenes, names: Sequence[str], obs_names: Sequence[str]) -> "AnnData":
        """Cells and genes with one layer of scores per method, in which genes that were not scored are not stored."""
        anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
        order = np.argsort([cell.number for cell in self._cells])
        cells = [self._cells[place] for place in order]
        layers = {method: self._matrix(order, method, genes) for method in self._scores}
        obs = pandas.DataFrame(
            {"label": pandas.Categorical([names[cell.label] for cell in cells])},
            index=[str(obs_names[cell.number]) for cell in cells],
        )
        return anndata.AnnData(obs=obs, var=pandas.DataFrame(index=genes.names.astype(str)), layers=layers)


def _expression(cell: ClassCell) -> np.ndarray:
    """(genes,) their values in the cell, or their ranks where it has none."""
    return -cell.genes if cell.tokens.values is None else cell.tokens.values[cell.genes]


def _summed(pandas: Any, scores: csc_matrix, names: np.ndarray, seed: int) -> "DataFrame":
    """As [`summary`], of (cells, genes) scores of which those are stored that are known; some genes at a time."""
    step, parts = max(1, _MOST_SCORES // scores.shape[0]), []
    for first in range(0, scores.shape[1], step):
        part = scores[:, first : first + step]
        values = np.full(part.shape, np.nan)
        values[part.indices, np.repeat(np.arange(part.shape[1]), np.diff(part.indptr))] = part.data
        parts.append(summary(pandas, values, names[first : first + step], seed))
    table = pandas.concat(parts, ignore_index=True)
    return table.sort_values("attribution", ascending=False, kind="stable", ignore_index=True)


def summary(pandas: Any, values: np.ndarray, names: np.ndarray, seed: int) -> "DataFrame":
    """Means over cells of the genes that any of them has, the highest first; a row of the table for each.

    Args:
        pandas: the module.
        values: (cells, genes) scores; NaN = not scored.
        names: (genes,) names.
        seed: seed of the intervals.
    """
    counts = np.isfinite(values).sum(axis=0)
    found = np.flatnonzero(counts)
    means = np.nansum(values[:, found], axis=0) / counts[found]
    low, high = mean_intervals(values[:, found], seed=seed)
    table = pandas.DataFrame(
        {
            "gene": names[found],
            "attribution": means,
            "attribution_low": low,
            "attribution_high": high,
            "n_cells": counts[found],
        }
    )
    return table.iloc[np.argsort(-means, kind="stable")]
