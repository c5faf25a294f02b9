"""Renders the cards of models, adapters and data sets from `templates/*.md`; what they say comes from their rooms."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **facts: Any) -> str:
    """The text of a card, without a line break at its end.

    Args:
        template: name of a file in `templates`, without `.md`. Beside what jinja offers, it may use the filter
            `table(head…)` on rows of cells.
        **facts: what the template names; a name without a fact is an error.
    """
    # `import sclm_hf` must stay cheap
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False)
    environment.filters["table"] = _table
    return environment.get_template(f"{template}.md").render(facts)


def _table(rows: Iterable[Sequence[Any]], *head: str) -> str:
    """A table in Markdown; bars and line breaks within a cell do not break it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
