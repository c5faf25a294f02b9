"""How kernels are compiled: on their first call, once per machine, of which the user is told.

The machine code is cached beside these files (or in numba's user-wide cache where the folder is read-only). numba
notices a change of the file that a kernel is in, not of a part in another file: after editing a part here, delete
`encodings/__pycache__`.

What compiles slowly is avoided, since it is the first thing that users wait for: numpy's sorting and searching, and
copies between slices, which cost up to seconds each where a loop costs a tenth of one; and entries from Python that
nobody uses.
"""

from numba import njit
from numba.core import event

from ...logging import progress_bar

kernel = njit(cache=True, nogil=True, no_cfunc_wrapper=True)
"""Decorator of functions that Python calls."""

part = njit(cache=True, nogil=True, no_cfunc_wrapper=True, no_cpython_wrapper=True)
"""Decorator of functions that only kernels call. A call from Python would crash the process: a test looks for them."""


class _FirstCall(event.Listener):
    """Says once what the user waits for; what lies in the cache is not compiled."""

    told = False

    def on_start(self, event: event.Event) -> None:
        module = event.data["dispatcher"].py_func.__module__
        if not self.told and module.split(".")[0] == __name__.split(".")[0]:
            self.told = True
            progress_bar(desc="compiling what reads cells, once on this machine", bar_format="{desc}").close()

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _FirstCall())
