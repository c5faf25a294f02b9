"""Wordings of the tasks: data files with several paraphrases each, some of which are held out for evaluation."""

import functools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError, unknown_name
from ..files import read_yaml

TASKS = (
    "annotate",
    "tissue",
    "generate",
    "describe",
    "compare",
    "perturb",
    "sensitivity",
    "assign",
    "annotate_codes",
    "generate_codes",
)
"""The tasks that the package has wordings of."""

Which = Literal["train", "held_out", "all"]


@dataclass(frozen=True)
class Template:
    """One wording of a task.

    Attributes:
        name: its name, unique within the task.
        prompt: what is asked, with `{slots}`.
        answer: what is answered, with `{slots}`.
    """

    name: str
    prompt: str
    answer: str

    def render(self, **slots: Any) -> tuple[str, str]:
        """The prompt and the answer; braces within the values mean nothing.

        Raises:
            ConfigurationError: a slot has no value.
        """
        return self.render_prompt(**slots), _filled(self.answer, slots, self.name)

    def render_prompt(self, **slots: Any) -> str:
        """The prompt alone.

        Raises:
            ConfigurationError: a slot has no value.
        """
        return _filled(self.prompt, slots, self.name)


@dataclass(frozen=True)
class Wordings:
    """The wordings of a task.

    Attributes:
        task: its name.
        columns: slots that columns of `obs` fill.
        train: wordings to train with.
        held_out: wordings to evaluate with.
        facts: which of [`~facts.FACTS`] fills further slots; None for none.
    """

    task: str
    columns: tuple[str, ...]
    train: tuple[Template, ...]
    held_out: tuple[Template, ...]
    facts: str | None = None

    def choose(self, which: Which) -> tuple[Template, ...]:
        """The wordings of one side, or all.

        Raises:
            ConfigurationError: there is no such side, or nothing on it.
        """
        sides = {"train": self.train, "held_out": self.held_out, "all": (*self.train, *self.held_out)}
        if which not in sides:
            raise unknown_name(which, list(sides), " as `templates`")
        if not sides[which]:
            raise ConfigurationError(f"The task `{self.task}` has no wordings of the side {which!r}: take another.")
        return sides[which]


@functools.cache
def load_templates(task: str | Path) -> Wordings:
    """The wordings of a task.

    Args:
        task: one of [`TASKS`], or a YAML file of the same form.

    Raises:
        ConfigurationError: there is no such task, or the file is of another form.
    """
    path = Path(task)
    if path.suffix not in (".yaml", ".yml"):
        if task not in TASKS:
            raise unknown_name(str(task), list(TASKS), " as `task`, besides the path of a .yaml file")
        with as_file(files(__package__) / "data" / f"{task}.yaml") as ours:
            return _wordings(str(task), read_yaml(ours))
    read = read_yaml(path)
    try:
        return _wordings(path.stem, read)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"`{task}` is no file of templates: expected `columns`, `answer`, and lists of `train` and `held_out` "
            f"prompts ({type(error).__name__}: {error})."
        ) from error


def _wordings(task: str, read: Mapping[str, Any]) -> Wordings:
    for name in ("columns", "train", "held_out"):
        if not isinstance(read[name], list):
            raise TypeError(f"`{name}` is no list")
    if not read["train"]:
        raise KeyError("no prompt to train with")
    sides = {
        side: tuple(
            checked_template(Template(f"{task}/{side}/{number}", prompt.strip(), read["answer"]))
            for number, prompt in enumerate(read[side])
        )
        for side in ("train", "held_out")
    }
    return Wordings(task, tuple(read["columns"]), sides["train"], sides["held_out"], read.get("facts"))


def checked_template(template: Template) -> Template:
    """The template, if its slots are plain names: others would reach into what they are given.

    Raises:
        ConfigurationError: a slot is something else, or a brace stands alone.
    """
    for text in (template.prompt, template.answer):
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigurationError(
                f"`{template.name}` has a brace that stands alone ({error}): double it."
            ) from error
        for _, slot, form, conversion in parts:
            if slot is not None and (not slot.isidentifier() or form or conversion):
                raise ConfigurationError(f"`{template.name}` has the slot {slot!r}: expected a plain name.")
    return template


def _filled(text: str, slots: Mapping[str, Any], name: str) -> str:
    try:
        return text.format_map(slots)
    except KeyError as error:
        raise ConfigurationError(f"The template `{name}` has a slot {error} that nothing fills.") from error
