"""What conversations say beyond a cell and its columns: other cells, assignments, descriptions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from ..logging import counted, warn
from ..tokenization.encodings.keys import Stream, uniforms_for
from .cell_words import CellWriter
from .other_cells import OtherCells, Pools
from .puzzles import CELLS, check_cells, check_labels, listed_cells, listed_labels
from .reasoning import RuleReasoner

if TYPE_CHECKING:
    from ..corpora.contents import Contents
    from .rules import MarkerRule

Slots = dict[str, Any]

_N_GENES = 5
"""How many genes descriptions and comparisons name."""


class Asked(NamedTuple):
    """The cells of a batch.

    Attributes:
        batch: its arrays.
        sentences: (cells,) their sentences.
        keys: (cells,) uint64, of cell, seed and epoch.
        epoch: number of the epoch.
    """

    batch: Mapping[str, np.ndarray]
    sentences: Sequence[str]
    keys: np.ndarray
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What facts are made of.

    Attributes:
        corpus: the cells.
        words: writes them as sentences.
        fields: slot -> field of the corpus that fills it.
        names: slot -> what the numbers of that field stand for.
        labels: slot -> the same as they stand in `obs`.
        control: value of the perturbation that means none.
        match: fields whose values the cells of a question share.
        cells: least and most cells of a puzzle.
        rules: rules about markers.
    """

    corpus: "Contents"
    words: CellWriter
    fields: Mapping[str, str]
    names: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str]]
    control: str | None = None
    match: Sequence[str] = ()
    cells: tuple[int, int] | None = None
    rules: "Iterable[MarkerRule] | None" = None


class ControlFacts:
    """`control_sentence`: a control cell of the same group; a control cell itself is not asked about.

    Raises:
        ConfigurationError: there are no control cells, or none that any perturbed cell could be matched with.
    """

    slot, settings = "perturbation", ("control", "match")

    def __init__(self, ground: Ground) -> None:
        names = list(ground.labels["perturbation"])
        if ground.control not in names:
            raise ConfigurationError(
                f"`control` (`--control`) must be the value of the perturbation that means none, got "
                f"{ground.control!r}; there are {names[:20]}."
            )
        self._control, self._field = names.index(ground.control), ground.fields["perturbation"]
        self._pools = Pools(ground.corpus, self._field, ground.match)
        counts = self._pools.counts
        self._n_controls = counts[:, self._control]
        n_perturbed = counts.sum(axis=1) - self._n_controls
        _tell(n_perturbed, self._n_controls > 0, "a control cell with the same values of `match` (`--match`)")
        self._others = OtherCells(ground.corpus, ground.words)

    def slots(self, asked: Asked) -> list[Slots | None]:
        """For each cell; None where there is no question about it."""
        groups = self._pools.groups(asked.batch)
        draws = uniforms_for(asked.keys, Stream.OTHER_CELLS, 1)[:, 0]
        cells = np.flatnonzero((asked.batch[self._field] != self._control) & (self._n_controls[groups] > 0))
        places = [self._pools.drawn(groups[cell], self._control, draws[cell]) for cell in cells]
        found: list[Slots | None] = [None] * len(groups)
        sentences = self._others.sentences(np.array(places, np.int64), asked.epoch)
        for cell, sentence in zip(cells, sentences, strict=True):
            found[cell] = {"control_sentence": sentence}
        return found


class PairFacts:
    """`other_sentence`: another cell of the group, half of the time of the same type; `comparison` of the two.

    Raises:
        ConfigurationError: there is one type alone.
    """

    slot, settings = "cell_type", ("match",)

    def __init__(self, ground: Ground) -> None:
        self._names, self._field = ground.names["cell_type"], ground.fields["cell_type"]
        _refuse_one_type(self._names)
        self._pools = Pools(ground.corpus, self._field, ground.match)
        n_cells = self._pools.counts.sum(axis=1)
        _tell(n_cells, n_cells > 1, "another cell with the same values of `match` (`--match`)")
        self._others = OtherCells(ground.corpus, ground.words)

    def slots(self, asked: Asked) -> list[Slots | None]:
        """For each cell; None where there is no question about it."""
        groups, labels = self._pools.groups(asked.batch), np.asarray(asked.batch[self._field])
        draws = uniforms_for(asked.keys, Stream.OTHER_CELLS, 3)
        cells = np.flatnonzero(self._pools.counts[groups].sum(axis=1) > 1)
        drawn = [self._other_type(groups[cell], labels[cell], draws[cell]) for cell in cells]
        pairs = list(zip(cells, drawn, strict=True))
        places = np.array([self._pools.drawn(groups[cell], label, draws[cell, 2]) for cell, label in pairs], np.int64)
        own_ids = np.asarray(asked.batch["cell_ids"])[cells].view(np.uint64)
        for number in np.flatnonzero(self._others.ids(places) == own_ids):
            cell, label = pairs[number]
            places[number] = self._pools.drawn(groups[cell], label, draws[cell, 2], after=1)
        found: list[Slots | None] = [None] * len(groups)
        for (cell, label), other in zip(pairs, self._others.sentences(places, asked.epoch), strict=True):
            types = self._names[labels[cell]], self._names[label]
            found[cell] = {"other_sentence": other, "comparison": _comparison(types, asked.sentences[cell], other)}
        return found

    def _other_type(self, group: int, label: int, draws: np.ndarray) -> int:
        """The type of the other cell."""
        counts = self._pools.counts[group]
        others = np.flatnonzero((counts > 0) & (np.arange(len(counts)) != label))
        is_other = len(others) and (draws[0] < 0.5 or counts[label] < 2)
        return int(others[int(draws[1] * len(others))]) if is_other else int(label)


class AssignmentFacts:
    """`cells`, `n_cells`, `candidates` and their `assignment`: a puzzle of the cell and others of its group.

    Raises:
        ConfigurationError: types cannot be told apart in an answer, or no group has enough of them.
    """

    slot, settings = "cell_type", ("match", "cells")

    def __init__(self, ground: Ground) -> None:
        self._names, self._field = ground.names["cell_type"], ground.fields["cell_type"]
        check_labels(ground.labels["cell_type"], self._names)
        self._least, self._most = check_cells(ground.cells or CELLS, fewest=2)
        self._pools = Pools(ground.corpus, self._field, ground.match)
        self._n_types = (self._pools.counts > 0).sum(axis=1)
        what = f"{self._least} types among the cells with the same values of `match` (`--match`, `--cells`)"
        _tell(self._pools.counts.sum(axis=1), self._n_types >= self._least, what)
        self._others = OtherCells(ground.corpus, ground.words)

    def slots(self, asked: Asked) -> list[Slots | None]:
        """For each cell; None where there is no question about it."""
        groups, labels = self._pools.groups(asked.batch), np.asarray(asked.batch[self._field])
        cells = np.flatnonzero(self._n_types[groups] >= self._least)
        # drawn by the number of the label: labels first, then one cell of each, then their order
        n_labels = self._pools.counts.shape[1]
        by_label = uniforms_for(asked.keys, Stream.OTHER_LABELS, 3 * n_labels).reshape(-1, 3, n_labels)
        sizes = uniforms_for(asked.keys, Stream.OTHER_CELLS, 1)[:, 0]
        chosen = [self._chosen(groups[cell], labels[cell], sizes[cell], by_label[cell, 0]) for cell in cells]
        places = [
            self._pools.drawn(groups[cell], label, by_label[cell, 1, label])
            for cell, others in zip(cells, chosen, strict=True)
            for label in others
        ]
        sentences = iter(self._others.sentences(np.array(places, np.int64), asked.epoch))
        found: list[Slots | None] = [None] * len(groups)
        for cell, others in zip(cells, chosen, strict=True):
            shown = {int(labels[cell]): asked.sentences[cell]} | {label: next(sentences) for label in others}
            order = sorted(shown, key=lambda label: by_label[cell, 2, label])
            found[cell] = self._puzzle([self._names[label] for label in order], [shown[label] for label in order])
        return found

    def _chosen(self, group: int, label: int, size: float, draws: np.ndarray) -> list[int]:
        """The types of the other cells."""
        most = min(self._most, self._n_types[group])
        n_others = self._least + int(size * (most - self._least + 1)) - 1
        others = np.flatnonzero((self._pools.counts[group] > 0) & (np.arange(len(draws)) != label))
        return others[np.argsort(draws[others], kind="stable")[:n_others]].tolist()

    @staticmethod
    def _puzzle(types: list[str], sentences: list[str]) -> Slots:
        return {
            "n_cells": len(types),
            "cells": listed_cells(sentences),
            "candidates": listed_labels(sorted(types)),
            "assignment": listed_labels(types),
        }


class DescriptionFacts:
    """`description`: the type, the other columns, the strongest genes, and what rules say about the genes."""

    slot, settings = "cell_type", ("rules",)

    def __init__(self, ground: Ground) -> None:
        self._fields, self._names = ground.fields, ground.names
        self._reasoner = RuleReasoner(ground.rules or ())
        labels = self._names["cell_type"]
        if ground.rules and not any(map(self._reasoner.rules_of, labels)):
            told = ", ".join(map(repr, labels[:3]))
            warn(f"No rule is about a cell type of these cells, such as {told}: descriptions cite none.")

    def slots(self, asked: Asked) -> list[Slots | None]:
        """For each cell."""
        return [{"description": self._description(asked, cell)} for cell in range(len(asked.sentences))]

    def _description(self, asked: Asked, cell: int) -> str:
        values = {slot: self._names[slot][asked.batch[field][cell]] for slot, field in self._fields.items()}
        label, sentence = values.pop("cell_type"), asked.sentences[cell]
        known = "".join(f"; {slot.replace('_', ' ')}: {value}" for slot, value in values.items())
        genes = f" Its most expressed genes are {_enumerated(sentence.split()[:_N_GENES])}." if sentence else ""
        said = [one.text for one in self._reasoner.evidence(sentence, label)]
        return " ".join([f"Cell type: {label}{known}.{genes}", *said])


FACTS = {
    "control": ControlFacts,
    "pair": PairFacts,
    "assignment": AssignmentFacts,
    "description": DescriptionFacts,
}
"""What a file of templates may name under `facts`."""


def _comparison(types: tuple[str, str], first: str, second: str) -> str:
    """Types of two cells, and genes in common and apart, in the order of their sentences."""
    ones, others = first.split(), second.split()
    same = types[0] == types[1]
    lines = [f"Both cells are of type {types[0]}." if same else f"Cell 1: {types[0]}. Cell 2: {types[1]}."]
    for said, genes in (
        ("Both show", [gene for gene in ones if gene in set(others)]),
        ("Only cell 1 shows", [gene for gene in ones if gene not in set(others)]),
        ("Only cell 2 shows", [gene for gene in others if gene not in set(ones)]),
    ):
        if genes:
            lines.append(f"{said} {_enumerated(genes[:_N_GENES])}.")
    return " ".join(lines)


def _enumerated(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _refuse_one_type(names: Sequence[str]) -> None:
    if len(set(names)) < 2:
        raise ConfigurationError(f"The task needs cells of two types or more, got {list(names)}.")


def _tell(n_cells: np.ndarray, can_ask: np.ndarray, lacking: str) -> None:
    """Refuse groups of cells none of which can be asked about, and say how many cells cannot."""
    if not n_cells[can_ask].sum():
        raise ConfigurationError(f"No cell can be asked about: each lacks {lacking}.")
    if left_out := int(n_cells[~can_ask].sum()):
        warn(f"{counted(left_out, 'cell')} of {int(n_cells.sum()):,} give no questions, lacking {lacking}.")
