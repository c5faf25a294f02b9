"""Rules about cell types: which genes speak for a type and which against it, why, and where that is published."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from ..errors import ConfigurationError, require

Direction = Literal["high", "low"]


@dataclass(frozen=True)
class MarkerRule:
    """What genes say about one cell type.

    Attributes:
        id: identifies the rule.
        label: the cell type.
        genes: symbols; a rule speaks where all of them are expressed as it says, or, if it excludes the type, any.
        direction: `"high"`: cells of the type express them; `"low"`: they do not.
        reason: a sentence that says why.
        source: where that is published, such as `"PMID 12612578"`.
        tissues: where the rule holds; empty = everywhere.
    """

    id: str
    label: str
    genes: tuple[str, ...]
    direction: Direction
    reason: str = ""
    source: str = ""
    tissues: tuple[str, ...] = ()


@dataclass(frozen=True)
class MarkerSet:
    """The genes that speak for a cell type, and those that speak against it.

    Attributes:
        label: the cell type.
        positive, negative: symbols.
        source: where they are published.
    """

    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    source: str = ""


def axiom_rules(tissue: str | None = None) -> list[MarkerRule]:
    """The rules of the package `axiom-sc` (Apache-2.0), drawn from CellMarker 2.0 and the literature.

    Rules about the activity of a regulon are left out, as expression alone does not show it.

    Args:
        tissue: keep rules of this tissue and those that hold everywhere; all unless given.

    Raises:
        MissingDependencyError: the package is not installed.
        ConfigurationError: the installed version has no rules that can be read.
    """
    require("axiom_sc", extra="text")
    folder = files("axiom_sc") / "kg_data"
    found = sorted((one for one in folder.iterdir() if one.name.endswith(".json")), key=lambda one: one.name)
    try:
        read = json.loads(found[-1].read_text("utf-8"))
        rules = [_rule(one) for one in read if one["status"] == "ACTIVE" and one["evidence_source"] == "marker_genes"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The rules of the installed `axiom-sc` are of an unknown form ({type(error).__name__}: {error}): run "
            "`pip install 'sclm_hf[text]'`."
        ) from error
    return [rule for rule in rules if tissue is None or not rule.tissues or tissue in rule.tissues]


def _rule(one: dict[str, Any]) -> MarkerRule:
    # a rule against a type names the genes that contradict it, whichever way it says so
    direction = "low" if one["rule_type"] == "negative" or one["direction"] in ("low", "absent") else "high"
    return MarkerRule(
        id=one["rule_id"],
        label=one["cell_type"].replace("_", " "),
        genes=tuple(one["gene_or_regulon"]),
        direction=direction,
        reason=one["mechanistic_basis"],
        source=f"PMID {one['pmid']}",
        tissues=tuple(one["tissue_context"] or ()),
    )


def marker_sets(rules: Iterable[MarkerRule]) -> list[MarkerSet]:
    """The rules of each cell type as one set of genes, in the order of the types."""
    by_label: dict[str, list[MarkerRule]] = {}
    for rule in rules:
        by_label.setdefault(rule.label, []).append(rule)
    return [
        MarkerSet(
            label,
            _genes(group, "high"),
            _genes(group, "low"),
            "; ".join(dict.fromkeys(rule.source for rule in group if rule.source)),
        )
        for label, group in by_label.items()
    ]


def _genes(rules: Sequence[MarkerRule], direction: Direction) -> tuple[str, ...]:
    return tuple(dict.fromkeys(gene for rule in rules if rule.direction == direction for gene in rule.genes))
