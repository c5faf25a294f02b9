"""The cells of a run: which files, and which of their cells are held out for evaluation."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..corpora.augmentation import Augmentation
from ..corpora.cell_corpus import CellCorpus
from ..corpora.labels.columns import LabelColumn, columns_for
from ..corpora.mixture import mix
from ..corpora.order.even_splits import hold_out_evenly
from ..corpora.order.splits import (
    CELL,
    hold_out,
    hold_out_groups,
    hold_out_samples,
    refuse_split_samples,
    shared_groups,
)
from ..corpora.statistics import gene_statistics
from ..errors import CheckpointError, ConfigurationError
from ..logging import get_logger, warn
from ..opening.families import read_config
from ..opening.files import ADAPTER_CONFIG, find_file
from ..opening.names import resolve_name
from ..sources.opening import name_paths, open_source
from ..tokenization.genes.gene_columns import is_gene
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from ..tokenization.processing_cell import CellProcessor
from .settings.data import DataArguments

logger = get_logger(__name__)


def refuse_adapter(name: str) -> None:
    """Training starts from whole models: an adapter, loaded with its base, would get lost among the new weights.

    Raises:
        CheckpointError: the folder or repository holds an adapter.
    """
    if find_file(name, ADAPTER_CONFIG, resolve_name(name)) is not None:
        raise CheckpointError(
            f"`{name}` holds an adapter, and training starts from a whole model: give the folder of the merged model, "
            "which training writes around `adapter/`, or save `merge_adapter(load_adapter(...))` of "
            "`sclm_hf.adapters.lora` and give that."
        )


def open_corpora(
    data: DataArguments,
    processor: CellProcessor,
    *,
    label_column: LabelColumn | None = None,
    task_columns: Sequence[str] = (),
    unlabelled: Literal["refuse", "drop"] = "refuse",
    ontology: str | None = None,
    unknown_labels: Literal["refuse", "drop"] = "refuse",
    balance_labels: float | None = None,
    views: int = 1,
    start_from: str | None = None,
    sample_share: float = 1.0,
    split_samples: bool = False,
    even_share: float = 0.0,
    seed: int = 0,
) -> tuple[CellCorpus, CellCorpus | None]:
    """The cells to train on, and those to evaluate on, if any; both number their labels alike.

    Args:
        data: the files, and what is held out.
        processor: encodes the cells.
        label_column: column of `obs` with the label of each cell, see `CellCorpus`.
        task_columns: columns of `obs`, one per task, with the label of each cell.
        unlabelled: `"refuse"` cells without a label, or `"drop"` them and report how many.
        ontology: what the labels mean; cells to evaluate on may then have labels of their own.
        unknown_labels: as `unlabelled`, for labels that the ontology does not know.
        balance_labels: how much more often cells of rare labels come to train on, see `CellCorpus`.
        views: how many views of each cell a batch has, differently augmented; with several, also of those to evaluate
            on, as what the objective compares.
        start_from: folder or repository of the model to go on from: batches keep the labels that it knows them by.
        sample_share: share of the cells of a sample to train on in an epoch, where cells come in samples.
        split_samples: let samples come in several batches, see `CellCorpus`.
        even_share: share of the cells that [`hold_out_evenly`] holds out where `data` names none to evaluate on.
        seed: seed of the order of the cells and of what is held out.

    Raises:
        CorpusError: a file cannot be read, or lacks a column.
        GeneCoverageError: the model knows too few genes of a file.
        ConfigurationError: nothing is left to train on.
        CheckpointError: `start_from` is an adapter.
    """
    if start_from:
        refuse_adapter(start_from)
    options: dict[str, Any] = {
        "layer": data.layer,
        "where": data.conditions,
        "label_column": label_column,
        "task_columns": task_columns,
        "unlabelled": unlabelled,
        "ontology": ontology,
        "unknown_labels": unknown_labels,
        "batch_column": data.batch_column,
        "batch_names": _known_batches(start_from) if data.batch_column and start_from else None,
        "species": data.species,
        "split_samples": split_samples,
        "seed": seed,
    }
    share = {"sample_share": sample_share, "balance_labels": balance_labels}
    if views == 1:
        share["augment"] = data.augmentation
    else:
        options["augment"] = dataclasses.replace(data.augmentation or _default_augmentation(processor), views=views)
    even_share = 0.0 if data.eval_files or data.eval_share else even_share
    is_part = data.eval_share > 0 or even_share > 0 or data.train_weights is not None
    everything = CellCorpus(data.train_files, processor, lazy=is_part, **share, **options)
    _report_unlabelled(everything)
    options |= {"label_names": everything.label_names, "batch_names": everything.batch_names}
    options["task_columns"] = everything.task_names
    leave_out = [*_columns_of(label_column), *task_columns]
    held_out = _hold_out(data, everything, seed, leave_out=leave_out) if data.eval_share else {}
    if even_share:
        held_out = _hold_out_evenly(everything, even_share, seed, leave_out=leave_out)
    kept = {name: ~mask for name, mask in held_out.items()}
    corpus = everything
    if data.train_weights is not None:
        parts = [_part(name_paths(entry), processor, kept, **share, **options) for entry in data.train_files]
        corpus = mix(parts, data.train_weights)
    elif held_out:
        corpus = CellCorpus(data.train_files, processor, rows=kept, **share, **options)
    if data.eval_files:
        if ontology:
            options |= {"label_names": None, "ontology": everything.ontology}
        evaluated = CellCorpus(data.eval_files, processor, shuffle=False, **options)
        _report_unlabelled(evaluated)
        return corpus, evaluated
    if held_out:
        return corpus, CellCorpus(data.train_files, processor, rows=held_out, shuffle=False, **options)
    return corpus, None


def _default_augmentation(processor: CellProcessor) -> Augmentation:
    """The augmentation where none is asked for and cells need views that differ."""
    expects = processor.feature_extractor.expects
    if expects == "counts":
        return Augmentation()
    logger.warning(
        "Views of a cell differ in their genes alone: the encoding expects %r data, and only counts can be thinned.",
        expects,
    )
    return Augmentation(thin_share=0.0)


def _part(
    named: Mapping[str, Path], processor: CellProcessor, kept: Mapping[str, np.ndarray], **options: Any
) -> CellCorpus:
    """The corpus of some of the files."""
    if isinstance(options["label_column"], Mapping):
        options["label_column"] = columns_for(options["label_column"], named)
    return CellCorpus(named, processor, rows={name: kept[name] for name in named if name in kept}, **options)


def _columns_of(label_column: LabelColumn | None) -> list[str]:
    """All columns that a label column names."""
    if label_column is None or isinstance(label_column, str):
        return [label_column] if label_column else []
    return list(label_column.values() if isinstance(label_column, Mapping) else label_column)


def _hold_out(
    data: DataArguments, corpus: CellCorpus, seed: int, *, leave_out: Sequence[str | None]
) -> dict[str, np.ndarray]:
    """Which cells of each source are held out: (cells,) bool by the source's name."""
    sizes = {source.name: source.n_cells for source in corpus.sources}
    rows = [corpus.rows_at(index, np.arange(size)) for index, size in enumerate(corpus.sizes)]
    if data.split_by not in (None, CELL):
        held_out = hold_out_groups(corpus.sources, rows, data.split_by, data.eval_share)
        if corpus.samples is not None:
            refuse_split_samples(corpus.samples, corpus.sources, held_out, data.split_by)
    elif corpus.samples is None:
        held_out = hold_out(sizes, data.eval_share, seed)
    else:
        held_out = hold_out_samples(corpus.samples, sizes, data.eval_share, seed)
    if corpus.samples is None and data.split_by in (None, CELL):
        _keep_one_of_each(corpus, rows, held_out)
    n_held_out = sum(held_out[source.name][used].sum() for source, used in zip(corpus.sources, rows, strict=True))
    if not 0 < n_held_out < len(corpus):
        raise ConfigurationError(
            f"`eval_share` {data.eval_share} of {len(corpus)} cells leaves nothing to train or to evaluate on."
        )
    if data.split_by is None:
        _warn_of_shared(shared_groups(corpus.sources, rows, held_out, leave_out=leave_out))
    return held_out


def _keep_one_of_each(corpus: CellCorpus, rows: Sequence[np.ndarray], held_out: Mapping[str, np.ndarray]) -> None:
    """Hold out no label altogether: its first cell is trained on."""
    pairs = list(zip(corpus.sources, rows, strict=True))
    is_held_out = np.concatenate([held_out[source.name][used] for source, used in pairs])
    for labels in (np.concatenate(codes) for name, codes in corpus.numbered.items() if name.startswith("labels")):
        for label in np.setdiff1d(labels, labels[~is_held_out]):
            is_held_out[np.flatnonzero(labels == label)[0]] = False
    ends = np.cumsum([len(used) for used in rows])[:-1]
    for (source, used), part in zip(pairs, np.split(is_held_out, ends), strict=True):
        held_out[source.name][used] = part


def _hold_out_evenly(
    corpus: CellCorpus, share: float, seed: int, *, leave_out: Sequence[str | None]
) -> dict[str, np.ndarray]:
    """Which cells of each source are held out: (cells,) bool by the source's name; says which."""
    rows = [corpus.rows_at(index, np.arange(size)) for index, size in enumerate(corpus.sizes)]
    held_out, by = hold_out_evenly(corpus.sources, rows, corpus.numbered["labels"], share, seed, leave_out=leave_out)
    n_held_out = sum(mask.sum() for mask in held_out.values())
    which = f"whole values of `obs[{by!r}]`" if by else "some of each label"
    logger.info(f"{n_held_out:,} of {len(corpus):,} cells are held out for evaluation: {which}.")
    return held_out


def _warn_of_shared(shared: Mapping[str, tuple[int, int]]) -> None:
    """Say that the evaluation shares donors or batches with training, and how to hold out whole ones."""
    if not shared:
        return
    (first, (n_both, n_values)), *others = shared.items()
    too = f" (and of {', '.join(column for column, _ in others)})" if others else ""
    warn(
        f"{n_both} of the {n_values} values of `obs[{first!r}]`{too} have cells both to train and to evaluate on, "
        f"so the evaluation says little about new ones: hold out whole ones with `split_by={first}` (`--split_by "
        f"{first}`), or say `split_by={CELL}` to keep it so."
    )


def _report_unlabelled(corpus: CellCorpus) -> None:
    if n_dropped := sum(corpus.unlabelled.values()):
        names = ", ".join(f"{number:,} of {name}" for name, number in corpus.unlabelled.items() if number)
        logger.warning(f"{n_dropped:,} of {n_dropped + len(corpus):,} cells have no label and are left out: {names}.")


def _known_batches(name: str) -> list[str] | None:
    """Names of the batches in the order of their labels, None where the model does not say."""
    return read_config(name, resolve_name(name)).get("batch_names")


def store_statistics(processor: CellProcessor, corpus: CellCorpus) -> None:
    """Give the encoding the gene means and deviations of the cells to train on, if it needs them and has none.

    Raises:
        SclmError: see [`gene_statistics`].
    """
    encoding = processor.feature_extractor
    if encoding.needs_statistics and encoding.gene_means is None:
        statistics = gene_statistics(corpus, target_sum=encoding.target_sum)
        processor.feature_extractor = encoding.changed(**statistics.parameters())


def gene_names(data: DataArguments, expects: str, *, min_files: int = 1) -> list[str]:
    """The genes of `train_files`, sorted; a gene that files name in different ways has the name of the first file.

    Args:
        data: the files, and where in them the matrix is.
        expects: data that the encoding expects, see `ExpressionFeatureExtractor`.
        min_files: a gene is measured by at least this many files; by all of them where they are fewer.

    Raises:
        ConfigurationError: no gene is.
    """
    genes, n_files = GeneVocabulary.from_genes(()), Counter()
    paths = name_paths(data.train_files)
    for name, path in paths.items():
        source = open_source(name, path, layer=data.layer, expects=expects)
        names, ensembl_ids = source.genes()
        source.close()
        gene_ids = genes.map_genes(names, ensembl_ids=ensembl_ids, species=data.species).gene_ids
        found = gene_ids != -1
        # genes that are separate columns in one file are not merged
        new = {gene for gene, is_known in zip(names, found, strict=True) if not is_known and is_gene(gene)} - set(
            genes
        )
        n_files.update(np.unique(gene_ids[gene_ids >= 0]).tolist())
        n_files.update(range(genes.size, genes.size + len(new)))
        genes = genes.add_genes(sorted(new)) if new else genes
    at_least = min(min_files, len(paths))
    kept = sorted(gene for gene in set(genes) - set(genes.special_tokens) if n_files[genes[gene]] >= at_least)
    if not kept:
        raise ConfigurationError(
            f"No gene is measured by {at_least} of the {len(paths)} `train_files`: lower `min_files` (`--min_files`), "
            "or name a `vocabulary`."
        )
    return kept


def variable_genes(data: DataArguments, processor: CellProcessor, n_genes: int) -> list[str]:
    """The genes of a vocabulary whose log-normalised counts deviate most over the cells of `train_files`, sorted.

    Each gene counts over the cells of the files that measure it, see [`gene_statistics`].

    Args:
        data: the files, and which of their cells count.
        processor: its vocabulary is chosen from.
        n_genes: how many genes are kept; all where there are no more.
    """
    corpus = CellCorpus(
        data.train_files, processor, layer=data.layer, where=data.conditions, species=data.species, shuffle=False
    )
    statistics = gene_statistics(corpus)
    order = np.argsort(-statistics.deviations, kind="stable")
    return sorted(statistics.genes[index] for index in order[:n_genes])
