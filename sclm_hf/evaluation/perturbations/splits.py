"""Which conditions are trained on, which choose among models, and which are predicted; in TOML files as STATE's.

Such a file has the tables `[datasets]` (name -> path), `[training]` (name -> `"train"`), `[zeroshot]`
(`"<data set>.<cell type>"` -> `"val"` or `"test"`, all perturbations of that type) and, for some perturbations of a
type, `[fewshot."<data set>.<cell type>"]` with the lists `val` and `test`. Controls are always trained on.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError
from ...files import read_text_file, write_text
from .screen import Condition, Screen

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class PerturbationSplit:
    """What a split file says.

    Attributes:
        datasets: data set -> path.
        training: data set -> `"train"`.
        zeroshot: `<data set>.<cell type>` -> `"val"` or `"test"`.
        fewshot: `<data set>.<cell type>` -> part -> perturbations.
    """

    datasets: dict[str, str] = field(default_factory=dict)
    training: dict[str, str] = field(default_factory=dict)
    zeroshot: dict[str, str] = field(default_factory=dict)
    fewshot: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> "PerturbationSplit":
        """Read a split file.

        Raises:
            ConfigurationError: it cannot be read, or says something else than such a file.
        """
        try:
            content = tomllib.loads(read_text_file(Path(path)))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigurationError(f"The split `{path}` cannot be read as TOML: {error}.") from error
        if unknown := sorted(set(content) - {"datasets", "training", "zeroshot", "fewshot"}):
            raise ConfigurationError(
                f"The split `{path}` has the table [{unknown[0]}]: expected [datasets], [training], [zeroshot] and "
                "[fewshot]."
            )
        tables = {name: _table(path, name, content.get(name, {})) for name in content}
        for name, known in (("training", ("train",)), ("zeroshot", ("val", "test"))):
            for key, part in tables.get(name, {}).items():
                if part not in known:
                    raise ConfigurationError(
                        f"The split `{path}` says {key} = {part!r} in [{name}]: expected {' or '.join(known)}."
                    )
        fewshot = {key: _lists(path, key, value) for key, value in tables.get("fewshot", {}).items()}
        return cls(tables.get("datasets", {}), tables.get("training", {}), tables.get("zeroshot", {}), fewshot)

    def write(self, path: str | Path) -> None:
        """Write the split as a file that [`read`] and STATE take."""
        lines = []
        for name in ("datasets", "training", "zeroshot"):
            lines += [f"[{name}]", *(f"{_quoted(k)} = {_quoted(v)}" for k, v in getattr(self, name).items()), ""]
        # also without entries, which STATE expects
        lines += ["[fewshot]", ""] if not self.fewshot else []
        for key, parts in self.fewshot.items():
            lines.append(f"[fewshot.{_quoted(key)}]")
            lines += [f"{part} = [{', '.join(map(_quoted, names))}]" for part, names in parts.items()]
            lines.append("")
        write_text(path, "\n".join(lines))

    def part(self, dataset: str, condition: Condition) -> str:
        """`"train"`, `"val"` or `"test"`: what a condition of a data set is for."""
        key = f"{dataset}.{condition.context}"
        for part, names in self.fewshot.get(key, {}).items():
            if condition.perturbation in names:
                return part
        return self.zeroshot.get(key, "train")

    def parts(self, screen: Screen, dataset: str | None = None) -> dict[str, list[Condition]]:
        """The conditions of a screen by what they are for.

        Args:
            screen: the cells.
            dataset: which data set of the file they are; by default the only one.

        Raises:
            ConfigurationError: the file is about other data sets, cell types or perturbations.
        """
        dataset = self._dataset(dataset)
        contexts, there = set(screen.contexts.tolist()), set(screen.conditions)
        for key in (*self.zeroshot, *self.fewshot):
            of, _, context = key.partition(".")
            if of != dataset:
                continue
            if context not in contexts:
                raise ConfigurationError(
                    f"The split names the cell type {context!r}, and the data have {', '.join(sorted(contexts))}: "
                    "name the column of cell types with `cell_type_key` (`--cell-type-key`)."
                )
            named = {Condition(context, name) for names in self.fewshot.get(key, {}).values() for name in names}
            if absent := sorted(named - there):
                raise ConfigurationError(
                    f"The split names {absent[0].perturbation!r} for {context!r}, of which the data have no cell."
                )
        found: dict[str, list[Condition]] = {part: [] for part in PARTS}
        for condition in screen.conditions:
            found[self.part(dataset, condition)].append(condition)
        return found

    def _dataset(self, dataset: str | None) -> str:
        named = list(dict.fromkeys([*self.datasets, *self.training]))
        if dataset is None and len(named) == 1:
            return named[0]
        if dataset in named:
            return dataset
        raise ConfigurationError(
            f"The split has the data sets {', '.join(named) or '(none)'}: say with `dataset` (`--dataset`) which of "
            f"them the cells are, got {dataset!r}."
        )


def held_out(screen: Screen, share: float, seed: int, path: str = "", dataset: str = "screen") -> PerturbationSplit:
    """A split that holds out a share of the perturbations, drawn by `seed`, of every cell type.

    Raises:
        ConfigurationError: none, or all of them, would be held out.
    """
    names = sorted({condition.perturbation for condition in screen.conditions})
    number = round(share * len(names))
    if not 0 < number < len(names):
        raise ConfigurationError(
            f"`hold_out` (`--hold-out`) of {share:g} leaves out {number} of {len(names)} perturbations: at least one "
            "must be predicted, and one learnt from."
        )
    drawn = set(np.random.default_rng(seed).permutation(names)[:number].tolist())
    return chosen_split(screen, [name for name in names if name in drawn], path, dataset)


def chosen_split(screen: Screen, test: Sequence[str], path: str = "", dataset: str = "screen") -> PerturbationSplit:
    """A split that predicts some perturbations in every cell type that had them."""
    fewshot: dict[str, dict[str, tuple[str, ...]]] = {}
    for context in sorted(set(screen.contexts.tolist())):
        if names := tuple(name for name in test if screen.rows(Condition(context, name)).size):
            fewshot[f"{dataset}.{context}"] = {"val": (), "test": names}
    return PerturbationSplit({dataset: path}, {dataset: "train"}, {}, fewshot)


def _table(path: str | Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"`{name}` of the split `{path}` must be a table, got {value!r}.")
    return dict(value)


def _lists(path: str | Path, key: str, value: Any) -> dict[str, tuple[str, ...]]:
    is_sound = isinstance(value, Mapping) and all(
        part in PARTS and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for part, names in value.items()
    )
    if not is_sound:
        raise ConfigurationError(
            f'[fewshot."{key}"] of the split `{path}` must hold lists of perturbations named val and test.'
        )
    lists = {part: tuple(names) for part, names in value.items()}
    every = [name for names in lists.values() for name in set(names)]
    if twice := [name for name in every if every.count(name) > 1]:
        raise ConfigurationError(f'[fewshot."{key}"] of the split `{path}` has {twice[0]!r} in two lists.')
    return lists


def _quoted(text: str) -> str:
    # a JSON string is a TOML string
    return json.dumps(text, ensure_ascii=False)
