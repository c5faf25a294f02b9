"""Cell types as texts: of the user, or the definitions of the Cell Ontology."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError, require
from ...files import read_text_file, require_regular_file
from .cell_ontology import definitions
from .ontology import simplified

Labels = str | Path | Mapping[str, str | Sequence[str]] | Sequence[str]


def read_descriptions(labels: Labels) -> dict[str, list[str]]:
    """The texts of each label.

    Args:
        labels: label -> its text, or several; names that the Cell Ontology knows, whose definitions are taken; either
            of them as JSON; or a file with either: JSON, or a CSV table with a column `label` and, unless definitions
            are to be taken, a column `text` (a label may have several rows).

    Raises:
        ConfigurationError: there are fewer than two labels, one has no text, or a file cannot be read.
        MissingDependencyError: definitions are asked for, and the package that holds them is not installed.
    """
    given = _read(labels) if isinstance(labels, (str, Path)) else labels
    found = dict(given) if isinstance(given, Mapping) else _definitions(list(given))
    texts = {str(name): [one] if isinstance(one, str) else list(one) for name, one in found.items()}
    if len(texts) < 2:
        raise ConfigurationError(f"`labels` (`--labels`) must hold two cell types or more, got {list(texts)}.")
    for name, several in texts.items():
        if not several or not all(isinstance(text, str) and text.strip() for text in several):
            raise ConfigurationError(f"The label {name!r} has no text, or an empty one: describe it in `labels`.")
    return texts


def _read(labels: str | Path) -> Any:
    pandas = require("pandas", extra="anndata")
    path, is_json = Path(labels), str(labels).lstrip().startswith(("{", "["))
    try:
        if is_json or path.suffix == ".json":
            content = json.loads(str(labels) if is_json else read_text_file(path))
            if not isinstance(content, (dict, list)):
                raise ValueError("it holds neither a mapping nor a list")
            return content
        require_regular_file(path, ConfigurationError)
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        if "label" not in table:
            raise ValueError(f"it has no column `label`, only {list(table.columns)}")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"`labels` (`--labels`) must be a CSV table with the columns `label` and `text`, or a JSON mapping; "
            f"`{path}` cannot be read: {error}."
        ) from error
    if "text" not in table:
        return table["label"].tolist()
    return {name: rows["text"].tolist() for name, rows in table.groupby("label", sort=False)}


def _definitions(names: Sequence[str]) -> dict[str, str]:
    """Name -> name and definition of the term of the Cell Ontology that is called so."""
    known = {simplified(name): term for term in reversed(definitions()) for name in reversed(term.names)}
    # a name of its own wins over a synonym of another
    known |= {simplified(term.label): term for term in definitions()}
    if unknown := [name for name in names if simplified(name) not in known]:
        raise ConfigurationError(
            f"The Cell Ontology has no definition of {unknown[:10]}: give `labels` as a mapping from name to text "
            "(`--labels FILE.csv` with the columns `label` and `text`)."
        )
    terms = {name: known[simplified(name)] for name in names}
    return {name: f"{term.label}: {term.text}" for name, term in terms.items()}
