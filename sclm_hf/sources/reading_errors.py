"""Whatever a library raises while it reads a file that anybody may have written, told as one error of ours."""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CorpusError, MissingDependencyError, SclmError

_ADVICE = {
    errno.EMFILE: "raise the limit of the system (`ulimit -n`), or use fewer workers",
    errno.EACCES: "ask its owner for the right to read it",
    errno.EAGAIN: "another process is writing it and has locked it",
}


@contextmanager
def reading_errors_named(path: str | Path, kind: str) -> Iterator[None]:
    """Tell every error as a `CorpusError` that names the file.

    Args:
        path: the file or folder that is read.
        kind: what it should be, for messages.

    Raises:
        CorpusError: reading failed; the message says whether the system refused it or the file is damaged.
    """
    try:
        yield
    except MissingDependencyError:
        raise
    except SclmError as error:
        if str(path) in str(error):
            raise
        raise CorpusError(f"`{path}`: {error}") from error
    except MemoryError as error:
        raise CorpusError(f"`{path}` does not fit into memory: {error}.") from error
    except OSError as error:
        raise CorpusError(f"`{path}` {reason(error, kind)}") from error
    except Exception as error:
        # h5py, zarr, its codecs and pyarrow raise almost anything for a damaged file
        if codec := _unknown_codec(error):
            raise CorpusError(
                f"`{path}` is compressed with the codec {codec!r}, which is not installed here: install the package "
                "that has it, or write the folder again without."
            ) from error
        text = str(error) or type(error).__name__
        raise CorpusError(f"`{path}` is damaged or no {kind}: {text.removesuffix('.')}.") from error


def reason(error: OSError, kind: str) -> str:
    """Why the system or a library would not read a file, as the end of a sentence that the file begins."""
    if error.errno is None:
        state = "truncated or damaged" if "truncated" in str(error) else f"damaged or no {kind}"
        return f"is {state}: {str(error).removesuffix('.')}."
    if error.errno in _ADVICE:
        return f"cannot be read: {os.strerror(error.errno)}: {_ADVICE[error.errno]}."
    return f"cannot be read: {os.strerror(error.errno)}."


def _unknown_codec(error: Exception) -> str | None:
    """The codec of zarr that was not found; None where something else went wrong."""
    if type(error).__name__ == "UnknownCodecError":
        return str(error).rpartition(":")[2].strip(" '\"")
    for frame in traceback.extract_tb(error.__traceback__) if isinstance(error, KeyError) else ():
        if frame.name == "get_codec_class":
            return str(error.args[0])
    return None
