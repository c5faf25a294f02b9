"""Which column of `obs` holds the labels, where files call it by different names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigurationError
from ...sources.cell_source import CellSource

LabelColumn = str | Sequence[str] | Mapping[str, str]


def choose_columns(
    label_column: LabelColumn, sources: Sequence[CellSource], named: Mapping[str, Path]
) -> str | list[str]:
    """The column of each source.

    Args:
        label_column: one column for all; several, of which each source uses the first that it has; or source name or
            path -> column.
        sources: the sources.
        named: source name -> path, in the order of `sources`.

    Returns:
        One name for all sources, or one per source.

    Raises:
        ConfigurationError: a source has no column, or a key is no source.
    """
    if isinstance(label_column, str):
        return label_column
    if isinstance(label_column, Mapping):
        return _mapped(label_column, named)
    return [_first_of(label_column, source) for source in sources]


def columns_for(columns: Mapping[str, str], named: Mapping[str, Path]) -> dict[str, str]:
    """The part of a mapping from files to columns that is about some of the files; arguments as there."""
    keys = {key for name, path in named.items() for key in _keys(name, path)}
    return {str(key): column for key, column in columns.items() if str(key) in keys}


def read_label_column(texts: Sequence[str] | None) -> LabelColumn | None:
    """A label column, as `CellCorpus` takes it, from a command line.

    Args:
        texts: a column, several to choose from, `FILE=COLUMN` per file, or one mapping as JSON.

    Raises:
        ConfigurationError: some texts name a file and others do not.
    """
    if not texts:
        return None
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        try:
            return json.loads(texts[0])
        except ValueError as error:
            raise ConfigurationError(f"`label_column` must be columns or a mapping in JSON: {error}.") from error
    pairs = [text.rpartition("=") for text in texts]
    if all(mark for _, mark, _ in pairs):
        return {file: column for file, _, column in pairs}
    if any(mark for _, mark, _ in pairs):
        raise ConfigurationError(
            f"`label_column` must name a file for each column (FILE=COLUMN) or for none: {texts}."
        )
    return texts[0] if len(texts) == 1 else list(texts)


def _keys(name: str, path: Path) -> tuple[str, str, str]:
    """What a mapping may call a source."""
    return name, path.name, str(path)


def _mapped(columns: Mapping[str, str], named: Mapping[str, Path]) -> list[str]:
    known = columns_for(columns, named)
    if strange := sorted({str(key) for key in columns} - set(known)):
        raise ConfigurationError(f"`label_column` names {strange}, but the sources are {sorted(named)}.")
    found = []
    for name, path in named.items():
        column = next((known[key] for key in _keys(name, path) if key in known), None)
        if column is None:
            raise ConfigurationError(
                f"`label_column` names no column for `{path}`: add `{name}=COLUMN`, or name columns for all files."
            )
        found.append(column)
    return found


def _first_of(columns: Sequence[str], source: CellSource) -> str:
    present = source.column_names()
    source.close()
    found = next((column for column in columns if column in present), None)
    if found is None:
        raise ConfigurationError(
            f"`{source.location}` has none of the columns {list(columns)} named for its labels; its `obs` has "
            f"{present}."
        )
    return found
