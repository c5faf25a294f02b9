"""Results of a long run, kept on disk block by block, so that a stopped run resumes where it was."""

import contextlib
import copy
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError, SclmError
from ...files import read_json_object, write_text, written_whole

_FINGERPRINT = "fingerprint.json"


class Pieces:
    """Arrays by number in a folder, each written whole or not at all.

    Args:
        folder: where they lie; made where it does not exist.
        fingerprint: everything that the results depend on, as JSON.
        overwrite: discard pieces with another fingerprint.

    Attributes:
        folder: where they lie.

    Raises:
        ConfigurationError: the folder holds pieces of another run (the message names what differs), or is a link.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, overwrite: bool = False) -> None:
        if folder.is_symlink():
            raise ConfigurationError(f"`{folder}`, where results are kept, is a link: remove it.")
        self.folder, self._known, self._stem = folder, json.loads(json.dumps(fingerprint)), ""
        # without pieces there is nothing to lose: a run may stop before its fingerprint is there
        if any(folder.glob("*.npz")) and (found := self._found()) != self._known:
            if not overwrite:
                differs = [key for key in {**found, **self._known} if found.get(key) != self._known.get(key)]
                raise ConfigurationError(
                    f"`{folder}` holds results of a run that was stopped and differs in {', '.join(sorted(differs))}: "
                    "repeat that run, or pass `overwrite` (`--overwrite`) to throw them away."
                )
            shutil.rmtree(folder)
        write_text(folder / _FINGERPRINT, json.dumps(self._known, indent=2))

    def named(self, name: str) -> "Pieces":
        """Pieces of another step of the same run, in the same folder, with numbers of their own."""
        other = copy.copy(self)
        other._stem = f"{self._stem}{name}-"
        return other

    def load(self, number: int, n_cells: int) -> np.ndarray | None:
        """(n_cells, …) piece `number`; None where it is missing or damaged."""
        piece = self.load_arrays(number).get("piece")
        return piece if piece is not None and piece.ndim and len(piece) == n_cells else None

    def load_arrays(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of piece `number` by name; none where it is missing or damaged."""
        try:
            # `np.load` verifies the checksums of zip files, so a damaged piece is detected
            with np.load(self._path(number), allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile):
            return {}

    def save(self, number: int, piece: np.ndarray, **arrays: np.ndarray) -> None:
        """Keep piece `number`, and other arrays with it.

        Raises:
            SclmError: it cannot be written; those before it stay.
        """
        with written_whole(self._path(number)) as path, open(path, "wb") as file:
            np.savez(file, piece=piece, **arrays)

    @property
    def n_bytes(self) -> int:
        """Bytes of all pieces."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npz"))

    def remove(self) -> None:
        """Remove everything; if interrupted, the pieces that remain still have their fingerprint."""
        for piece in self.folder.glob("*.npz"):
            piece.unlink()
        shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def until_written(self) -> Iterator[None]:
        """Remove everything when the body, which writes the result, went well; and where it failed without a piece."""
        try:
            yield
        except BaseException:
            if not any(self.folder.glob("*.npz")):
                shutil.rmtree(self.folder)
            raise
        self.remove()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self._stem}{number:08d}.npz"

    def _found(self) -> dict[str, Any]:
        try:
            return read_json_object(self.folder / _FINGERPRINT)
        except SclmError:
            return {"what it was": None}


def remove_left_over(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Remove the pieces of a run that was stopped after writing its results; those of other runs are kept."""
    if folder.is_dir():
        with contextlib.suppress(ConfigurationError):
            Pieces(folder, fingerprint).remove()
