"""Worker processes end when their main process does, however it ended."""

import functools
import multiprocessing
import os
import threading
import time

_SECONDS_BETWEEN_LOOKS = 1


def main_process_lives() -> bool:
    """Whether the process that this worker serves is still there."""
    main = multiprocessing.parent_process()
    # a forked worker sees `main` alive while its siblings live; one of a fork server is not the main process's child
    forked = multiprocessing.get_start_method() == "fork"
    return os.getppid() == main.pid if forked else main.is_alive()


@functools.cache
def end_with_main_process() -> None:
    """Let this worker end soon after its main process, whatever it is busy with or waits for.

    Torch's workers look whether the main one lives only while they wait for work: one that waits to hand over its
    result, which nobody will take, would wait forever.
    """
    threading.Thread(target=_watch, name="end with the main process", daemon=True).start()


def _watch() -> None:
    while main_process_lives():
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)
