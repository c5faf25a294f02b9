"""`perturb`: what deleting or over-expressing genes does to cells, in silico."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError
from ..logging import progress_bar, warn
from ..opening.loading import LoadedModel, load_model
from ..registry import FAMILIES
from .inference import PreparedCells, check_run, independent_cells, prepare_cells, run_cells
from .perturbation.cells import TokenCells
from .perturbation.plan import Genes, PerturbationPlan, named_perturbations
from .perturbation.runs import PerturbationRunner
from .perturbation.table import PerturbationTable
from .perturbation.tokens import MODES
from .running.provenance import check_adata, make_record

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor


@dataclass(frozen=True)
class States:
    """Cells go from one state towards others.

    Args:
        key: column of `obs` with the states.
        start: only cells of this state are perturbed.
        goal: the state that they should move to.
        others: further states to measure against.
        embeddings: state -> (cell_embedding_size,); by default the mean over the cells of the state.
    """

    key: str
    start: str
    goal: str
    others: tuple[str, ...] = ()
    embeddings: Mapping[str, np.ndarray] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.start, self.goal, *self.others)


def perturb(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    genes: Genes = "all",
    mode: str = "delete",
    combine: int = 1,
    anchor: str | None = None,
    states: States | None = None,
    donor_key: str | None = None,
    similarity: str | None = None,
    gene_effects: bool = False,
    max_cells: int | None = None,
    layer: str | None = None,
    species: str = "human",
    batch_size: int = 64,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    seed: int = 0,
    revision: str | None = None,
) -> "AnnData":
    """Perturb genes of cells in silico, and measure how far the model moves each cell.

    As in Theodoris et al., Nature 618, 616-624 (2023): a deleted gene leaves the cell, an over-expressed one goes to
    the top of its ranking, expressed or not. A deletion is run in the cells that express all of its genes, an
    over-expression in all cells. With an encoding that has values, an over-expressed gene gets the cell's highest.

    A cell may express more genes than the model reads. A named gene that was left out of such a cell is put back to be
    deleted, in the place of the one that would have been left out next; that is ours. With `genes="all"` only genes
    that were not left out are perturbed, as published, and `var` says in how many of the cells that express them.

    Args:
        adata: cells; the data are looked for in `layer`, else `layers["counts"]`, `raw`, `X`.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        genes: `"all"`, each gene among a cell's tokens by itself (over-expression leaves out the top one, which stays
            where it is); or names of genes; or name of a group -> names of genes to perturb together.
        mode: `"delete"` or `"overexpress"`.
        combine: perturb all combinations of so many of `genes` together.
        anchor: a gene that is perturbed together with each of `genes`.
        states: cell states; the result then has the shifts towards each, and only cells of the first are perturbed.
        donor_key: column of `obs` with donors, or other independent units: the shifts of a donor's cells count as
            one value, their mean, when they are tested. Otherwise each cell counts, as if cells of one donor were
            independent, and p values are too small where they are not.
        similarity: what is compared before and after: `"genes"`, the mean similarity of the genes that were not
            perturbed, or `"cell"`, the cell embedding. By default as published for the model: `"genes"` where the cell
            embedding is a mean over genes, else `"cell"`.
        gene_effects: add the effects on single genes.
        max_cells: take so many of the cells; `seed=42` takes those that the authors' code takes.
        layer, species, batch_size, device, dtype, seed, revision: as for `embed`.

    Returns:
        A new AnnData of the perturbed cells and the perturbations that were run. `X` holds cosine similarities of each
        cell to itself before, NaN where a perturbation was not run; `layers["shift_<state>"]` the similarity to a
        state, minus the one before; `var` the genes, the number of cells that each was run in (`n_cells`) and of
        those that express its genes (`n_expressing`), and means. With states also `p_value`, Wilcoxon's rank sum of
        the shifts to the goal against those of all other perturbations in the result, over `n_units` cells or donors,
        and `fdr` (Benjamini and Hochberg); NaN with fewer than 3 units or 10 other perturbations. So it asks whether
        a gene shifts cells otherwise than genes do on the whole; not whether it shifts them at all.
        `uns["gene_effects"]` has for each perturbation and other gene the number of cells and the mean similarity;
        `uns["sclm_hf"]["perturb"]` model, versions, settings, coverage and, under `"test"`, what was compared.

    Raises:
        ConfigurationError: settings contradict one another, the model or `obs`; or no cell can be perturbed so.
        GeneCoverageError: the model does not know a gene to perturb, or too few of the data's.
        CheckpointError: the model cannot be read or is incomplete.
        ExpressionError: the data are not what the model's encoding expects.
    """
    check_adata(adata)
    _check_settings(genes, mode, combine, similarity)
    check_run(batch_size, seed)
    _check_states(adata, states, donor_key)
    loaded = load_model(model, "perturb", processor=processor, device=device, dtype=dtype, revision=revision)
    _check_family(loaded)
    cells = prepare_cells(adata, loaded, layer=layer, species=species)
    perturbations = named_perturbations(adata, loaded, cells, genes, combine, anchor, layer, species)
    wanted = {token for _, tokens in perturbations for token in tokens}
    tokens = TokenCells(loaded, cells, seed, None if genes == "all" else wanted)
    plan = PerturbationPlan(perturbations, tokens, mode, genes == "all", loaded.processor)
    chosen = _choose_cells(adata, plan, states, max_cells, seed)
    similarity = similarity or ("genes" if getattr(loaded.model.config, "pooling", None) == "mean" else "cell")
    runner = PerturbationRunner(
        loaded,
        tokens,
        mode,
        similarity,
        states=_state_embeddings(adata, loaded, cells, states, batch_size, seed),
        gene_effects=gene_effects,
        batch_size=batch_size,
        names=cells.names,
    )
    settings = {
        "genes": genes if isinstance(genes, str) else "; ".join(genes),
        "mode": mode,
        "combine": combine,
        "anchor": anchor,
        "states": None if states is None else "; ".join((states.key, *states.names)),
        "donor_key": donor_key,
        "similarity": similarity,
        "max_cells": max_cells,
        "layer": layer,
        "species": species,
        "batch_size": batch_size,
        "seed": seed,
    }
    n_expressing = plan.n_expressing(chosen)
    if genes != "all" and mode == "delete":
        _report_absent([name for name, _ in perturbations], n_expressing)
    table = PerturbationTable(adata, perturbations, chosen, runner.states, loaded.processor)
    with independent_cells(loaded.model), progress_bar(total=len(chosen), desc="perturb", unit="cell") as bar:
        done = -1
        for result in runner(plan.runs(chosen)):
            table.add(result)
            bar.update(result.run.cell != done)
            done = result.run.cell
    goal = None if states is None else states.goal
    return table.finish(make_record(loaded, cells, settings), n_expressing, goal, donor_key)


def _check_settings(genes: Genes, mode: str, combine: int, similarity: str | None) -> None:
    if mode not in MODES:
        raise ConfigurationError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}.")
    if similarity not in (None, "genes", "cell"):
        raise ConfigurationError(f"`similarity` must be 'genes' or 'cell', got {similarity!r}.")
    if isinstance(genes, str) and genes != "all":
        raise ConfigurationError(f"`genes` must be 'all' or a list of names, got {genes!r}: write [{genes!r}].")
    if len(genes) == 0:
        raise ConfigurationError("`genes` is empty: name the genes to perturb, or say 'all'.")
    if combine < 1 or (combine > 1 and not isinstance(genes, Sequence | str)):
        raise ConfigurationError(f"`combine` must be 1 with groups of genes, and at least 1, got {combine}.")
    if combine > 1 and (genes == "all" or combine > len(genes)):
        raise ConfigurationError(f"`combine={combine}` needs at least as many names in `genes`.")


def _check_family(loaded: LoadedModel) -> None:
    name = loaded.model.config.model_type
    if "perturb" not in FAMILIES[name].tasks:
        able = ", ".join(sorted(family.name for family in FAMILIES.values() if "perturb" in family.tasks))
        raise ConfigurationError(
            f"Cells of {FAMILIES[name].title} cannot be perturbed token by token; those of {able} can."
        )


def _choose_cells(
    adata: "AnnData", plan: PerturbationPlan, states: States | None, max_cells: int | None, seed: int
) -> list[int]:
    """Numbers of the cells to perturb, in order."""
    candidates = range(plan.n_cells)
    if states is not None:
        candidates = np.flatnonzero((adata.obs[states.key].astype(str) == states.start).to_numpy()).tolist()
    able = [cell for cell in candidates if plan.has_runs(cell)]
    if not able:
        raise ConfigurationError(
            f"None of the {len(candidates):,} cells holds the genes to perturb among its tokens: nothing can be run."
        )
    if max_cells is not None and max_cells < len(able):
        able = np.array(able)[np.random.default_rng(seed).permutation(len(able))[:max_cells]].tolist()
    return sorted(able)


def _check_states(adata: "AnnData", states: States | None, donor_key: str | None) -> None:
    if states is None:
        if donor_key is not None:
            raise ConfigurationError(
                f"`donor_key` ({donor_key!r}) is the unit of the tests of shifts towards a state: give `states` "
                "(`--state-key`, `--start-state`, `--goal-state`) too, or leave it out."
            )
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
    if donor_key is not None:
        _check_donors(adata, donor_key)


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
    adata: "AnnData",
    loaded: LoadedModel,
    cells: PreparedCells,
    states: States | None,
    batch_size: int,
    seed: int,
) -> dict[str, np.ndarray]:
    if states is None:
        return {}
    if states.embeddings is not None:
        return {name: np.asarray(states.embeddings[name], np.float32) for name in states.names}
    how = {"batch_size": batch_size, "seed": seed, "description": "states"}
    embedding = run_cells(loaded, cells, lambda output: output.cell_embedding, **how)
    of_cell = adata.obs[states.key].astype(str).to_numpy()
    return {name: embedding[of_cell == name].mean(axis=0) for name in states.names}
