"""Assignment puzzles: several cells of one donor, each of another type, to be matched with the candidate types.

Source: Cell-o1 ("Training LLMs to solve single-cell reasoning puzzles with reinforcement learning", 2025), where 8 to
15 cells are shown by their 50 highest genes, and one type is given to each.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError
from ..logging import warn
from ..tokenization.encodings.keys import hash_names
from ..tokenization.expression_matrix import as_csr, select_counts
from .neutral import neutralise
from .parsing import SEPARATOR
from .sentences import cell_sentences

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

CELLS = (8, 15)
"""Least and most cells per puzzle, as published."""

QUESTION = """The {n} cells below come from one donor, and each is of a different type. A cell is written as its most \
highly expressed genes, the highest first.

{cells}

Candidate types: {candidates}

Give one candidate to each cell. Reason between <think> and </think>; on the next line, between <answer> and \
</answer>, write the types in the order of the cells with | between them."""


def assignment_puzzles(
    adata: "AnnData",
    label_column: str,
    donor_column: str | None = None,
    *,
    cells: tuple[int, int] = CELLS,
    n_per_donor: int = 40,
    n_genes: int = 50,
    layer: str | None = None,
    case: str = "upper",
    seed: int = 0,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[Row]:
    """Puzzles made of the cells of each donor.

    A donor's puzzles depend on the seed and on its own cells alone, not on the other donors.

    Args:
        adata: cells with counts, found as [`select_counts`] says.
        label_column: column of `obs` with the cell types; cells without one are left out.
        donor_column: column of `obs` with the donors; without it all cells count as one donor's.
        cells: least and most cells per puzzle, drawn evenly as far as the donor has types.
        n_per_donor: how many puzzles.
        n_genes: how many genes of each cell are shown.
        layer: where the counts are.
        case: as for [`cell_sentences`].
        seed: seed of what is drawn.
        tokenizer: tokenizer of the model, whose special tokens data may not contain.

    Returns:
        Rows `prompt` (messages), `answer` (labels in the order of the cells), `cell_id` (names of the cells),
        `sentences`, `candidates` (sorted), `donor` and `task`: what TRL's trainers and the rewards take.

    Raises:
        ConfigurationError: there is no such column, a label contains `|`, two labels become the same text, or no
            donor has enough types.

    Warns:
        SclmWarning: donors have too few types and are left out.
    """
    least, most = check_cells(cells, fewest=1)
    labels = _column(adata, label_column).map(lambda one: neutralise(one, tokenizer), na_action="ignore")
    check_labels(_column(adata, label_column).dropna(), labels.dropna())
    donors = np.full(len(labels), "all") if donor_column is None else _column(adata, donor_column).to_numpy(str)
    matrix, names, _, _ = select_counts(adata, layer)
    sentences = cell_sentences(
        as_csr(matrix), names, n_genes=n_genes, case=case, seed=seed, cell_ids=hash_names(adata.obs_names)
    )
    facts = labels.to_numpy(object), [neutralise(one, tokenizer) for one in sentences], list(map(str, adata.obs_names))
    rows, poor = [], []
    for donor in dict.fromkeys(sorted(donors)):
        by_label = _cells_by_label(labels[donors == donor], np.flatnonzero(donors == donor))
        if len(by_label) < least:
            poor.append(donor)
            continue
        random = np.random.default_rng([seed, int(hash_names([donor])[0])])
        for _ in range(n_per_donor):
            size = int(random.integers(least, min(most, len(by_label)) + 1))
            rows.append({**_puzzle(by_label, size, facts, random), "donor": donor})
    _tell(poor, least, bool(rows))
    return rows


def _puzzle(by_label: dict[str, np.ndarray], size: int, facts: tuple, random: np.random.Generator) -> Row:
    labels, sentences, names = facts
    chosen = random.permutation(np.array(sorted(by_label), object))[:size]
    cells = [int(random.choice(by_label[label])) for label in chosen]
    shown, candidates = [sentences[cell] for cell in cells], sorted(chosen)
    question = QUESTION.format(
        n=size,
        cells=listed_cells(shown),
        candidates=listed_labels(candidates),
    )
    return {
        "prompt": [{"role": "user", "content": question}],
        "answer": [labels[cell] for cell in cells],
        "cell_id": [names[cell] for cell in cells],
        "sentences": shown,
        "candidates": candidates,
        "task": "assign",
    }


def listed_cells(sentences: Sequence[str]) -> str:
    """The cells of a puzzle, one per line."""
    return "\n".join(f"Cell {number}: {sentence}" for number, sentence in enumerate(sentences, 1))


def listed_labels(labels: Iterable[str]) -> str:
    """Candidates, or the labels of cells in their order."""
    return f" {SEPARATOR} ".join(labels)


def check_cells(cells: tuple[int, int], *, fewest: int) -> tuple[int, int]:
    """The least and the most cells of a puzzle.

    Raises:
        ConfigurationError: they are not in order, or the least is below `fewest`.
    """
    least, most = cells
    if not fewest <= least <= most:
        raise ConfigurationError(
            f"`cells` (`--cells`) must be the least and the most cells per puzzle, {fewest} or more, got {cells}."
        )
    return least, most


def check_labels(labels: Iterable[str], texts: Iterable[str]) -> None:
    """Refuse labels that cannot be told apart in an answer.

    Args:
        labels: the labels.
        texts: what they are in prompts and answers.

    Raises:
        ConfigurationError: one is empty or contains `|`, or two become the same text.
    """
    texts = set(texts)
    if bad := sorted(one for one in texts if SEPARATOR in one or not one):
        raise ConfigurationError(f"The labels {bad[:5]} are empty or contain {SEPARATOR!r}: rename them.")
    if len(set(labels)) != len(texts):
        raise ConfigurationError("Several labels become the same text: rename them.")


def _column(adata: "AnnData", name: str) -> Any:
    if name not in adata.obs:
        raise ConfigurationError(f"`obs` has no column {name!r}: it has {', '.join(map(str, adata.obs.columns))}.")
    return adata.obs[name].astype(object)


def _cells_by_label(labels: Any, places: np.ndarray) -> dict[str, np.ndarray]:
    values = labels.to_numpy(object)
    return {label: places[values == label] for label in sorted(set(labels.dropna()))}


def _tell(poor: list[str], least: int, some: bool) -> None:
    if not some:
        raise ConfigurationError(f"No donor has cells of {least} types or more: ask for fewer with `cells`.")
    if poor:
        warn(f"{len(poor)} donors have fewer than {least} types and give no puzzles: {', '.join(poor[:10])}.")
