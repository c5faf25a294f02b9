"""Gene embeddings that start somewhere: from the co-expression of the cells to train on, or from a file."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..corpora.contents import Contents
from ..corpora.gene_svd import gene_svd
from ..corpora.statistics import gene_statistics
from ..errors import ConfigurationError, require
from ..files import require_regular_file
from ..logging import get_logger
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from .settings.pretrain import SVD

logger = get_logger(__name__)


def start_gene_embeddings(model: PreTrainedModel, corpus: Contents, start: str) -> None:
    """Write gene embeddings into a new model.

    They fill the first columns of the table; where they are wider than it, their principal components take their
    place. Genes that they lack, special tokens and the columns left over stay as they were drawn. Where their entries
    deviate less from 0 than those that were drawn, all are scaled to deviate as much.

    Args:
        model: a model with a table of genes.
        corpus: the cells to train on, mapped to the model's genes.
        start: `"svd"`, the right singular vectors of the z-scored cells, or a file, see [`read_gene_embeddings`].

    Raises:
        ConfigurationError: the model has no table of genes, or no gene is in the file.
        SclmError: see [`gene_statistics`].
    """
    vocabulary = corpus.processor.tokenizer.gene_vocabulary
    table = getattr(model.get_input_embeddings(), "weight", None)
    if table is None or not table.requires_grad or table.shape[0] < vocabulary.size:
        raise ConfigurationError(
            f"{type(model).__name__} has no gene embeddings to be trained: leave out `gene_embeddings`."
        )
    if start == SVD:
        statistics = gene_statistics(corpus)
        vectors, _ = gene_svd(corpus, statistics, table.shape[1])
        ids = np.array([vocabulary[gene] for gene in statistics.genes])
        vectors = vectors[ids]
    else:
        ids, vectors = _of_file(Path(start), vocabulary, table.shape[1])
    with torch.no_grad():
        drawn, found = float(table.float().std()), float(vectors.std())
        scaled = torch.from_numpy(vectors * np.float32(max(1.0, drawn / found)))
        table[torch.from_numpy(ids), : vectors.shape[1]] = scaled.to(table)


def _of_file(path: Path, vocabulary: GeneVocabulary, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and embeddings of the genes of a file that the vocabulary knows."""
    names, vectors = read_gene_embeddings(path)
    gene_ids = vocabulary.map_genes(names).gene_ids
    known = gene_ids >= 0
    if not known.any():
        raise ConfigurationError(f"`{path}` has none of the model's genes; its first is {names[0]!r}.")
    ids, vectors = gene_ids[known], vectors[known]
    n_genes = len(set(vocabulary) - set(vocabulary.special_tokens))
    if len(ids) < n_genes:
        logger.warning(f"{n_genes - len(ids):,} of {n_genes:,} genes are not in `{path}` and start at random.")
    if vectors.shape[1] > width:
        left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        vectors = (left * values)[:, :width]
    return ids, vectors.astype(np.float32)


def read_gene_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """The embeddings of genes in a file.

    Args:
        path: a `.csv` of a column of names and columns of numbers, with a header; or a `.npz` or `.safetensors` of one
            vector per gene, by its name. A `.npz` may have `genes` (genes,) and `embeddings` (genes, width) instead.

    Returns:
        Names, and (genes, width) float64.

    Raises:
        ConfigurationError: the file is none of these.
    """
    require_regular_file(path, ConfigurationError)
    try:
        if path.suffix == ".csv":
            frame = require("pandas", extra="anndata").read_csv(path, index_col=0)
            names, vectors = frame.index.astype(str), frame.to_numpy(np.float64)
        else:
            names, vectors = _of_arrays(path)
    except Exception as error:
        raise ConfigurationError(f"`{path}` cannot be read as gene embeddings: {error}") from error
    names = list(map(str, names))
    if vectors.ndim != 2 or 0 in vectors.shape or len(names) != len(vectors) or not np.isfinite(vectors).all():
        raise ConfigurationError(
            f"`{path}` must hold one vector of finite numbers for each gene, all of one width; got {len(names):,} "
            f"names and numbers of shape {vectors.shape}."
        )
    return names, vectors


def _of_arrays(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            arrays = dict(arrays)
    else:
        from safetensors.numpy import load_file

        arrays = load_file(path)
    if set(arrays) == {"genes", "embeddings"}:
        return arrays["genes"].tolist(), arrays["embeddings"].astype(np.float64)
    return list(arrays), np.stack(list(arrays.values())).astype(np.float64)
