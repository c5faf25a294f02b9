"""What the app is started with."""

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError

_PREFIX = "sclm-app-"

_CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "checkpoints" / "scgpt-blood-small"


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Settings of the app.

    Attributes:
        models: folders or repository ids of classifiers; the first is chosen at the start. Empty = the checkpoint of
            the repository, where the package runs from one.
        text_model: language model that answers questions about cells; None = there are none.
        max_cells: most cells of a file, as many as a CPU maps within a minute or so.
        max_megabytes: largest file to upload, in units of 10^6 bytes.
        time_limit: seconds that one run may take.
        folder: where uploads lie and results are written; the tools for agents read nothing outside it. None = a
            temporary folder.

    Raises:
        ConfigurationError: a value is out of range, or no model is named and there is none beside the package.
    """

    models: tuple[str, ...] = ()
    text_model: str | None = None
    max_cells: int = 2000
    max_megabytes: int = 200
    time_limit: float = 300.0
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name in ("max_cells", "max_megabytes", "time_limit"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(
                    f"`{name}` (`--{name.replace('_', '-')}`) must be above 0, got {getattr(self, name)}."
                )
        if not self.models:
            if not _CHECKPOINT.is_dir():
                raise ConfigurationError("Name with `models` (`--model`) the folder or repository of a classifier.")
            object.__setattr__(self, "models", (str(_CHECKPOINT),))
        if self.folder is None:
            object.__setattr__(self, "folder", Path(tempfile.mkdtemp(prefix=_PREFIX)))
        elif not Path(self.folder).is_dir():
            raise ConfigurationError(f"`folder` (`--folder`): there is no folder `{self.folder}`.")

    @property
    def is_temporary(self) -> bool:
        """Whether the folder is the app's own, which goes when the app ends."""
        return Path(self.folder).parent == Path(tempfile.gettempdir()) and Path(self.folder).name.startswith(_PREFIX)

    def remove_old_files(self, age: float) -> None:
        """Remove files older than `age` seconds from the app's own folder; any other is left alone."""
        for path in Path(self.folder).rglob("*") if self.is_temporary else ():
            with suppress(OSError):
                if path.is_file() and path.stat().st_mtime < time.time() - age:
                    path.unlink()
