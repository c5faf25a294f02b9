"""An ontology of cell types: a tree whose leaves are classes, and names of any grain as sets of its leaves.

Two files may call their cells "T/NK" and "regulatory T": both names are sets of the same leaves, and a classifier of
leaves learns from both.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError
from ...files import read_yaml

_DATA = Path(__file__).parent / "data"

UNKNOWN = ("unassigned", "unknown", "unclassified", "unlabelled", "unclear", "other", "doublet", "not applicable")
"""Names that say nothing about a cell: every leaf is possible."""


@dataclass(frozen=True)
class Ontology:
    """A tree of cell types, and the names that stand for parts of it.

    Attributes:
        parents: node -> the node above it, None for the highest; where it is no tree, all nodes above.
        names: other name, as [`simplified`], -> the nodes that it means together.
        classes: the nodes that are classes; None = the leaves.
        classes_by_label: the nodes that labels name become classes, see [`for_labels`].
    """

    parents: Mapping[str, str | Sequence[str] | None]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    classes_by_label: bool = False

    def __post_init__(self) -> None:
        for name, nodes in self.names.items():
            for node in set(nodes) - set(self.parents):
                raise ConfigurationError(f"The ontology says that {name!r} means {node!r}, which is not in its tree.")
        for node in self.parents:
            if self.names.get(simplified(node), (node,)) != (node,):
                raise ConfigurationError(f"{node!r} is a node of the ontology and cannot be the name of others too.")

    @cached_property
    def leaves(self) -> list[str]:
        """The classes: the nodes with none below them, in the order of the tree, or those named by labels."""
        if self.classes is not None:
            return list(self.classes)
        above = {parent for node in self.parents for parent in self._above(node)}
        return [node for node in self.parents if node not in above]

    def ancestors(self, node: str) -> list[str]:
        """A node and those above it, the highest last."""
        path = [node]
        for one in path:
            path += [parent for parent in self._above(one) if parent not in path]
        return path

    def distance(self, name: str, other: str) -> int | None:
        """Steps from one name to another, up to the nearest node above both and down again.

        Names that mean several nodes are as far apart as the nearest of these; a node has the distance 0 from its own
        synonyms, 1 from the nodes directly above and below it, and 2 from its siblings.

        Returns:
            None where the ontology does not know a name, a name says nothing, or no node stands above both.
        """
        nodes, others = (self.nodes_named(one) if self.knows(one) else () for one in (name, other))
        steps = [
            up + heights[above]
            for node in nodes
            for heights in map(self._heights, others)
            for above, up in self._heights(node).items()
            if above in heights
        ]
        return min(steps, default=None)

    def similarity(self, name: str, other: str) -> float:
        """1 for one name or synonyms, else `1 / (1 + distance)`; 0 where there is no distance."""
        if simplified(name) == simplified(other):
            return 1.0
        distance = self.distance(name, other)
        return 0.0 if distance is None else 1 / (1 + distance)

    def _heights(self, node: str) -> dict[str, int]:
        """A node and those above it -> the least number of steps up to them."""
        heights = {node: 0}
        for one in (queue := [node]):
            for parent in self._above(one):
                if parent not in heights:
                    heights[parent] = heights[one] + 1
                    queue.append(parent)
        return heights

    def _above(self, node: str) -> Sequence[str]:
        parents = self.parents[node]
        return () if parents is None else (parents,) if isinstance(parents, str) else parents

    @property
    def is_tree(self) -> bool:
        """Whether no node stands below several others."""
        return all(len(self._above(node)) < 2 for node in self.parents)

    def part_above(self, nodes: Iterable[str]) -> dict[str, str | list[str] | None]:
        """The part of `parents` that some nodes and those above them have, as JSON holds it."""
        needed = {above for node in nodes for above in self.ancestors(node)}
        kept = {node: parents for node, parents in self.parents.items() if node in needed}
        return {node: list(found) if isinstance(found, tuple) else found for node, found in kept.items()}

    def for_labels(self, labels: Iterable[str]) -> "Ontology":
        """The ontology with the classes that these labels call for, where they decide about classes.

        Raises:
            ConfigurationError: it does not know one of the labels.
        """
        if not self.classes_by_label:
            return self
        labels = list(labels)
        self._refuse_unknown(labels)
        classes = sorted({node for label in labels for node in self.nodes_named(label)})
        return replace(self, classes=tuple(classes), classes_by_label=False)

    def members(self, nodes: Iterable[str]) -> np.ndarray:
        """(nodes, leaves) bool: which leaves lie at or below each node."""
        paths = [set(self.ancestors(leaf)) for leaf in self.leaves]
        return np.array([[node in path for path in paths] for node in nodes], bool).reshape(-1, len(paths))

    def nodes_named(self, name: str) -> tuple[str, ...]:
        """The nodes that a name means together; none for a name that says nothing, such as `"unassigned"`.

        Raises:
            KeyError: the ontology does not know the name.
        """
        return self._meanings[simplified(name)]

    def knows(self, name: str) -> bool:
        """Whether a name means something, be it that the cell may be anything."""
        return simplified(name) in self._meanings

    def label_sets(self, names: Sequence[str]) -> np.ndarray:
        """Which leaves each name may mean; all of them where it says nothing.

        Args:
            names: of labels.

        Returns:
            (names, leaves) bool.

        Raises:
            ConfigurationError: the ontology does not know one of the names.
        """
        self._refuse_unknown(names)
        sets = np.ones((len(names), len(self.leaves)), bool)
        for number, name in enumerate(names):
            if nodes := self.nodes_named(name):
                sets[number] = self.members(nodes).any(axis=0)
        return sets

    def meanings(self, names: Sequence[str], leaves: Sequence[str]) -> np.ndarray:
        """Which of the leaves of a model each name means; none where the ontology does not know it or it says nothing.

        Args:
            names: of labels.
            leaves: classes of a model; those that the ontology does not know are meant by no name.

        Returns:
            (names, leaves) bool.
        """
        places = {leaf: place for place, leaf in enumerate(leaves)}
        found = np.zeros((len(names), len(leaves)), bool)
        for number, name in enumerate(names):
            nodes = self.nodes_named(name) if self.knows(name) else ()
            meant = np.flatnonzero(self.members(nodes).any(axis=0)) if nodes else ()
            found[number, [places[self.leaves[leaf]] for leaf in meant if self.leaves[leaf] in places]] = True
        found[found.all(axis=1)] = False
        return found

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        if unknown := [name for name in names if not self.knows(name)]:
            known = list(self.parents)
            raise ConfigurationError(
                f"The ontology does not know the labels {unknown[:10]}: leave such cells out with "
                "`unknown_labels='drop'` (`--unknown_labels drop`), or add the names under `synonyms` or `sets` of an "
                f"ontology file of your own that begins with `includes`. It knows {', '.join(known[:60])}"
                f"{', …' if len(known) > 60 else ''}."
            )

    @cached_property
    def _meanings(self) -> dict[str, tuple[str, ...]]:
        own = {simplified(node): (node,) for node in self.parents}
        return dict.fromkeys(map(simplified, UNKNOWN), ()) | dict(self.names) | own

    @classmethod
    def load(cls, names: "str | Path | Sequence[str | Path] | Ontology") -> "Ontology":
        """An ontology of the package, one from a YAML file, or several as one.

        Args:
            names: `"blood"`, `"retina"`, `"heart"`, `"pancreas"` or the path of a file of the same form; several as a
                sequence or joined by `+`, as in `"blood+retina"`.

        Raises:
            ConfigurationError: there is no such ontology, it cannot be read, or two contradict one another.
        """
        if isinstance(names, Ontology):
            return names
        several = names.split("+") if isinstance(names, str) else [names] if isinstance(names, Path) else names
        parts = [part for name in several for part in _parts(name)]
        return _joined(parts)


def available() -> list[str]:
    """Names of the ontologies of the package."""
    return sorted(path.stem for path in _DATA.glob("*.yaml"))


def simplified(name: str) -> str:
    """A name without what differs between files: case, plurals, `+`, punctuation between words, the word "cell".

    Example:

        >>> simplified("CD14+ Monocytes"), simplified("T_CD4"), simplified("CD4 T cells")
        ('cd14 monocyte', 't cd4', 'cd4 t')
    """
    words = re.sub(r"[\s_/+(),]+|(?<=\w)-(?=\w)", " ", name.strip().casefold()).split()
    singular = [re.sub(r"(?<=\w{3})(?<!s)s$", "", word) for word in words]
    return " ".join([word for word in singular if word != "cell"] or singular)


def _parts(name: str | Path) -> list[Mapping[str, Any]]:
    """The ontology of a file, after those that it includes."""
    path = _DATA / f"{name}.yaml" if str(name) in available() else Path(name)
    if not path.is_file():
        raise ConfigurationError(
            f"`ontology` must be one of {', '.join(available())} or a YAML file, several joined by `+`, or "
            f"cl, which stands alone, for the Cell Ontology; got {name!r}."
        )
    content = read_yaml(path)
    if not isinstance(content, dict) or not set(content) <= {"title", "includes", "tree", "synonyms", "sets"}:
        raise ConfigurationError(
            f"The ontology {path} must be a mapping with some of `title`, `includes`, `tree`, `synonyms` and `sets`."
        )
    return [part for other in content.get("includes") or () for part in _parts(other)] + [content]


def _joined(parts: Sequence[Mapping[str, Any]]) -> Ontology:
    parents: dict[str, str | None] = {}
    names: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for node, parent in _walk(part.get("tree") or {}, None):
            if parents.setdefault(node, parent) != parent:
                raise ConfigurationError(f"{node!r} stands below {parents[node]!r} and {parent!r} in the ontology.")
        synonyms = part.get("synonyms") or {}
        meanings = [(name, (node,)) for node, others in synonyms.items() for name in others]
        for name, nodes in [*meanings, *((name, tuple(nodes)) for name, nodes in (part.get("sets") or {}).items())]:
            if names.setdefault(simplified(str(name)), nodes) != nodes:
                known = names[simplified(str(name))]
                raise ConfigurationError(f"The ontology gives the name {name!r} two meanings: {known} and {nodes}.")
    return Ontology(parents, names)


def _walk(tree: Mapping[str, Any], parent: str | None) -> Iterable[tuple[str, str | None]]:
    for node, below in tree.items():
        yield node, parent
        yield from _walk(below or {}, node)
