"""The counts of a corpus as one matrix, for methods that learn from counts and not from a model's tokens."""

import copy
from collections.abc import Iterator

import numpy as np
import scipy.sparse

from ..corpora.cell_corpus import CellCorpus
from ..evaluation.baselines.measured import Measured
from ..logging import get_logger
from ..sources.survey import row_blocks
from ..tokenization.genes.gene_vocabulary import GeneVocabulary

logger = get_logger(__name__)

ABSENT = -1e4
"""Logit, and log-probability, of a label that no cell to train on has."""


def in_order(corpus: CellCorpus) -> CellCorpus:
    """The same cells, each once, one after the other."""
    corpus = copy.copy(corpus)
    corpus.shuffle = corpus.group_by_length = False
    corpus.balance = None
    return corpus


def rows_in_order(corpus: CellCorpus) -> Iterator[tuple[int, np.ndarray]]:
    """The cells in the order in which a corpus that does not shuffle hands them out.

    Returns:
        An iterator over (number of a source, rows of it): whole sources, or samples where cells come in samples.
    """
    if corpus.samples is None:
        yield from ((index, corpus.rows_at(index, np.arange(size))) for index, size in enumerate(corpus.sizes))
    else:
        for number, sample in enumerate(corpus.samples):
            yield sample.source, corpus.samples.rows_of(number)


def labels_in_order(corpus: CellCorpus) -> np.ndarray:
    """(n_cells,) int64 numbers of labels, in the order of [`rows_in_order`]."""
    if corpus.samples is None:
        return np.concatenate(corpus.numbered["labels"]).astype(np.int64)
    parts = [corpus.numbered["labels"][sample.source][sample.positions] for sample in corpus.samples]
    return np.concatenate(parts).astype(np.int64)


def counts_in_order(
    corpus: CellCorpus, genes: GeneVocabulary, species: str | None = None
) -> tuple[scipy.sparse.csr_matrix, Measured | None]:
    """The values of the cells as stored, in the order of [`rows_in_order`].

    Args:
        corpus: the cells.
        genes: the columns of the result, numbered from 0 on; columns of a source that are none of them are left out,
            and those that a source does not have are 0, of which a warning tells.
        species: as for `CellProcessor.map_genes`.

    Returns:
        (n_cells, n_genes) values, and which of them were measured; None = all.
    """
    parts, datasets = [], []
    measured = np.ones((len(corpus.sources), len(genes)), bool)
    for index, rows in rows_in_order(corpus):
        if not len(rows):
            continue
        source = corpus.opened(index)
        names, ensembl_ids = source.genes()
        ids = genes.map_genes(names, ensembl_ids=ensembl_ids, species=species).gene_ids
        known = np.flatnonzero(ids >= 0)
        measured[index] = np.isin(np.arange(len(genes)), ids[known])
        ones = np.ones(len(known), np.float32)
        columns = scipy.sparse.csr_matrix((ones, (known, ids[known])), shape=(len(ids), len(genes)))
        parts += [(source.read(rows[block]).astype(np.float32) @ columns).tocsr() for block in row_blocks(len(rows))]
        datasets.append(np.full(len(rows), index))
    for source, has in zip(corpus.sources, measured, strict=True):
        if not has.all():
            logger.warning(
                "`%s` lacks %s of %s genes: for the baselines, as for `annotate`, its cells have the mean of these, "
                "over the files that measure them.",
                source.name,
                f"{(~has).sum():,}",
                f"{len(genes):,}",
            )
    found = None if measured.all() else Measured(np.concatenate(datasets), measured)
    return scipy.sparse.vstack(parts, format="csr"), found
