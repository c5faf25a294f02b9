"""Names of genes that a model's authors wrote in their own way."""

from collections.abc import Iterable
from itertools import product

_MOST_SEPARATORS = 4


def names_with_underscores(names: Iterable[str]) -> dict[str, str]:
    """How genes whose `-` and `.` a vocabulary replaced by `_` may be called -> their name there.

    `HLA_A` is found by `HLA-A` and `HLA.A`. A name that the vocabulary holds itself is no alias, nor is one of more than
    four underscores, of which no gene has as many; of two that could be meant, none is.
    """
    names = list(names)
    taken, aliases, doubtful = set(names), {}, set()
    for name in names:
        parts = name.split("_")
        if not 1 < len(parts) <= _MOST_SEPARATORS + 1 or "" in parts:
            continue
        for separators in product("-._", repeat=len(parts) - 1):
            alias = parts[0] + "".join(map("".join, zip(separators, parts[1:], strict=True)))
            if alias in taken:
                continue
            if aliases.setdefault(alias, name) != name:
                doubtful.add(alias)
    return {alias: name for alias, name in aliases.items() if alias not in doubtful}
