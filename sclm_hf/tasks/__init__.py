"""Verbs: AnnData in, AnnData out. A file in this folder is a verb, and holds the function of its name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from .running.verb import Verb


def verb_names() -> list[str]:
    """Names of the verbs, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def get_function(name: str) -> "Callable[..., AnnData]":
    """The function of a verb.

    Raises:
        ConfigurationError: there is no such verb.
    """
    if name not in verb_names():
        raise ConfigurationError(f"There is no verb {name!r}: expected one of {', '.join(verb_names())}.")
    return getattr(importlib.import_module(f"{__name__}.{name}"), name)


def get_verb(name: str) -> "Verb":
    """The record of a verb; errors are those of [`get_function`]."""
    return getattr(get_function(name), "verb")  # noqa: B009
