"""Perturbed cells of an AnnData: chosen, run, and collected in a table."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, ExpressionError
from ...logging import progress_bar, warn
from ...opening.inference import independent_cells
from ...opening.loading import LoadedModel
from ...registry import FAMILIES
from ..running.batches import run_cells
from ..running.prepared_cells import PreparedCells, prepare_cells
from ..running.provenance import check_adata, make_record
from .cells import TokenCells
from .plan import GENES_TO_PERTURB, PerturbationPlan, named_perturbations
from .runs import PerturbationRunner
from .table import PerturbationTable

if TYPE_CHECKING:
    from anndata import AnnData

    from ...tokenization.processing_cell import CellProcessor
    from ..perturb import PerturbSettings, States
    from ..running.verb import Verb


def perturb_cells(
    adata: "AnnData",
    verb: "Verb",
    model: Any,
    processor: "CellProcessor | None",
    settings: "PerturbSettings",
) -> "AnnData":
    """Perturb genes of cells; arguments, results and errors are those of [`perturb`]."""
    check_adata(adata)
    if not adata.n_obs:
        raise ExpressionError("There are no cells: the AnnData has 0 rows.")
    states = settings.states
    _check_states(adata, states)
    if settings.donor_key is not None:
        _check_donors(adata, settings.donor_key)
    loaded = verb.load(model, processor, settings)
    check_model(loaded, verb)
    cells = prepare_cells(adata, loaded, layer=settings.layer, species=settings.species, batch_key=settings.batch_key)
    perturbations = named_perturbations(adata, loaded, cells, settings)
    wanted = {token for _, tokens in perturbations for token in tokens}
    named = settings.genes != "all"
    tokens = TokenCells(loaded, cells, settings.seed, wanted if named else None)
    plan = PerturbationPlan(perturbations, tokens, settings.mode, not named, loaded.processor)
    measured = set(cells.gene_ids.tolist())
    absent = [name for name, group in perturbations if not measured.issuperset(group)]
    chosen = _choose_cells(adata, plan, settings, absent)
    if settings.similarity is None:
        is_mean = getattr(loaded.model.config, "pooling", None) == "mean"
        settings = dataclasses.replace(settings, similarity="genes" if is_mean else "cell")
    runner = PerturbationRunner(
        loaded,
        tokens,
        settings.mode,
        settings.similarity,
        states=_state_embeddings(adata, loaded, cells, settings),
        gene_effects=settings.gene_effects,
        batch_size=settings.batch_size,
        names=cells.names,
        batch_labels=cells.batch_labels,
    )
    n_expressing = plan.n_expressing(chosen)
    if named and settings.mode == "delete":
        _report_absent([name for name, _ in perturbations], n_expressing)
    table = PerturbationTable(adata, perturbations, chosen, runner.states, loaded.processor)
    with independent_cells(loaded.model), progress_bar(total=len(chosen), desc=verb.name, unit="cell") as bar:
        seen: set[int] = set()
        for results in runner(plan.runs(chosen)):
            table.add(results)
            before = len(seen)
            seen.update(run.cell for run in results.runs)
            bar.update(len(seen) - before)
    entry = make_record(loaded, cells, settings.to_record())
    goal = None if states is None else states.goal
    return table.finish(entry, n_expressing, goal, settings.donor_key, settings.seed)


def check_model(loaded: LoadedModel, verb: "Verb") -> None:
    """Refuse a model whose cells cannot be perturbed.

    Raises:
        ConfigurationError: its tokens are no genes.
    """
    family = FAMILIES[loaded.model.config.model_type]
    if not verb.serves(family):
        able = ", ".join(sorted(one.name for one in FAMILIES.values() if verb.serves(one)))
        raise ConfigurationError(f"Cells of {family.title} cannot be perturbed token by token; those of {able} can.")


def _choose_cells(
    adata: "AnnData", plan: PerturbationPlan, settings: "PerturbSettings", absent: list[str]
) -> list[int]:
    """Numbers of the cells to perturb, in order; `absent` are the perturbations of genes that the data lack."""
    states, max_cells = settings.states, settings.max_cells
    candidates = range(plan.n_cells)
    if states is not None:
        candidates = np.flatnonzero((adata.obs[states.key].astype(str) == states.start).to_numpy()).tolist()
    able = [cell for cell in candidates if plan.has_runs(cell)]
    if not able:
        raise ConfigurationError(
            f"None of the {len(candidates):,} cells holds the genes to perturb among its tokens, and others beside "
            f"them: nothing can be run.{_how_to_run(absent, settings)}"
        )
    if max_cells is not None and max_cells < len(able):
        able = np.array(able)[np.random.default_rng(settings.seed).permutation(len(able))[:max_cells]].tolist()
    return sorted(able)


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


def _check_states(adata: "AnnData", states: "States | None") -> None:
    if states is None:
        return
    if states.key not in adata.obs:
        raise ConfigurationError(
            f"`obs` has no column {states.key!r} with states: expected one of {list(adata.obs.columns)}."
        )
    if len(set(states.names)) < len(states.names):
        raise ConfigurationError(f"Start, goal and other states must differ, got {', '.join(states.names)}.")
    there = set(adata.obs[states.key].astype(str))
    needed = {states.start} if states.embeddings is not None else set(states.names)
    if absent := sorted(needed - there):
        raise ConfigurationError(
            f"`obs[{states.key!r}]` has no cell of the state {absent[0]!r}: it holds {', '.join(sorted(there)[:10])}."
        )
    if states.embeddings is not None and (lacking := [name for name in states.names if name not in states.embeddings]):
        raise ConfigurationError(f"`embeddings` of the states lacks {', '.join(lacking)}.")


def _check_donors(adata: "AnnData", donor_key: str) -> None:
    if donor_key not in adata.obs:
        raise ConfigurationError(
            f"`obs` has no column {donor_key!r} with donors: `donor_key` (`--donor-key`) must be one of "
            f"{list(adata.obs.columns)}."
        )
    if n_missing := int(adata.obs[donor_key].isna().sum()):
        raise ConfigurationError(
            f"{n_missing:,} of {adata.n_obs:,} cells have no donor in `obs[{donor_key!r}]`: fill them in, or leave "
            "these cells out."
        )


def _report_absent(names: list[str], n_expressing: np.ndarray) -> None:
    if absent := [name for name, number in zip(names, n_expressing, strict=True) if not number]:
        warn(
            f"{len(absent):,} of {len(names):,} perturbations were not run, because none of the cells to perturb "
            f"expresses their genes: {', '.join(absent[:5])}; the result leaves them out."
        )


def _state_embeddings(
    adata: "AnnData", loaded: LoadedModel, cells: PreparedCells, settings: "PerturbSettings"
) -> dict[str, np.ndarray]:
    states = settings.states
    if states is None:
        return {}
    if states.embeddings is not None:
        return {name: np.asarray(states.embeddings[name], np.float32) for name in states.names}
    embedding = run_cells(
        loaded,
        cells,
        lambda model, batch: model(**batch).cell_embedding,
        batch_size=settings.batch_size,
        seed=settings.seed,
        description="states",
    )
    of_cell = adata.obs[states.key].astype(str).to_numpy()
    return {name: embedding[of_cell == name].mean(axis=0) for name in states.names}
