"""Shards of a file: contiguous ranges of its cells, each run by itself and written to a file of its own."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ...logging import counted
from ..running import batches


@dataclass(frozen=True)
class Shard:
    """One of several parts of the cells of a file.

    Cells are run in the same blocks as without shards, so that results are the same to the last bit.

    Attributes:
        number: which, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that is written like `2/4`.

        Raises:
            ConfigurationError: it is not, or there is no such shard.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(text))
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigurationError(
                f"`shard` (`--shard`) must be the number of a shard, from 1, and how many there are, such as '2/4', "
                f"got {text!r}."
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def path(self, destination: str | Path) -> Path:
        """The file of this shard beside that of all cells, for example `out.2-of-4.h5ad`."""
        destination = Path(destination)
        return destination.with_name(f"{destination.stem}.{self.number}-of-{self.of}{destination.suffix}")

    def cells(self, n_cells: int, location: str | Path) -> slice:
        """The cells of this shard: whole blocks of `BLOCK_SIZE`.

        Args:
            n_cells: cells of the file.
            location: the file, for the message.

        Raises:
            ConfigurationError: there are more shards than blocks.
        """
        size = batches.BLOCK_SIZE
        n_blocks = -(-n_cells // size)
        if self.of > n_blocks:
            raise ConfigurationError(
                f"`{location}` has {counted(n_cells, 'cell')}, which are run in {counted(n_blocks, 'block')} of "
                f"{size:,}: ask with `shard` (`--shard`) for at most {counted(n_blocks, 'shard')}, got {self.of}."
            )
        first, last = (number * n_blocks // self.of * size for number in (self.number - 1, self.number))
        return slice(first, min(last, n_cells))


def shard_record(shard: Shard, part: slice, n_cells: int, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a shard's results says beside that of all cells.

    Args:
        shard: the shard.
        part: its cells.
        n_cells: cells of the file.
        fingerprint: everything that the results of all cells depend on.
    """
    place = {"number": shard.number, "of": shard.of, "first": part.start, "stop": part.stop, "n_cells": n_cells}
    return {"shard": {**place, "depends_on": json.dumps(fingerprint)}}
