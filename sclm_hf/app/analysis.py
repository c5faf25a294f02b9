"""What a model says of cells: labels, their probabilities, a map, and the genes that speak for the label of a cell."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from .cells import count_seen
from .limits import limited_time

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

PREDICTION, CONFIDENCE, EMBEDDING, PLACES = "sclm_prediction", "sclm_confidence", "X_sclm", "X_sclm_umap"


class Analysis(NamedTuple):
    """Cells with what a model says of them.

    Attributes:
        cells: with labels and their probabilities in `obs`, the embedding and its map in `obsm`.
        model: folder or repository.
        summary: what to know of it, in Markdown.
    """

    cells: "AnnData"
    model: str
    summary: str


def analyse(cells: "AnnData", model: str, *, time_limit: float) -> Analysis:
    """Annotate and embed cells, and lay them out as a map.

    Args:
        cells: with raw counts; they stay as they are.
        model: folder or repository id of a classifier.
        time_limit: seconds that this may take.

    Raises:
        CheckpointError: the model has no trained classification head, or cannot be read.
        ConfigurationError: it took too long.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not counts.
    """
    from ..evaluation.plots import umap_layout
    from ..tasks.annotate import annotate
    from ..tasks.embed import embed

    with limited_time(time_limit) as check:
        told = annotate(cells, model, key_added=PREDICTION)
        told = embed(told, model, key_added=EMBEDDING, copy=False)
        check()
        told.obsm[PLACES] = umap_layout(told.obsm[EMBEDDING])
        check()
    return Analysis(told, model, summarise(told, model))


def summarise(cells: "AnnData", model: str) -> str:
    """How many genes the model knows, what else to know before its labels are believed, in Markdown."""
    from ..tasks.scanpy_style.pp import coverage

    genes = coverage(cells.copy(), model)
    lines = [
        f"**{cells.n_obs:,} cells.** {genes.summary()}",
        f"Median confidence: {np.median(cells.obs[CONFIDENCE]):.2f}. It is the probability that the model gives to "
        "its label, not the chance that the label is right.",
    ]
    n_seen = count_seen(cells, model)
    if n_seen is None:
        lines.append("The model does not say which cells it was trained on.")
    elif n_seen:
        lines.append(f"**The model was trained on, or chosen by, {n_seen:,} of these cells**: they show little.")
    else:
        lines.append("The model was trained on none of these cells.")
    return "\n\n".join(lines)


def top_genes(analysis: Analysis, name: str, *, time_limit: float, n_genes: int = 12) -> "DataFrame":
    """The genes that speak most for the label of a cell, by integrated gradients; see `explain`.

    Args:
        analysis: of its cells.
        name: of the cell.
        time_limit: seconds that this may take.
        n_genes: how many.

    Returns:
        A data frame of `gene`, `attribution` (part of the log-odds of the label) and `expression` (its counts).

    Raises:
        ConfigurationError: there is no such cell, it took too long, or the model cannot be explained.
    """
    from ..sources.in_memory import InMemorySource
    from ..tasks.explain import explain

    cell = analysis.cells[[row_of(analysis, name)]].copy()
    with limited_time(time_limit):
        genes = explain(cell, analysis.model)
    genes = genes.sort_values("attribution", ascending=False, kind="stable").head(n_genes)
    source = InMemorySource(cell)
    counts = dict(zip(map(str, source.genes()[0]), source.read(np.arange(1)).toarray()[0].tolist(), strict=True))
    table = genes[["gene", "attribution"]].reset_index(drop=True)
    return table.assign(counts=[counts[str(gene)] for gene in table["gene"]])


def row_of(analysis: Analysis, name: str) -> int:
    """The row of a cell.

    Raises:
        ConfigurationError: there is no such cell.
    """
    rows = np.flatnonzero(analysis.cells.obs_names == name)
    if len(rows) != 1:
        raise ConfigurationError(
            f"No cell is called {name!r}: click on a cell of the map, or choose one from the list."
        )
    return int(rows[0])


def ask(analysis: Analysis, name: str, question: str, text_model: str | None, *, time_limit: float) -> str:
    """What a language model answers to a question about a cell.

    Raises:
        ConfigurationError: the app has no language model, nothing is asked, or it took too long.
    """
    if text_model is None:
        raise ConfigurationError("Questions need a language model: start the app with `--text-model`.")
    if not question.strip():
        raise ConfigurationError("The question is empty.")
    from ..text.chat import Chat

    row_of(analysis, name)
    with limited_time(time_limit):
        return Chat(analysis.cells, text_model).ask(question, cells=[name]).text


def write_result(analysis: Analysis, folder: Path) -> Path:
    """Write the cells with all that was found as an `.h5ad` file, and return its path."""
    from ..tasks.files.h5ad import write_h5ad

    path = folder / "annotated.h5ad"
    write_h5ad(analysis.cells, path)
    return path
