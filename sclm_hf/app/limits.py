"""A limit on the time of one run, which stops it at the next layer of the model."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigurationError


@contextmanager
def limited_time(seconds: float) -> Iterator[Callable[..., None]]:
    """Stop what this thread runs once it took too long: layers of models ask, and whoever calls what is yielded.

    Runs of other threads are left alone.

    Args:
        seconds: how long it may take.

    Raises:
        ConfigurationError: it took longer.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread, end = threading.get_ident(), time.monotonic() + seconds

    def check(*call: Any) -> None:
        if threading.get_ident() == thread and time.monotonic() >= end:
            raise ConfigurationError(
                f"This took longer than the {seconds:g} seconds that a run may take: "
                "try fewer cells or a smaller model."
            )

    hook = register_module_forward_pre_hook(check)
    try:
        yield check
    finally:
        hook.remove()
