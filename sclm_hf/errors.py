"""The exceptions and the warning that users of `sclm_hf` see.

Every message names the thing, says what was expected and how to mend it.
"""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class SclmError(Exception):
    """Base of all exceptions raised by `sclm_hf` on purpose."""


class GeneCoverageError(SclmError, ValueError):
    """Too few of the genes of the data are known to the model."""


class ExpressionError(SclmError, ValueError):
    """Expression values or their layout are not what the encoding needs."""


class CheckpointError(SclmError, ValueError):
    """A checkpoint is incomplete, unsafe or does not fit the model."""


class MissingFileError(CheckpointError):
    """A file of a checkpoint is not where it is looked for."""


class CorpusError(SclmError, ValueError):
    """A corpus or one of its files cannot be read as asked."""


class ConfigurationError(SclmError, ValueError):
    """Settings contradict one another, or a setting is unknown."""


class FilesError(SclmError):
    """Some files of a folder could not be used; the others are done.

    Attributes:
        written: what was written, or found finished.
        failed: file -> its error.
    """

    def __init__(self, message: str, written: Sequence[Any], failed: Mapping[Path, SclmError]) -> None:
        super().__init__(message)
        self.written, self.failed = list(written), dict(failed)


class HubError(SclmError):
    """The Hugging Face Hub could not be reached, or refused."""


class MissingDependencyError(SclmError, ImportError):
    """An optional dependency is needed and not installed."""


class SclmWarning(UserWarning):
    """Something that the user should look at, though the work goes on."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: dotted name of the module, for example `"anndata"`.
        extra: the extra of `sclm_hf` that installs it.

    Raises:
        MissingDependencyError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"`{module}` is needed here and not installed: run `pip install 'sclm_hf[{extra}]'`."
        ) from error


def unknown_name(name: str, valid: Sequence[str], where: str = "") -> ConfigurationError:
    """The error for a setting that does not exist; it names the closest one and lists all."""
    close = difflib.get_close_matches(name.split("=")[0], valid, n=1)
    hint = f" Did you mean `{close[0]}`?" if close else ""
    return ConfigurationError(f"Unknown setting `{name}`{where}.{hint} Valid settings: {', '.join(sorted(valid))}.")
