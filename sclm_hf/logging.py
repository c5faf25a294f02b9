"""The only place that talks: loggers, warnings and progress bars."""

import logging as _logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import SclmWarning

_ROOT = "sclm_hf"


def get_logger(name: str) -> _logging.Logger:
    """A logger below `sclm_hf`; its level comes from `SCLM_VERBOSITY` (default `warning`)."""
    root = _logging.getLogger(_ROOT)
    if not root.handlers:
        handler = _logging.StreamHandler()
        handler.setFormatter(_logging.Formatter("%(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(os.environ.get("SCLM_VERBOSITY", "warning").upper())
        root.propagate = False
    return _logging.getLogger(name if name.startswith(_ROOT) else f"{_ROOT}.{name}")


def warn(message: str, stacklevel: int = 3) -> None:
    """Show `message` to the user as a `SclmWarning` (once per place, as Python's warnings do)."""
    warnings.warn(message, SclmWarning, stacklevel=stacklevel)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' reports to itself, for code that says in words of our own what is wrong.

    Its progress bars stay where a person looks at them.
    """
    from transformers.utils import logging as transformers_logging

    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def progress_bar(iterable: Iterable | None = None, **kwargs: Any):
    """A tqdm bar that `SCLM_NO_PROGRESS=1` or `transformers.logging.disable_progress_bar()` turns off.

    Args:
        iterable: what to walk over; None for a bar that is updated by hand.
        **kwargs: passed to tqdm (`total`, `desc`, `unit`, `initial`, …).
    """
    if os.environ.get("SCLM_NO_PROGRESS"):
        from tqdm import tqdm

        return tqdm(iterable, **(kwargs | {"disable": True}))
    from transformers.utils import logging as transformers_logging

    return (
        transformers_logging.tqdm(iterable, **kwargs) if iterable is not None else transformers_logging.tqdm(**kwargs)
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 cell` or `2 cells`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
