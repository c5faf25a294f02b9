"""What the package knows about each family, and each kind of model of cells and text: one file for each."""

from importlib import import_module

from ..errors import ConfigurationError
from .composite import Composite
from .family import Family
from .standalone import Standalone

_NAMES = (
    "cellplm",
    "geneformer",
    "iseeek",
    "linear",
    "scbert",
    "scfoundation",
    "scgpt",
    "tgpt",
    "uce",
)

FAMILIES: dict[str, Family] = {name: import_module(f".{name}", __name__).FAMILY for name in _NAMES}

_COMPOSITES = ("cell_text", "cell_text_dual_encoder")

COMPOSITES: dict[str, Composite] = {name: import_module(f".{name}", __name__).COMPOSITE for name in _COMPOSITES}
"""Models that join one of a family with a language model of transformers."""

STANDALONE: dict[str, Standalone] = {name: import_module(f".{name}", __name__).STANDALONE for name in ("cell_set",)}
"""Models without a processor."""


def get_family(name: str) -> Family:
    """The family called `name` (a `model_type`).

    Raises:
        ConfigurationError: there is no such family; the message lists those that exist.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigurationError(
            f"There is no family `{name}`: expected one of {', '.join(sorted(FAMILIES))}."
        ) from None
