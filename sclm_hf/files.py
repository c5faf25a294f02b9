"""Files on disk: read with care, written whole or not at all, and one run at a time into an output."""

import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigurationError, SclmError, require

_INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 2**26
"""Settings and vocabularies are a few megabytes; what is larger was not written by those who say so."""


def require_regular_file(path: Path, error: type[SclmError] = CheckpointError) -> None:
    """Refuse what is there but is no regular file: reading a pipe or a device would wait forever.

    Raises:
        SclmError: of the class `error`. A file that does not exist is not refused here.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise error(f"`{path}` is {kind}, not a file.")


def read_json_object(
    path: Path,
    error: type[SclmError] = CheckpointError,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> dict[str, Any]:
    """Read a JSON file that holds one object and that anybody may have written.

    Args:
        path: the file.
        error: class of the exception that is raised.
        max_bytes: largest file that is read.
        object_pairs_hook: as for `json.loads`.

    Raises:
        SclmError: of the class `error`: the file is missing, no regular file, too large, nested too deeply, no JSON,
            or holds something else than an object.
    """
    require_regular_file(path, error)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"`{path}` has {size:,} bytes: expected a JSON object of at most {max_bytes:,}.")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_pairs_hook)
    except RecursionError as cause:
        raise error(f"`{path}` is nested too deeply to be what it should be: a JSON object of settings.") from cause
    except ValueError as cause:
        if isinstance(cause, SclmError):
            raise
        raise error(f"`{path}` is not valid JSON ({cause}).") from cause
    except OSError as cause:
        raise error(f"`{path}` cannot be read: {cause.strerror or cause}.") from cause
    if not isinstance(content, dict):
        raise error(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content


def read_text_file(path: Path, error: type[SclmError] = ConfigurationError) -> str:
    """Read a text file of settings or names that anybody may have written.

    Raises:
        SclmError: of the class `error`: the file is missing, no regular file, larger than settings are, or no UTF-8.
    """
    require_regular_file(path, error)
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise error(f"`{path}` has {size:,} bytes: expected a text of at most {MAX_JSON_BYTES:,}.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"`{path}` is no text in UTF-8: {cause}.") from cause
    except OSError as cause:
        raise error(f"`{path}` cannot be read: {cause.strerror or cause}.") from cause


def read_yaml(path: Path, *, as_text: bool = False) -> Any:
    """Read a YAML file of settings or names that anybody may have written.

    Args:
        path: the file.
        as_text: give all numbers, dates and so on as the text that stands there.

    Raises:
        ConfigurationError: as for [`read_text_file`], or it is no YAML, nested too deeply, has a value that cannot be,
            such as a number of thousands of digits, or has a key of its mapping twice.
        MissingDependencyError: PyYAML is not installed.
    """
    yaml, text = require("yaml", extra="train"), read_text_file(path)
    try:
        # the last of several values would be taken in silence
        if twice := _said_twice(yaml.compose(text, yaml.SafeLoader)):
            raise ConfigurationError(f"`{path}` says `{twice}` twice: leave one of them out.")
        return yaml.load(text, yaml.BaseLoader if as_text else yaml.SafeLoader)
    except RecursionError as cause:
        raise ConfigurationError(f"`{path}` is nested too deeply to hold settings or names.") from cause
    # dates that are none, and numbers that are too long or none, are errors of Python
    except (yaml.YAMLError, ValueError, AttributeError) as cause:
        if isinstance(cause, SclmError):
            raise
        raise ConfigurationError(f"`{path}` cannot be read as YAML: {cause}") from cause


def _said_twice(node: Any) -> str | None:
    """A key that stands twice in the mapping of a YAML file."""
    keys = [key.value for key, _ in node.value] if getattr(node, "id", None) == "mapping" else []
    texts = [key for key in keys if isinstance(key, str)]
    return next((key for key in texts if texts.count(key) > 1), None)


def check_output_file(path: str | Path) -> None:
    """Refuse, before the work, a file that could not be written after it.

    Raises:
        ConfigurationError: a folder, a link, a pipe or a device is there, or the folder of the file is missing or not
            writable.
    """
    path = Path(path)
    if path.is_symlink():
        raise ConfigurationError(f"`{path}` is a link to `{os.readlink(path)}`: name the file itself.")
    require_regular_file(path, ConfigurationError)
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"`{path}` cannot be written: its folder is missing or not writable.")


def check_replaced(path: str | Path, *, overwrite: bool) -> None:
    """Refuse, before the work, to replace a file that the user did not say may be replaced.

    Raises:
        ConfigurationError: it exists, and `overwrite` is False.
    """
    if Path(path).exists() and not overwrite:
        raise ConfigurationError(f"`{path}` exists: choose another name, or pass `overwrite` (`--overwrite`).")


def check_apart(written: Iterable[Path | None], others: Iterable[Path | None] = ()) -> None:
    """Refuse, before the work, to write over what is read, or two things into one file.

    Args:
        written: files that will be written; None = none.
        others: files that are read, or written by others.

    Raises:
        ConfigurationError: two of the `written`, or one of these and one of the `others`, are the same file.
    """
    named = [path for path in others if path is not None]
    for path in filter(None, written):
        if any(_is_same(path, other) for other in named):
            raise ConfigurationError(f"`{path}` is to be written, and is named for something else too: name another.")
        named.append(path)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except (OSError, ValueError):
        return False


MEND = "make room, or allow writing, and repeat"
"""What the user can do when something cannot be written."""


@contextmanager
def written_whole(path: Path, error: type[SclmError] = SclmError, *, mend: str = MEND) -> Iterator[Path]:
    """A path beside `path` to write to; moved there when all went well, so that `path` is never half written.

    What is there stays when anything goes wrong, and nothing is left beside it.

    Args:
        path: the file.
        error: class of the exception that is raised.
        mend: what the user can do when it cannot be written.

    Raises:
        SclmError: of the class `error`: it cannot be written, for example because no space is left.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # what is written goes into no file that a link of this name may lead to
        unfinished.unlink(missing_ok=True)
        yield unfinished
        flush_entry(unfinished)
        os.replace(unfinished, path)
    except OSError as cause:
        raise error(f"`{path}` cannot be written: {cause.strerror or cause}. What was there stays: {mend}.") from cause
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_text(path: str | Path, text: str, error: type[SclmError] = SclmError, *, mend: str = MEND) -> None:
    """Write a text file whole or not at all; arguments and errors are those of [`written_whole`]."""
    with written_whole(Path(path), error, mend=mend) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def check_new_folder(folder: Path) -> None:
    """Refuse, before the work, a folder that [`new_folder`] would refuse.

    Raises:
        ConfigurationError: something is there already, and no empty folder.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigurationError(f"`{folder}` exists and is not an empty folder: choose another output, or empty it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A path beside `folder` to make a folder at; moved there when all went well, else nothing is left of it.

    Raises:
        ConfigurationError: something is there already, and no empty folder; or another run is making it.
        SclmError: it cannot be written.
    """
    check_new_folder(folder)
    unfinished = folder.resolve().with_name(f".{folder.resolve().name}.tmp")
    try:
        with sole_writer(folder), replacing(unfinished, folder):
            yield unfinished
    except Exception as cause:
        # a full disk is an error of its own to safetensors
        if not isinstance(cause, OSError) and type(cause).__name__ != "SafetensorError":
            raise
        raise SclmError(f"`{folder}` cannot be written: {cause}. Make room, or allow writing, and repeat.") from cause


@contextmanager
def replacing(unfinished: Path, final: Path) -> Iterator[None]:
    """Make the folder `final`, absent or empty yet, of what is written to `unfinished`: all of it or nothing.

    Raises:
        OSError: it cannot be written.
    """
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield
        flush(unfinished)
        if final.exists():
            final.rmdir()
        os.replace(unfinished, final)
        flush_entry(final.resolve().parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def model_replaced(folder: Path, unfinished: Path) -> Iterator[Path]:
    """A path to save a model or an adapter at; moved into `folder` when all went well, where other files stay.

    What was in `folder` stays whole while the new files are written. They are moved with the weights last; where those
    are several files, the folder is no model until all are there.

    Args:
        folder: the folder; made where it is missing.
        unfinished: what is written before it is moved, on the same disk; left there by a kill, removed otherwise.
    """
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        flush(unfinished)
        folder.mkdir(parents=True, exist_ok=True)
        # file by file, as a folder does not take the place of another
        written = sorted(filter(Path.is_file, unfinished.rglob("*")), key=_weights_last)
        index = unfinished / _INDEX
        if index in written:
            # shards of two saves would be taken for one model
            (folder / _INDEX).unlink(missing_ok=True)
            written = [*(path for path in written if path != index), index]
        places = [folder / path.relative_to(unfinished) for path in written]
        for path, place in zip(written, places, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        for parent in {folder, *(place.parent for place in places)}:
            flush_entry(parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _weights_last(path: Path) -> tuple[bool, int, str]:
    """Orders the files of a model: weights after all else, and those of models within it before its own."""
    return path.suffix == ".safetensors", -len(path.parts), path.name


def flush(folder: Path) -> None:
    """Force the files below `folder` onto the disk, readable for all who may read the folder."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file():
            # safetensors writes files that only their owner may read; some disks keep no such rights
            with suppress(OSError):
                path.chmod(path.parent.stat().st_mode & 0o666)
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Force one file, or the entries of one folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Hold the lock of an output, so that no second run writes there at the same time.

    The lock file `.<name>.lock` beside the output names its owner and the time, and is gone afterwards; the system
    lets go of the lock of a process that was killed.

    Args:
        output: the file or folder that will be written; it need not exist, its parent is made.

    Raises:
        ConfigurationError: another run holds the lock (the message says which and since when), or the folder of the
            output cannot be written.
    """
    from filelock import FileLock, Timeout

    path = output.resolve().with_name(f".{output.resolve().name}.lock")
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        while not path.exists():
            # the owner before took the file away between our opening and our locking of it
            lock.release()
            lock.acquire(timeout=0)
        path.write_text(json.dumps(_owner()), encoding="utf-8")
    except Timeout as cause:
        raise ConfigurationError(
            f"`{output}` is being written by {_described(path)}: wait until it ends, or name another output."
        ) from cause
    except OSError as cause:
        lock.release()
        raise ConfigurationError(f"`{output}` cannot be written: {cause.strerror or cause} (`{path}`).") from cause
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _owner() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:2]])
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}


def _described(path: Path) -> str:
    """Who holds a lock, as far as its file says so."""
    try:
        owner = read_json_object(path, max_bytes=2**16)
        return f"process {owner['pid']} on {owner['host']} (`{owner['command']}`), since {owner['since']}"
    except (SclmError, KeyError):
        return "another run"
