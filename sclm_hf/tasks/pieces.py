"""Results of a long run, kept on disk block by block, so that a run that was stopped goes on where it was."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError, SclmError

_FINGERPRINT = "fingerprint.json"


class Pieces:
    """Arrays by number in a folder, each written whole or not at all.

    Args:
        folder: where they lie; made where it does not exist.
        fingerprint: everything that the results depend on, as JSON.
        overwrite: throw away what another fingerprint left there.

    Raises:
        ConfigurationError: pieces of another run lie there; the message names what differs.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder, self._known = folder, json.loads(json.dumps(fingerprint))
        if folder.exists() and (found := self._found()) != self._known:
            if not overwrite:
                differs = [key for key in {**found, **self._known} if found.get(key) != self._known.get(key)]
                raise ConfigurationError(
                    f"`{folder}` holds results of a run that was stopped and differs in {', '.join(sorted(differs))}: "
                    "repeat that run, or pass `overwrite` (`--overwrite`) to throw them away."
                )
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        self._write(_FINGERPRINT, lambda file: file.write(json.dumps(self._known, indent=2).encode()))

    def load(self, number: int, n_cells: int) -> np.ndarray | None:
        """(n_cells, …) piece `number`; None where it is missing or not whole."""
        try:
            piece = np.load(self._path(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return piece if piece.ndim and len(piece) == n_cells else None

    def save(self, number: int, piece: np.ndarray) -> None:
        """Keep piece `number`.

        Raises:
            SclmError: it cannot be written; those before it stay.
        """
        self._write(self._path(number).name, lambda file: np.save(file, piece, allow_pickle=False))

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npy"

    def _found(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / _FINGERPRINT).read_text())
        except (OSError, ValueError):
            found = None
        return found if isinstance(found, dict) else {"what it was": None}

    def _write(self, name: str, write: Any) -> None:
        unfinished = self.folder / f".{name}.tmp"
        try:
            with open(unfinished, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.folder / name)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise SclmError(
                f"`{self.folder / name}` cannot be written: {error.strerror or error}. What is there stays: make room "
                "and repeat the command to go on."
            ) from error
