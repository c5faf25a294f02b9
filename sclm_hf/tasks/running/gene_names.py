"""Names of genes as settings give them."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigurationError
from ...files import read_text_file


def read_names(given: "str | Path | Sequence[str] | None", setting: str) -> list[str] | None:
    """Names of genes, each once.

    Args:
        given: the names; or in one text, separated by commas; or a file with one per line: a path, or a text with a
            folder or one of the endings `.txt`, `.csv` and `.tsv`.
        setting: what gives them, for messages.

    Returns:
        The names; None where none are given.

    Raises:
        ConfigurationError: there is no such file, or no name in it.
    """
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        given = _in_text(given, setting)
    names = list(dict.fromkeys(name for name in (str(one).strip() for one in given) if name))
    if not names:
        raise ConfigurationError(f"{setting} names no genes: name some, or leave it out.")
    return names


def _in_text(given: "str | Path", setting: str) -> list[str]:
    """Names in a file, or separated by commas."""
    # names of genes have dots and slashes, but not these endings
    is_named_as_file = isinstance(given, Path) or given.endswith((".txt", ".csv", ".tsv"))
    # a file that happens to be called like a gene is none; isfile is False also for a text too long for a path
    if os.path.isfile(given) and (is_named_as_file or os.path.dirname(given)):
        return read_text_file(Path(given)).splitlines()
    if is_named_as_file:
        raise ConfigurationError(f"{setting}: there is no file `{given}`; it holds one name of a gene per line.")
    return given.split(",")
