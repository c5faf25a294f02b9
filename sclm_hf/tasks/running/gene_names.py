"""Names of genes as settings give them."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigurationError
from ...files import read_text_file


def read_names(given: "str | Path | Sequence[str] | None", setting: str) -> list[str] | None:
    """Names of genes, each once.

    Args:
        given: the names; or in one text, separated by commas; or a file with one per line.
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
    # False also for a text that is too long for a path
    if os.path.isfile(given):
        return read_text_file(Path(given)).splitlines()
    # names of genes have dots and slashes, but not these endings
    if isinstance(given, Path) or given.endswith((".txt", ".csv", ".tsv")):
        raise ConfigurationError(f"{setting}: there is no file `{given}`; it holds one name of a gene per line.")
    return given.split(",")
