"""A network of genes: cells and genes chosen, edges scored, compared with known ones."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from ...errors import ConfigurationError, ExpressionError, require
from ...evaluation.baselines.baseline import log1p_cp10k
from ...evaluation.networks import METRICS, KnownPairs, interval, known_pairs, read_network, score_with_intervals
from ...opening.loading import LoadedModel
from ...opening.specialists import LoadedSpecialist
from ...registry.specialists import SPECIALISTS
from ...sources.cell_source import CellSource
from ...sources.cell_subset import some_cells
from ...sources.in_memory import InMemorySource
from ...sources.survey import look_at, row_blocks
from ...tokenization.genes.gene_columns import kind_of
from ...versions import package_versions
from ..clustering.markers import holds_counts
from ..running.gene_names import read_names
from ..running.prepared_cells import prepare_cells
from ..running.provenance import check_adata, make_record
from .deletions import delete_regulators
from .edges import edge_table, signs_of
from .evidence import EVIDENCE, NetworkCells
from .genes import FEWEST_CELLS, GeneMoments, NetworkGenes, choose_genes
from .specialists import load_specialist_for, without_seen

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces
    from ..grn import GrnSettings
    from ..running.verb import Verb


def infer_network(
    adata: "AnnData", verb: "Verb", model: Any, processor: "CellProcessor | None", settings: "GrnSettings"
) -> "DataFrame":
    """A table of edges; arguments, results and errors are those of [`grn`]."""
    check_adata(adata)
    _conditions(adata.obs, settings)
    if settings.evidence in SPECIALISTS and model is not None:
        loaded, settings = load_specialist_for(verb, model, processor, settings)
    else:
        # evidence of cells is then about the genes that the model reads
        loaded = verb.load(model, processor, settings)
    source = InMemorySource(adata, settings.layer, expects=expected_by(loaded))
    return network_of(source, loaded, settings, adata=adata if settings.evidence in SPECIALISTS else None)


def network_of(
    source: CellSource,
    loaded: "LoadedModel | LoadedSpecialist | None",
    settings: "GrnSettings",
    *,
    adata: "AnnData | None" = None,
    pieces: "Pieces | None" = None,
) -> "DataFrame":
    """A table of edges, for which cells are read block by block; results and errors are those of [`grn`].

    Args:
        source: the cells; in memory is the expression of the genes of the network in those that are used.
        loaded: the model; None for evidence that needs none.
        settings: the settings.
        adata: the cells in memory, for a task-specific model.
        pieces: keeps what was computed; what it has is not computed again.
    """
    network = None if settings.network is None else read_network(settings.network)
    wanted = settings.gene_names
    regulators = read_names(settings.regulators, "`regulators` (`--regulators`)")
    rows_of = _conditions(source.obs_frame(), settings)
    used = np.unique(np.concatenate(list(rows_of.values())))
    evidence = EVIDENCE[settings.evidence]
    if loaded is not None:
        evidence.check(loaded, settings)
    cells, record = prepare_network(some_cells(source, used), loaded, settings, wanted, regulators)
    if adata is not None:
        cells = replace(cells, adata=adata[used])
    known = None if network is None else without_seen(_known(network, cells.genes, settings), cells)
    if known is not None:
        known.warn_of_few(str(settings.network))
    groups = {
        name: replace(
            cells.take(np.searchsorted(used, rows)), pieces=None if pieces is None else pieces.named(str(number))
        )
        for number, (name, rows) in enumerate(rows_of.items())
    }
    _refuse_alike(groups)
    if settings.sign == "model":
        deletions = {name: delete_regulators(group) for name, group in groups.items()}
        scores, signs = ({name: one[place] for name, one in deletions.items()} for place in (0, 1))
    else:
        scores = {name: evidence.score(group) for name, group in groups.items()}
        signs = {name: signs_of(group.correlations(), len(group.expression)) for name, group in groups.items()}
    edges = _table(groups, scores, signs, settings)
    edges.attrs["grn"] = {**record, "n_cells": {str(name): len(rows) for name, rows in rows_of.items()}}
    if known is not None:
        edges.attrs["scores"] = _compared(groups, scores, known, settings)
    return edges


def _refuse_alike(groups: dict[str | None, NetworkCells]) -> None:
    """Refuse cells that say nothing of which genes go together."""
    for name, group in groups.items():
        if not np.ptp(group.expression, axis=0).any():
            where = "All" if name is None else f"Of the condition {name!r} all"
            raise ExpressionError(
                f"{where} {len(group.expression):,} cells have the same expression of the genes "
                "of the network: give cells that differ, or other genes."
            )


def expected_by(loaded: "LoadedModel | LoadedSpecialist | None") -> str:
    """What values are looked for, as for `select_counts`."""
    return loaded.processor.feature_extractor.expects if isinstance(loaded, LoadedModel) else "counts"


def _conditions(obs: "DataFrame", settings: "GrnSettings") -> dict[str | None, np.ndarray]:
    """Condition -> numbers of its cells, ascending."""
    key, rng = settings.condition_key, np.random.default_rng(settings.seed)
    rows_of = {None: np.arange(len(obs))} if key is None else _rows_by_condition(obs, key, settings.reference)
    if few := [name for name, rows in rows_of.items() if len(rows) < FEWEST_CELLS]:
        where = "There are" if key is None else f"`obs[{key!r}]` has the condition {few[0]!r} with"
        raise ConfigurationError(
            f"{where} {len(rows_of[few[0]]):,} cells: a network needs at least {FEWEST_CELLS}; "
            f"{'give more' if key is None else 'leave these out'}."
        )
    most = settings.max_cells or len(obs)
    return {
        name: np.sort(rng.choice(rows, most, replace=False)) if len(rows) > most else rows
        for name, rows in rows_of.items()
    }


def _rows_by_condition(obs: "DataFrame", key: str, reference: str | None) -> dict[str, np.ndarray]:
    if key not in obs:
        raise ConfigurationError(
            f"`obs` has no column {key!r}: `condition_key` (`--condition-key`) must be one of {list(obs.columns)}."
        )
    column = obs[key]
    if n_missing := int(column.isna().sum()):
        raise ConfigurationError(f"{n_missing:,} cells have no condition in `obs[{key!r}]`: leave them out.")
    values = column.astype(str).to_numpy()
    names = sorted(set(values))
    if len(names) < 2:
        held = f"one condition only, {names[0]!r}" if names else "no condition"
        raise ConfigurationError(f"`obs[{key!r}]` holds {held}: leave out `condition_key` (`--condition-key`).")
    if reference is not None and reference not in names:
        raise ConfigurationError(
            f"`reference` (`--reference`) {reference!r} is no condition in `obs[{key!r}]`: it holds "
            f"{', '.join(names[:10])}."
        )
    return {name: np.flatnonzero(values == name) for name in names}


def prepare_network(
    source: CellSource,
    loaded: "LoadedModel | LoadedSpecialist | None",
    settings: "GrnSettings",
    wanted: list[str] | None,
    regulators: list[str] | None,
) -> tuple[NetworkCells, dict[str, Any]]:
    """The cells with the expression of the genes of the network, and how they were read.

    Args:
        source: the cells.
        loaded: the model; None where evidence of cells is enough. A task-specific one reads cells by itself.
        settings: the settings.
        wanted: names of the targets; None = the most variable genes.
        regulators: names of the regulators; None = the targets.

    Raises:
        ConfigurationError, ExpressionError, GeneCoverageError: as for [`grn`].
    """
    reads_itself = loaded is None or isinstance(loaded, LoadedSpecialist)
    if reads_itself:
        look_at(source, row_blocks(source.n_cells), "any")
        record = {"settings": settings.to_record(), "data": source.data_name, "versions": package_versions("numpy")}
        if loaded is not None:
            record |= {"model": loaded.name, "revision": loaded.revision, "family": loaded.record.name}
        are_genes = [kind_of(name) is None for name in map(str, source.genes()[0])]
        gene_ids = np.where(are_genes, np.arange(source.n_genes), -1)
    else:
        prepared = prepare_cells(source, loaded, species=settings.species, batch_key=settings.batch_key)
        gene_ids = prepared.gene_ids
        record = make_record(loaded, prepared, settings.to_record())
    normalised = log1p_cp10k if holds_counts(source) else csr_matrix

    def blocks() -> "Iterator[csr_matrix]":
        return (normalised(source.read(rows)) for rows in row_blocks(source.n_cells))

    genes = choose_genes(
        source.genes()[0],
        gene_ids >= 0,
        GeneMoments.of(blocks()),
        genes=wanted,
        n_genes=settings.n_genes,
        regulators=regulators,
    )
    dense = np.concatenate([block[:, genes.columns].toarray().astype(np.float32) for block in blocks()])
    tokens = None if reads_itself else gene_ids[genes.columns]
    return NetworkCells(source, dense, genes, tokens, loaded, settings), record


def _known(network: "DataFrame", genes: NetworkGenes, settings: "GrnSettings") -> KnownPairs:
    return known_pairs(network, genes.names[genes.regulators], genes.names[genes.targets], str(settings.network))


def _against(scores: dict[str | None, np.ndarray], reference: str | None) -> dict[str | None, np.ndarray]:
    """Scores, or their differences from those of a reference."""
    if reference is None:
        return scores
    return {name: values - scores[reference] for name, values in scores.items() if name != reference}


def _table(
    groups: dict[str | None, NetworkCells],
    scores: dict[str | None, np.ndarray],
    signs: dict[str | None, np.ndarray],
    settings: "GrnSettings",
) -> "DataFrame":
    pandas = require("pandas", extra="anndata")
    tables = [
        edge_table(
            values,
            signs[name],
            groups[name].genes,
            evidence=settings.evidence,
            n_edges=settings.n_edges,
            each_pair_once=not EVIDENCE[settings.evidence].is_directed,
            sign_source=settings.sign,
            condition=name,
        )
        for name, values in _against(scores, settings.reference).items()
    ]
    return pandas.concat(tables, ignore_index=True)


def _compared(
    groups: dict[str | None, NetworkCells],
    scores: dict[str | None, np.ndarray],
    known: KnownPairs,
    settings: "GrnSettings",
) -> list[dict[str, Any]]:
    """Records of how baselines and scores compare with known edges."""
    by_method = {
        name: {condition: EVIDENCE[name].score(group) for condition, group in groups.items()}
        for name in settings.baseline_names
        if name != settings.evidence
    }
    by_method[settings.evidence] = scores
    return [
        {"method": method, **({} if condition is None else {"condition": condition}), **_scores(values, known)}
        for method, found in by_method.items()
        for condition, values in _against(found, settings.reference).items()
    ]


def _scores(values: np.ndarray, known: KnownPairs) -> dict[str, Any]:
    found, draws = score_with_intervals(values, known)
    record: dict[str, Any] = {"n_edges": int(known.edges.sum()), "n_pairs": int(known.tested.sum())}
    for metric, value, low, high in zip(METRICS, found, *interval(draws), strict=True):
        record |= {metric: float(value), f"{metric}_low": float(low), f"{metric}_high": float(high)}
    return record
