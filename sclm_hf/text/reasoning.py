"""Reasoning to learn from: traces that follow from rules about markers, and the good answers of any teacher.

A trace says for each cell which rules speak for and against the candidates, with the reason and the source that the
rule gives, so that nothing in it is made up; its answer follows from the rules and may be wrong, which
[`rejection_sample`] finds out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..corpora.labels.ontology import Ontology, simplified
from ..errors import ConfigurationError
from .neutral import neutralise
from .parsing import SEPARATOR
from .rules import MarkerRule

Row = dict[str, Any]
Teacher = Callable[[list[Any]], Sequence[str]]
Reward = Callable[..., Sequence[float | None]]


class Trace(NamedTuple):
    """Reasoning and what follows from it.

    Attributes:
        reasoning: sentences, one per line.
        labels: the label of each cell.
        sources: what the reasoning cites, each once.
    """

    reasoning: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def text(self) -> str:
        """A completion: a think block, a line break and an answer block."""
        answer = f" {SEPARATOR} ".join(self.labels)
        return f"<think>{self.reasoning}</think>\n<answer>{answer}</answer>"


class Evidence(NamedTuple):
    """A rule that a cell meets or breaks.

    Attributes:
        rule: the rule.
        label: the candidate that it is about.
        genes: those of its genes that the cell expresses.
        supports: whether it speaks for the candidate.
    """

    rule: MarkerRule
    label: str
    genes: tuple[str, ...]
    supports: bool

    @property
    def text(self) -> str:
        """It as a sentence, with the reason and the source of the rule."""
        verb = "speaks for" if self.supports else "contradicts"
        genes = " and ".join(self.genes)
        why = f" {self.rule.reason.rstrip('.')}" if self.rule.reason else ""
        source = f" ({self.rule.source})" if self.rule.source else ""
        colon = ":" if why else ""
        return neutralise(f"{genes} {verb} {self.label}{colon}{why}{source}.")


class RuleReasoner:
    """Labels cells by rules about markers and says why.

    A rule with direction `high` supports a type where the cell expresses all of its genes; one with direction `low`
    contradicts it where the cell expresses any. Rules of a type also hold for the types below it.

    Args:
        rules: for example from [`~rules.axiom_rules`].
        ontology: knows synonyms, and which types stand above others; without it names must agree apart from case,
            plural and punctuation.
        names: candidate -> names of the rules' types that mean it, where neither says so.
        contradiction: how many supporting rules one contradiction outweighs.
        n_reasons: how many rules a trace names per cell and side.

    Example:

        >>> reasoner = RuleReasoner(axiom_rules("blood"), cell_ontology())  # doctest: +SKIP
        >>> reasoner.trace(["CD3D TRAC IL7R"], ["T cell", "B cell"]).text  # doctest: +SKIP
    """

    def __init__(
        self,
        rules: Iterable[MarkerRule],
        ontology: Ontology | None = None,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        contradiction: float = 2.0,
        n_reasons: int = 2,
    ) -> None:
        self.rules, self.ontology, self.names = tuple(rules), ontology, dict(names or {})
        self.contradiction, self.n_reasons = contradiction, n_reasons
        self._rules_of: dict[str, list[MarkerRule]] = {}

    def rules_of(self, label: str) -> list[MarkerRule]:
        """The rules that hold for a candidate."""
        if label not in self._rules_of:
            meant = [label, *self.names.get(label, ())]
            names, above = {simplified(name) for name in meant}, self._above(meant)
            self._rules_of[label] = [
                rule
                for rule in self.rules
                if simplified(rule.label) in names or (above and not above.isdisjoint(self._nodes(rule.label)))
            ]
        return self._rules_of[label]

    def _above(self, names: Sequence[str]) -> set[str]:
        """The nodes of the ontology that names mean, and those above them."""
        return {one for name in names for node in self._nodes(name) for one in self.ontology.ancestors(node)}

    def _nodes(self, name: str) -> Sequence[str]:
        return self.ontology.nodes_named(name) if self.ontology is not None and self.ontology.knows(name) else ()

    def evidence(self, sentence: str, label: str) -> list[Evidence]:
        """The rules about a candidate that speak in a cell.

        Args:
            sentence: the genes of the cell that count as expressed.
            label: the candidate.
        """
        expressed = set(sentence.upper().split())
        found = []
        for rule in self.rules_of(label):
            genes = tuple(gene for gene in rule.genes if gene.upper() in expressed)
            supports = rule.direction == "high"
            if len(genes) == len(rule.genes) or (genes and not supports):
                found.append(Evidence(rule, label, genes, supports))
        return found

    def trace(self, sentences: Sequence[str], candidates: Sequence[str], *, each_once: bool | None = None) -> Trace:
        """Label cells and say why.

        Args:
            sentences: (cells,) cell sentences.
            candidates: the possible labels.
            each_once: give each candidate to at most one cell, so that the sum of the scores is highest; by default
                where there are several cells and as many candidates.

        Raises:
            ConfigurationError: there are no cells or candidates, or fewer candidates than cells where each is given
                once.
        """
        n = len(sentences)
        each_once = n == len(candidates) > 1 if each_once is None else each_once
        if not n or not candidates or (each_once and len(candidates) < n):
            raise ConfigurationError(
                f"{n} cells and {len(candidates)} candidates: give at least one cell and as many."
            )
        found = [[self.evidence(sentence, label) for label in candidates] for sentence in sentences]
        scores = np.array([[self._score(one) for one in row] for row in found])
        chosen = linear_sum_assignment(-scores)[1] if each_once else scores.argmax(axis=1)
        lines, cited = [], {}
        for cell, label in enumerate(chosen):
            said = self._said(found[cell], int(label))
            where = f"Cell {cell + 1}: " if n > 1 else ""
            lines.append(where + self._line(said, candidates[label], scores[cell], int(label)))
            cited |= dict.fromkeys(one.rule.source for one in said if one.rule.source)
        return Trace("\n".join(lines), tuple(candidates[one] for one in chosen), tuple(cited))

    def _score(self, found: list[Evidence]) -> float:
        return sum(1.0 if one.supports else -self.contradiction for one in found)

    def _said(self, found: list[list[Evidence]], chosen: int) -> list[Evidence]:
        """The reasons named: for the candidate chosen, then against others."""
        reasons = [one for one in found[chosen] if one.supports]
        others = [one for label, row in enumerate(found) if label != chosen for one in row if not one.supports]
        return [*reasons[: self.n_reasons], *others[: self.n_reasons]]

    def _line(self, said: list[Evidence], label: str, scores: np.ndarray, chosen: int) -> str:
        sentences = [one.text for one in said]
        if scores[chosen] < scores.max():
            sentences.append(f"Another cell fits better what fits this one best, which leaves {label}.")
        elif not any(one.supports for one in said):
            sentences.append(f"No rule speaks for a candidate; {label} is not ruled out.")
        else:
            sentences.append(f"So it is {label}.")
        return " ".join(sentences)


def reasoned(rows: Iterable[Row], reasoner: RuleReasoner) -> list[Row]:
    """Rows with `sentences` and `candidates`, such as puzzles, with a trace as their `completion`."""
    return [
        {**row, "completion": [_answered(reasoner.trace(row["sentences"], row["candidates"]).text)]} for row in rows
    ]


def rejection_sample(
    rows: Iterable[Row],
    teacher: Teacher,
    reward: Reward,
    *,
    n_samples: int = 4,
    least: float = 1.0,
    batch_size: int = 16,
) -> tuple[list[Row], float]:
    """Ask a teacher and keep what earns enough: data for supervised fine-tuning.

    Args:
        rows: with `prompt` and the columns that the reward needs.
        teacher: any function from prompts to one completion for each, such as a text-generation pipeline, a client of
            a server, or a function that returns the traces of a [`RuleReasoner`].
        reward: in TRL's signature, see [`~rewards`].
        n_samples: how often a prompt is asked at most; it is not asked again once an answer was kept.
        least: the least reward of what is kept.
        batch_size: how many prompts the teacher gets at a time.

    Returns:
        The rows that an answer was kept for, in order, with `completion` and `reward`; and the share kept.

    Raises:
        ConfigurationError: the teacher does not answer each prompt, or there are no rows.
    """
    rows = list(rows)
    if not rows:
        raise ConfigurationError("There are no rows to ask the teacher about.")
    kept: dict[int, Row] = {}
    for _ in range(n_samples):
        left = [number for number in range(len(rows)) if number not in kept]
        for start in range(0, len(left), batch_size):
            numbers = left[start : start + batch_size]
            for number, text, earned in _asked(numbers, rows, teacher, reward):
                if earned is not None and earned >= least:
                    kept[number] = {**rows[number], "completion": [_answered(text)], "reward": float(earned)}
    return [kept[number] for number in sorted(kept)], len(kept) / len(rows)


def _asked(numbers: list[int], rows: list[Row], teacher: Teacher, reward: Reward) -> Iterable[tuple]:
    asked = [rows[number] for number in numbers]
    texts = list(teacher([row["prompt"] for row in asked]))
    if len(texts) != len(asked):
        raise ConfigurationError(f"The teacher gave {len(texts)} answers to {len(asked)} prompts: expected one each.")
    columns = {name: [row[name] for row in asked] for name in asked[0] if name not in ("prompt", "completion")}
    prompts = [row["prompt"] for row in asked]
    return zip(numbers, texts, reward(prompts=prompts, completions=texts, **columns), strict=True)


def _answered(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
