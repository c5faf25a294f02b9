"""What the package knows about each task-specific system: one file for each."""

from importlib import import_module

from .specialist import Specialist

_NAMES = (
    "ciform",
    "deepmaps",
    "marsgt",
    "protrait",
    "scmoformer",
    "scmvp",
    "sctranssort",
    "stgrns",
    "tgem",
    "transcluster",
    "transformerst",
)

SPECIALISTS: dict[str, Specialist] = {name: import_module(f".{name}", __name__).SPECIALIST for name in _NAMES}
