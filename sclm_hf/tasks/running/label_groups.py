"""Labels on a coarser level: the groups in which an ontology puts the classes of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...corpora.labels.cell_ontology import open_ontology
from ...corpora.labels.ontology import Ontology
from ...errors import ConfigurationError


class LabelGroups:
    """The classes of a model and the groups above them; a group is as probable as its classes together.

    Args:
        paths: for each class, the names that it may be called by, from the finest to the coarsest.

    Attributes:
        names: all these names.
    """

    def __init__(self, paths: Sequence[Sequence[str]]) -> None:
        self.names = list(dict.fromkeys(name for path in paths for name in path))
        numbers = {name: number for number, name in enumerate(self.names)}
        self._paths = np.full((len(paths), max(map(len, paths))), -1)
        self._members = np.zeros((len(self.names), len(paths)), np.float32)
        for index, path in enumerate(paths):
            self._paths[index, : len(path)] = [numbers[name] for name in path]
            self._members[self._paths[index, : len(path)], index] = 1

    @classmethod
    def of(cls, label_names: Sequence[str], ontology: Ontology, level: int | None = None) -> "LabelGroups":
        """The groups of an ontology.

        Args:
            label_names: names of the classes.
            ontology: knows each of them by one node.
            level: the finest level, counted from the coarsest, 1; None = the classes themselves.

        Raises:
            ConfigurationError: the ontology does not know a class by one node.
        """
        if level is not None and not ontology.is_tree:
            raise ConfigurationError("The ontology is no tree and has no levels: ask for `evidence` (`--evidence`).")
        # a name without one meaning is found by its absence
        nodes = [ontology.nodes_named(name) if ontology.knows(name) else () for name in label_names]
        if strange := [name for name, found in zip(label_names, nodes, strict=True) if len(found) != 1]:
            raise ConfigurationError(
                f"The ontology has no node for the labels {strange[:10]} of the model: give an ontology that has "
                "(`ontology`, `--ontology`), or leave out `level` and `evidence`."
            )
        paths = [ontology.ancestors(node) for (node,) in nodes]
        return cls([path if level is None else path[-level:] for path in paths])

    def call(self, probabilities: np.ndarray, evidence: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """What each cell is called: the most probable finest name, or the first above it that is probable enough.

        Args:
            probabilities: (cells, classes).
            evidence: least probability of what a cell is called.

        Returns:
            (cells,) positions in `names`, `len(names)` where even the coarsest is not probable enough; and (cells,)
            float32 its probability.
        """
        grouped = np.minimum(probabilities @ self._members.T, 1)
        finest = grouped[:, self._paths[:, 0]].argmax(axis=1)
        paths = self._paths[finest]
        summed = np.where(paths >= 0, np.take_along_axis(grouped, np.maximum(paths, 0), axis=1), -1)
        enough = summed >= evidence
        steps = np.where(enough.any(axis=1), enough.argmax(axis=1), (paths >= 0).sum(axis=1) - 1)
        cells = np.arange(len(paths))
        codes = np.where(enough.any(axis=1), paths[cells, steps], len(self.names))
        return codes, summed[cells, steps].astype(np.float32)


def groups_of(
    config: Any, label_names: Sequence[str], ontology: str | None, level: int | None, evidence: float
) -> LabelGroups | None:
    """The groups that settings of `annotate` ask for, None where they ask for none.

    Args:
        config: of the model, which may know an ontology.
        label_names: names of the classes.
        ontology: another one; None = that of the model.
        level, evidence: as there.

    Raises:
        ConfigurationError: there is no ontology, or it does not know the classes.
    """
    if level is None and not evidence:
        if ontology is not None:
            raise ConfigurationError(
                "`ontology` (`--ontology`) says how labels are grouped: give `level` or `evidence` (`--level`, "
                "`--evidence`) too."
            )
        return None
    parents = getattr(config, "label_parents", None)
    if ontology is None and not parents:
        raise ConfigurationError(
            "The model does not say how its labels are grouped, which `level` and `evidence` need: give `ontology`, "
            "for example `ontology='blood'` (`--ontology blood`)."
        )
    known = open_ontology(ontology) if ontology is not None else Ontology(parents)
    return LabelGroups.of(label_names, known, level)
