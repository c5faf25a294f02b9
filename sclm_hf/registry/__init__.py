"""What the package knows about each family of models: strings and numbers, one file per family."""

from importlib import import_module

from ..errors import ConfigurationError
from .family import Family

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
