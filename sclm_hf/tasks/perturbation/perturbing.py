"""Perturbed cells: chosen, run block by block, and collected in a table."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, ExpressionError
from ...logging import progress_bar, warn
from ...opening.inference import independent_cells
from ...opening.loading import LoadedModel
from ...registry import FAMILIES
from ...sources.cell_source import CellSource
from ...sources.in_memory import InMemorySource
from ...sources.survey import row_blocks
from ..running.batches import run_blocks
from ..running.prepared_cells import PreparedCells, prepare_cells
from ..running.provenance import check_adata, make_record
from .blocks import BlockResults, run_block
from .cells import TokenCells
from .plan import GENES_TO_PERTURB, PerturbationPlan, named_perturbations
from .runs import PerturbationRunner
from .table import PerturbationTable

RUNS_AT_A_TIME = 1024
"""Perturbed cells that are kept as one piece, unless those of a single cell are more."""

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces
    from ..perturb import PerturbSettings, States
    from ..running.verb import Verb


def perturb_cells(
    adata: "AnnData",
    verb: "Verb",
    model: Any,
    processor: "CellProcessor | None",
    settings: "PerturbSettings",
    pieces: "Pieces | None" = None,
) -> "AnnData":
    """Perturb genes of cells; see [`perturb`], and for `pieces` [`perturb_source`]."""
    check_adata(adata)
    if not adata.n_obs:
        raise ExpressionError("There are no cells: the AnnData has 0 rows.")
    _check_columns(adata.obs, settings)
    loaded = verb.load(model, processor, settings)
    source = InMemorySource(adata, settings.layer, expects=loaded.processor.feature_extractor.expects)
    return perturb_source(source, verb, loaded, settings, pieces)


def perturb_source(
    source: CellSource,
    verb: "Verb",
    loaded: LoadedModel,
    settings: "PerturbSettings",
    pieces: "Pieces | None" = None,
) -> "AnnData":
    """Perturb genes of the cells of a source, of which a block is in memory at a time.

    Args:
        source: the cells.
        verb: the verb.
        loaded: the model and its processor.
        settings: the settings.
        pieces: keeps what blocks of cells gave; those that it has are not run again.

    Returns:
        As for [`perturb`].

    Raises:
        SclmError: as for [`perturb`], or a piece cannot be kept.
    """
    check_model(loaded, verb)
    obs, states = source.obs_frame(), settings.states
    _check_columns(obs, settings)
    cells = prepare_cells(source, loaded, species=settings.species, batch_key=settings.batch_key)
    perturbations = named_perturbations(loaded, cells, settings)
    work = _Work(loaded, cells, perturbations, settings)
    blocks, n_expressing, n_runs = work.choose(obs)
    if settings.genes != "all" and settings.mode == "delete":
        _report_absent([name for name, _ in perturbations], n_expressing)
    if settings.similarity is None:
        is_mean = getattr(loaded.model.config, "pooling", None) == "mean"
        settings = dataclasses.replace(settings, similarity="genes" if is_mean else "cell")
    chosen = np.concatenate(blocks)
    n_cells = n_runs + (len(obs) if _embeds_states(settings) else 0)
    with independent_cells(loaded.model), progress_bar(total=n_cells, desc=verb.name, unit="cell") as bar:
        towards = _state_embeddings(obs, loaded, cells, settings, pieces, bar)
        table = PerturbationTable(obs.iloc[chosen], perturbations, chosen.tolist(), towards, loaded.processor)
        for runs, found in work.run(blocks, settings.similarity, towards, pieces, bar):
            table.add(runs, found)
    entry = make_record(loaded, cells, settings.to_record())
    goal = None if states is None else states.goal
    return table.finish(entry, n_expressing, goal, settings.donor_key, settings.seed)


class _Work:
    """The runs of a verb: in which cells, and block by block."""

    def __init__(
        self,
        loaded: LoadedModel,
        cells: PreparedCells,
        perturbations: list[tuple[str, tuple[int, ...]]],
        settings: "PerturbSettings",
    ) -> None:
        self._loaded, self._cells, self._settings = loaded, cells, settings
        self._perturbations, self._named = perturbations, settings.genes != "all"
        self._wanted = {token for _, tokens in perturbations for token in tokens} if self._named else None
        self._plan = PerturbationPlan(perturbations, settings.mode, not self._named, loaded.processor)

    def choose(self, obs: "DataFrame") -> tuple[list[np.ndarray], np.ndarray, int]:
        """The numbers of the cells to perturb, block by block, how many express the genes of each perturbation, and
        how many perturbed cells that makes.

        Raises:
            ConfigurationError: there are none.
        """
        states, max_cells = self._settings.states, self._settings.max_cells
        candidates = np.arange(len(obs))
        if states is not None:
            candidates = np.flatnonzero((obs[states.key].astype(str) == states.start).to_numpy())
        n_runs, n_expressing = np.zeros(len(obs), np.int64), np.zeros(len(self._perturbations), np.int64)
        for tokens, numbers in self._tokens_of(candidates):
            n_runs[numbers] = self._plan.n_runs(tokens)
            n_expressing += self._plan.n_expressing(tokens, numbers[n_runs[numbers] > 0].tolist())
        able = np.flatnonzero(n_runs)
        if not able.size:
            raise ConfigurationError(
                f"None of the {len(candidates):,} cells holds the genes to perturb among its tokens, and others "
                f"beside them: nothing can be run.{_how_to_run(self._absent(), self._settings)}"
            )
        if max_cells is not None and max_cells < len(able):
            order = np.random.default_rng(self._settings.seed).permutation(len(able))
            able = np.sort(able[order[:max_cells]])
            counts = [self._plan.n_expressing(tokens, numbers.tolist()) for tokens, numbers in self._tokens_of(able)]
            n_expressing = np.sum(counts, axis=0)
        return _blocks(able, n_runs[able]), n_expressing, int(n_runs[able].sum())

    def run(
        self,
        blocks: Sequence[np.ndarray],
        similarity: str,
        states: dict[str, np.ndarray],
        pieces: "Pieces | None",
        bar: Any,
    ) -> "Iterator[tuple[list, BlockResults]]":
        """The runs of each block of cells, and what they gave."""
        settings, batch_size = self._settings, self._settings.batch_size
        for number, rows in enumerate(blocks):
            tokens = self._tokens(rows)
            runs = self._plan.runs(tokens)
            found = BlockResults.kept(pieces, number, len(runs), settings.gene_effects)
            if found is not None:
                bar.update(len(runs))
                yield runs, found
                continue
            runner = PerturbationRunner(
                self._loaded,
                tokens,
                settings.mode,
                similarity,
                states=states,
                gene_effects=settings.gene_effects,
                batch_size=batch_size,
                names=self._cells.names,
                batch_labels=self._cells.batch_labels,
            )
            found = run_block(runner, runs, bar)
            # where memory ran out once it would do so again
            batch_size = runner.batch_size
            if pieces is not None:
                found.keep(pieces, number)
            yield runs, found

    def _tokens(self, rows: np.ndarray) -> TokenCells:
        return TokenCells(self._loaded, self._cells, self._settings.seed, self._wanted, rows)

    def _tokens_of(self, rows: np.ndarray) -> Iterator[tuple[TokenCells, np.ndarray]]:
        """The tokens of cells, as many at a time as are read at once, and their numbers."""
        for block in row_blocks(len(rows)):
            yield self._tokens(rows[block]), rows[block]

    def _absent(self) -> list[str]:
        """The perturbations of genes that the data lack."""
        measured = set(self._cells.gene_ids.tolist())
        return [name for name, group in self._perturbations if not measured.issuperset(group)]


def _blocks(cells: np.ndarray, n_runs: np.ndarray) -> list[np.ndarray]:
    """Cells that are run and kept as one piece.

    Args:
        cells: (cells,) their numbers.
        n_runs: (cells,) runs of each.
    """
    block_of = (np.cumsum(n_runs) - n_runs) // RUNS_AT_A_TIME
    return np.split(cells, np.flatnonzero(np.diff(block_of)) + 1)


def check_model(loaded: LoadedModel, verb: "Verb") -> None:
    """Refuse a model whose cells cannot be perturbed.

    Raises:
        ConfigurationError: its tokens are no genes.
    """
    family = FAMILIES[loaded.model.config.model_type]
    if not verb.serves(family):
        able = ", ".join(sorted(one.name for one in FAMILIES.values() if verb.serves(one)))
        raise ConfigurationError(f"Cells of {family.title} cannot be perturbed token by token; those of {able} can.")


def _how_to_run(absent: list[str], settings: "PerturbSettings") -> str:
    """What to change where no cell can be perturbed."""
    if settings.genes == "all":
        return ""
    shown = f"{', '.join(map(repr, absent[:5]))}{', …' if len(absent) > 5 else ''}"
    why = f" {shown} {'is' if len(absent) == 1 else 'are'} not in the data." if absent else ""
    return (
        f"{why} Name genes ({GENES_TO_PERTURB}) that these cells express, or over-express them (`mode='overexpress'`, "
        "`--mode overexpress`)."
    )


def _check_columns(obs: "DataFrame", settings: "PerturbSettings") -> None:
    """Refuse cells that lack the states or donors asked for."""
    if settings.states is not None:
        _check_states(obs, settings.states)
    if settings.donor_key is not None:
        _check_donors(obs, settings.donor_key)


def _check_states(obs: "DataFrame", states: "States") -> None:
    if states.key not in obs:
        raise ConfigurationError(
            f"`obs` has no column {states.key!r} with states: expected one of {list(obs.columns)}."
        )
    if len(set(states.names)) < len(states.names):
        raise ConfigurationError(f"Start, goal and other states must differ, got {', '.join(states.names)}.")
    there = set(obs[states.key].astype(str))
    needed = {states.start} if states.embeddings is not None else set(states.names)
    if absent := sorted(needed - there):
        raise ConfigurationError(
            f"`obs[{states.key!r}]` has no cell of the state {absent[0]!r}: it holds {', '.join(sorted(there)[:10])}."
        )
    if states.embeddings is not None and (lacking := [name for name in states.names if name not in states.embeddings]):
        raise ConfigurationError(f"`embeddings` of the states lacks {', '.join(lacking)}.")


def _check_donors(obs: "DataFrame", donor_key: str) -> None:
    if donor_key not in obs:
        raise ConfigurationError(
            f"`obs` has no column {donor_key!r} with donors: `donor_key` (`--donor-key`) must be one of "
            f"{list(obs.columns)}."
        )
    if n_missing := int(obs[donor_key].isna().sum()):
        raise ConfigurationError(
            f"{n_missing:,} of {len(obs):,} cells have no donor in `obs[{donor_key!r}]`: fill them in, or leave "
            "these cells out."
        )


def _report_absent(names: list[str], n_expressing: np.ndarray) -> None:
    if absent := [name for name, number in zip(names, n_expressing, strict=True) if not number]:
        warn(
            f"{len(absent):,} of {len(names):,} perturbations were not run, because none of the cells to perturb "
            f"expresses their genes: {', '.join(absent[:5])}; the result leaves them out."
        )


def _embeds_states(settings: "PerturbSettings") -> bool:
    return settings.states is not None and settings.states.embeddings is None


def _state_embeddings(
    obs: "DataFrame",
    loaded: LoadedModel,
    cells: PreparedCells,
    settings: "PerturbSettings",
    pieces: "Pieces | None",
    bar: Any,
) -> dict[str, np.ndarray]:
    """State -> (hidden,) float32 embedding: the one given, or the mean over its cells."""
    from ...modeling.common.outputs import cells_alone

    states = settings.states
    if states is None:
        return {}
    if not _embeds_states(settings):
        return {name: np.asarray(states.embeddings[name], np.float32) for name in states.names}
    of_cell = obs[states.key].astype(str).to_numpy()
    sums: dict[str, Any] = dict.fromkeys(states.names, 0.0)
    for block, values in run_blocks(
        loaded,
        cells,
        lambda model, batch: model(**batch, **cells_alone(model)).cell_embedding,
        batch_size=settings.batch_size,
        seed=settings.seed,
        bar=bar,
        pieces=None if pieces is None else pieces.named("states"),
    ):
        for name in states.names:
            sums[name] = sums[name] + values[of_cell[block] == name].sum(axis=0, dtype=np.float64)
    return {name: (total / (of_cell == name).sum()).astype(np.float32) for name, total in sums.items()}
