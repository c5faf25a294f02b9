"""`sclm_hf.tl`: the verbs in scanpy's manner.

>>> sclm_hf.tl.embed(adata, model="path/to/checkpoint")  # doctest: +SKIP
>>> sc.pp.neighbors(adata, use_rep="X_scgpt")  # doctest: +SKIP

Those that add to cells do so in place and return None, or with `copy=True` return a copy with the results; those that
make a table or an AnnData of their own return it, as the functions of the same name in `sclm_hf` do.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .. import get_function, verb_names

__all__ = verb_names()


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in __all__:
        raise AttributeError(f"`sclm_hf.tl` has no `{name}`: it has {', '.join(__all__)}")
    function = _in_place(get_function(name))
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted(__all__)


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """A verb that adds to cells with `copy=False` by default; any other as it is."""
    parameters = inspect.signature(function).parameters
    if "copy" not in parameters:
        return function

    @functools.wraps(function)
    def verb(adata: Any, *arguments: Any, copy: bool = False, **settings: Any) -> Any:
        result = function(adata, *arguments, copy=copy, **settings)
        return result if copy else None

    changed = [one.replace(default=False) if name == "copy" else one for name, one in parameters.items()]
    verb.__signature__ = inspect.signature(function).replace(parameters=changed)
    return verb
