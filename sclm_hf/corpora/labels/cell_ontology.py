"""The Cell Ontology as labels: names, synonyms and ids of terms, from the package `cellxgene-ontology-guide`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import require
from .ontology import Ontology, simplified

CELL_ONTOLOGY = "cl"
"""What the Cell Ontology is called."""


def open_ontology(names: str | Path | Sequence[str | Path] | Ontology) -> Ontology:
    """The Cell Ontology for `"cl"`, else as [`Ontology.load`].

    Raises:
        ConfigurationError: see there.
        MissingDependencyError: see [`cell_ontology`].
    """
    return cell_ontology() if names == CELL_ONTOLOGY else Ontology.load(names)


def cell_ontology(terms: Mapping[str, Mapping[str, Any]] | None = None) -> Ontology:
    """The terms of the Cell Ontology, of which those that labels name become classes.

    A label is the set of the classes at or below its term: "T cell" may be each kind of T cell that another label
    names, or a T cell of no such kind.

    Args:
        terms: id -> `label`, `ancestors` (id -> distance), `deprecated` and perhaps `synonyms` and `replaced_by`; by
            default those of the package.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    terms = _terms() if terms is None else terms
    labels = {one: term["label"] for one, term in terms.items() if not term["deprecated"]}
    parents = {
        label: tuple(
            labels[above] for above, distance in terms[one]["ancestors"].items() if distance == 1 and above in labels
        )
        for one, label in labels.items()
    }
    return Ontology(parents, _names(terms, labels), classes_by_label=True)


class Definition(NamedTuple):
    """What the Cell Ontology says a cell type is.

    Attributes:
        id: for example `"CL:0000084"`.
        label: its name.
        text: the definition.
        synonyms: its other names.
    """

    id: str
    label: str
    text: str
    synonyms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then the others, then its id."""
        return (self.label, *self.synonyms, self.id)


def definitions(terms: Mapping[str, Mapping[str, Any]] | None = None) -> list[Definition]:
    """The terms of the Cell Ontology that have a definition and are not deprecated, in the order of their ids.

    Args:
        terms: as for [`cell_ontology`], with `description`.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    terms = _terms() if terms is None else terms
    return [
        Definition(one, term["label"], " ".join(term["description"].split()), tuple(term.get("synonyms", ())))
        for one, term in sorted(terms.items())
        if term.get("description") and not term["deprecated"]
    ]


def _terms() -> Mapping[str, Mapping[str, Any]]:
    guide = require("cellxgene_ontology_guide.ontology_parser", extra="ontology")
    return guide.OntologyParser().cxg_schema.ontology("CL")


def _names(terms: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Ids and synonyms -> label; what is a label of its own, or a synonym of several terms, is left out."""
    taken = {simplified(label) for label in labels.values()}
    meanings: dict[str, set[str]] = {}
    for one, label in labels.items():
        for name in terms[one].get("synonyms", ()):
            meanings.setdefault(simplified(name), set()).add(label)
    names = {name: tuple(found) for name, found in meanings.items() if len(found) == 1 and name not in taken}
    names |= {simplified(one): (label,) for one, label in labels.items()}
    replaced = {one: term["replaced_by"] for one, term in terms.items() if term.get("replaced_by") in labels}
    return names | {simplified(old): (labels[new],) for old, new in replaced.items()}
