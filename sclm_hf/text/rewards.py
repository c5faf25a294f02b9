"""Rewards for what a language model writes about cells, as TRL calls them.

Each is called with `completions` and the columns of the data set, each a list with one entry per completion, and
returns one number per completion; what it does not need it ignores. Options are set with `functools.partial`.

Sources: Cell-o1 ("Training LLMs to solve single-cell reasoning puzzles with reinforcement learning", 2025) for
assignments, rBio (2025) for graded forms and for a model of cells as the judge.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpora.labels.cell_ontology import open_ontology
from ..corpora.labels.ontology import Ontology
from ..errors import ConfigurationError, unknown_name
from ..tokenization.encodings.keys import hash_names
from .parsing import SEPARATOR, Completion, Parsed, closest_label, parse_blocks, read_answer, split_labels, text_of

if TYPE_CHECKING:
    from anndata import AnnData

STYLES = ("cello1", "strict")
INVALID = -1.0
"""Reward of an assignment of the wrong form."""


def batch_assignment_reward(
    completions: Sequence[Completion], answer: Sequence[str | Sequence[str]], style: str = "cello1", **_: Any
) -> list[float]:
    """How many cells of a puzzle got the right label: the mean of the share of right ones and of whether all are.

    -1 for a text that is not one think block, a line break and one answer block; for another number of labels than
    cells; and for a label that is given twice. Labels are compared without regard to case.

    Args:
        completions: what was written; the answer block holds labels between `|`.
        answer: the right labels, as text with `|` between them or as lists.
        style: `"cello1"` does what the published reward does in each detail: a line break at the end is allowed; the
            answer is read from the line of its tag or, if that is empty, from the first line with a `|` anywhere;
            empty labels do not count; at least one `|` is needed, so that no puzzle of one cell can be solved; labels
            that differ in case are different ones. `"strict"` reads the answer block and nothing else, counts empty
            labels and takes labels that differ in case for the same.

    Returns:
        One reward per completion: -1, or between 0 and 1.

    Raises:
        ConfigurationError: there is no such `style`.
    """
    if style not in STYLES:
        raise unknown_name(str(style), STYLES, " as `style`")
    read = _read_as_published if style == "cello1" else _read_strictly
    return [
        _assignment_reward(read(text_of(one)), _labels(gold), style == "cello1")
        for one, gold in zip(completions, answer, strict=True)
    ]


def _read_strictly(text: str) -> list[str] | None:
    parsed = parse_blocks(text)
    return None if parsed is None else split_labels(parsed.answer)


def _read_as_published(text: str) -> list[str] | None:
    text = text.removesuffix("\n")
    if parse_blocks(text) is None:
        return None
    lines = text.split("\n")
    tagged = next(line for line in lines if "<answer>" in line)
    answer = tagged.partition("<answer>")[2].partition("</answer>")[0].strip()
    if not answer:
        answer = next((line for line in lines if SEPARATOR in line), "")
    return [label for label in split_labels(answer) if label] if SEPARATOR in answer else None


def _assignment_reward(labels: list[str] | None, gold: list[str], case: bool) -> float:
    if labels is None or len(labels) != len(gold):
        return INVALID
    folded = [label.casefold() for label in labels]
    if len(set(labels if case else folded)) < len(labels):
        return INVALID
    right = [one == other.casefold() for one, other in zip(folded, gold, strict=True)]
    return (sum(right) / len(right) + all(right)) / 2


def _labels(gold: str | Sequence[str]) -> list[str]:
    return [label for label in split_labels(gold) if label] if isinstance(gold, str) else list(gold)


def format_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """The share of rules of form that a completion keeps, so that a model that keeps none has something to climb.

    One think block; one answer block; the first before the second; something in each; and nothing around them.

    Returns:
        One reward per completion, between 0 and 1; 1 for a text that [`~parsing.parse_blocks`] reads.
    """
    return [_kept_rules(text_of(one)) for one in completions]


def _kept_rules(text: str) -> float:
    parsed = parse_blocks(text.strip())
    kept = [
        text.count("<think>") == text.count("</think>") == 1,
        text.count("<answer>") == text.count("</answer>") == 1,
        0 <= text.find("</think>") < text.find("<answer>"),
        bool(_between(text, "<think>", "</think>")),
        bool(_between(text, "<answer>", "</answer>")),
        isinstance(parsed, Parsed),
    ]
    return sum(kept) / len(kept)


def _between(text: str, start: str, stop: str) -> str:
    return text.partition(start)[2].partition(stop)[0].strip() if stop in text else ""


def label_reward(completions: Sequence[Completion], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for the right label, apart from case, white space and a full stop at the end, else 0."""
    return [
        float(closest_label(read_answer(text_of(one)), [gold]) is not None)
        for one, gold in zip(completions, answer, strict=True)
    ]


def ontology_reward(
    completions: Sequence[Completion],
    answer: Sequence[str | Sequence[str]],
    ontology: str | Ontology = "cl",
    **_: Any,
) -> list[float]:
    """How near the answer is to the right one: 1 for it and its synonyms, else `1 / (1 + steps)` in an ontology.

    Args:
        completions: what was written. Where `answer` holds several labels, the mean over these counts, and another
            number of labels earns nothing.
        answer: the right labels.
        ontology: `"cl"`, the Cell Ontology (needs the extra `ontology`), or as for [`Ontology.load`].

    Raises:
        ConfigurationError: there is no such ontology.
        MissingDependencyError: the Cell Ontology is not installed.
    """
    opened = ontology if isinstance(ontology, Ontology) else _opened(ontology)
    return [
        _nearness(split_labels(read_answer(text_of(one))), _labels(gold), opened)
        for one, gold in zip(completions, answer, strict=True)
    ]


@functools.cache
def _opened(name: str) -> Ontology:
    return open_ontology(name)


def _nearness(labels: list[str], gold: list[str], ontology: Ontology) -> float:
    if len(labels) != len(gold):
        return 0.0
    return sum(ontology.similarity(one, other) for one, other in zip(gold, labels, strict=True)) / len(gold)


class SoftVerifier:
    """A reward by a model of cells: the probability that it gives to the label that the language model chose.

    No cell needs a label of its own, and an answer that the cells speak for earns something though it is not the one
    that a person gave.

    Args:
        probabilities: (cells, labels) from a classifier.
        labels: (labels,) their names.
        cells: (cells,) names of the cells, which the column `cell_id` of the data set gives; also found by the
            numbers that corpora make of them.
        ontology: lets a name of coarser grain earn the sum of what lies below it; names that say nothing, and those
            of all labels together, earn nothing.

    Raises:
        ConfigurationError: shapes do not match, or two cells have one name.

    Example:

        >>> sclm_hf.annotate(cells, "folder/of/a/classifier", copy=False)  # doctest: +SKIP
        >>> trainer = GRPOTrainer(reward_funcs=[SoftVerifier.from_annotated(cells)], ...)  # doctest: +SKIP
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: Sequence[str],
        cells: Sequence[str],
        *,
        ontology: Ontology | None = None,
    ) -> None:
        self.probabilities, self.labels = np.asarray(probabilities, np.float64), [str(one) for one in labels]
        names = [str(one) for one in cells]
        if self.probabilities.shape != (len(names), len(self.labels)):
            raise ConfigurationError(
                f"Probabilities of {len(names)} cells and {len(self.labels)} labels are needed, got the shape "
                f"{self.probabilities.shape}."
            )
        self._row_of: dict[Any, int] = {name: row for row, name in enumerate(names)}
        if len(self._row_of) < len(names):
            raise ConfigurationError("Several cells have one name: call `adata.obs_names_make_unique()` first.")
        self._row_of |= {int(one): row for row, one in enumerate(hash_names(names))} if names else {}
        self._ontology = ontology
        self.__name__ = "soft_verifier"

    @classmethod
    def from_annotated(
        cls, adata: "AnnData", key: str = "sclm_prediction", *, ontology: Ontology | None = None
    ) -> "SoftVerifier":
        """The verifier of cells that `sclm_hf.annotate` labelled with any classifier.

        Args:
            adata: the cells.
            key: `key_added` of the annotation.
            ontology: see [`SoftVerifier`].

        Raises:
            ConfigurationError: they were not annotated under this key.
        """
        stem = "sclm" if key == "sclm_prediction" else key
        record = adata.uns.get("sclm_hf", {}).get(key, {})
        if f"{stem}_probabilities" not in adata.obsm or "label_names" not in record:
            raise ConfigurationError(
                f"The cells have no probabilities of {key!r}: call `sclm_hf.annotate` with a classifier first."
            )
        return cls(adata.obsm[f"{stem}_probabilities"], record["label_names"], adata.obs_names, ontology=ontology)

    def __call__(
        self,
        completions: Sequence[Completion],
        cell_id: Sequence[str | int | Sequence[str | int]],
        **_: Any,
    ) -> list[float]:
        """Rewards, as TRL asks for them.

        Args:
            completions: what was written; for several cells, labels between `|`, of which the mean counts.
            cell_id: the cell, or the cells, of each completion.

        Raises:
            ConfigurationError: a cell is not one of those that the classifier saw.
        """
        return [self._reward(read_answer(text_of(one)), cell) for one, cell in zip(completions, cell_id, strict=True)]

    def _reward(self, answer: str, cell: str | int | Sequence[str | int]) -> float:
        if isinstance(cell, (str, int, np.integer)):
            return self._probability(answer, cell)
        labels = split_labels(answer)
        if len(labels) != len(cell):
            return 0.0
        return sum(self._probability(*pair) for pair in zip(labels, cell, strict=True)) / len(cell)

    def _probability(self, answer: str, cell: str | int) -> float:
        row = self._row_of.get(cell)
        if row is None:
            raise ConfigurationError(
                f"The verifier did not see the cell {cell!r}: annotate all cells of the data set."
            )
        return float(self.probabilities[row, self._meant(answer)].sum())

    def _meant(self, answer: str) -> list[int]:
        label = closest_label(answer, self.labels)
        if label is not None:
            return [self.labels.index(label)]
        below = [number for number, one in enumerate(self.labels) if self._is_below(one, answer)]
        return below if len(below) < len(self.labels) else []

    def _is_below(self, label: str, name: str) -> bool:
        ontology = self._ontology
        if ontology is None or not (ontology.knows(name) and ontology.knows(label)):
            return False
        above = {node for one in ontology.nodes_named(label) for node in ontology.ancestors(one)}
        return not above.isdisjoint(ontology.nodes_named(name))
