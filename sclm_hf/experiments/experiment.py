"""What an experiment is: a question, its data sets and settings, a function for one piece, one for the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Size(NamedTuple):
    """How much of everything a piece takes.

    Attributes:
        n_cells: cells per data set at most, always the same ones.
        n_genes: genes of each data set, those that vary most.
        n_steps: optimiser steps of each training.
    """

    n_cells: int
    n_genes: int
    n_steps: int


FULL = Size(n_cells=400, n_genes=200, n_steps=60)
FAST = Size(n_cells=150, n_genes=60, n_steps=2)
"""To see whether an experiment runs; its numbers mean nothing."""


class Piece(NamedTuple):
    """One setting with one seed, which is run as a whole.

    Attributes:
        setting: one of the experiment's.
        seed: of splits, new weights and training.
        size: how much it takes.
        data: folder of the `.h5ad` files.
        scratch: an empty folder, which is deleted afterwards.
    """

    setting: str
    seed: int
    size: Size
    data: Path
    scratch: Path


Found = Mapping[str, Mapping[int, dict[str, Any]]]
"""Setting -> seed -> what its piece gave."""


class Table(NamedTuple):
    """A table of a page.

    Attributes:
        title: its heading.
        head: names of the columns.
        rows: cells as text, the baseline first.
        note: how the numbers came about.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str


@dataclass
class Page:
    """What an experiment found.

    Attributes:
        answers: sentences that follow from the numbers.
        tables: the tables.
        figures: name of the file, without suffix -> the figure and its caption.
        numbers: the numbers of the tables, as JSON holds them.
    """

    answers: list[str]
    tables: list[Table]
    figures: "dict[str, tuple[Figure, str]]" = field(default_factory=dict)
    numbers: Any = None


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its name, that of its file.
        title: heading of its page.
        question: what is asked.
        datasets: names of the `.h5ad` files that it reads.
        settings: what is run with each seed.
        run: what one piece gives, as JSON holds it.
        report: what all pieces say together.
        methods: what is compared and how, in sentences.
        needs: modules of the extra `integration` that it takes.
    """

    name: str
    title: str
    question: str
    datasets: tuple[str, ...]
    settings: tuple[str, ...]
    run: Callable[[Piece], dict[str, Any]]
    report: Callable[[Found], Page]
    methods: tuple[str, ...]
    needs: tuple[str, ...] = ()
