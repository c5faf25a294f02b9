"""Makes transformers' Auto classes know the families of `registry.FAMILIES`.

`register()` is the promise: it registers everything, at the price of importing torch. `install_hook()` is comfort: it
waits until transformers itself imports the module behind an Auto class and registers only that kind, so that a bare
`import sclm_hf` costs milliseconds and is still enough for `AutoModel.from_pretrained`.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType

from .registry import FAMILIES


def _register_configs(auto: ModuleType) -> None:
    for family in FAMILIES.values():
        config = getattr(importlib.import_module(family.configuration_module), family.config)
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    for family in FAMILIES.values():
        modeling = importlib.import_module(family.modeling_module)
        config = getattr(importlib.import_module(family.configuration_module), family.config)
        for auto_class, model_class in family.auto_classes.items():
            getattr(auto, auto_class).register(config, getattr(modeling, model_class), exist_ok=True)


def _register_by_config(auto: ModuleType, auto_class: str, module: str, attribute: str, keyword: str) -> None:
    tokenization = importlib.import_module(module)
    for family in FAMILIES.values():
        config = getattr(importlib.import_module(family.configuration_module), family.config)
        registered = getattr(tokenization, getattr(family, attribute))
        getattr(auto, auto_class).register(config, **{keyword: registered}, exist_ok=True)


def _register_tokenizers(auto: ModuleType) -> None:
    _register_by_config(
        auto, "AutoTokenizer", "sclm_hf.tokenization.tokenization_gene", "tokenizer", "tokenizer_class"
    )


def _register_feature_extractors(auto: ModuleType) -> None:
    module = "sclm_hf.tokenization.feature_extraction_expression"
    _register_by_config(auto, "AutoFeatureExtractor", module, "feature_extractor", "feature_extractor_class")


def _register_processors(auto: ModuleType) -> None:
    _register_by_config(auto, "AutoProcessor", "sclm_hf.tokenization.processing_cell", "processor", "processor_class")


_REGISTRARS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractors,
    "transformers.models.auto.processing_auto": _register_processors,
    "transformers.models.auto.modeling_auto": _register_models,
}


def register() -> None:
    """Register every family with transformers' Auto classes now. Calling it again changes nothing."""
    for name, registrar in _REGISTRARS.items():
        registrar(importlib.import_module(name))


class _RegisteringLoader(importlib.abc.Loader):
    """Runs the original loader of an Auto module, then our registrar for it."""

    def __init__(self, loader: importlib.abc.Loader, registrar: Callable[[ModuleType], None]) -> None:
        self.loader = loader
        self.registrar = registrar

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.registrar(module)


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Steps in when one of transformers' Auto modules is imported for the first time."""

    def find_spec(self, fullname, path=None, target=None):
        registrar = _REGISTRARS.get(fullname)
        if registrar is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, registrar)
        return spec


def install_hook() -> None:
    """Register each kind when transformers loads its Auto module; at once for those already loaded."""
    if any(isinstance(finder, _AutoModuleFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _AutoModuleFinder())
    for name, registrar in _REGISTRARS.items():
        if name in sys.modules:
            registrar(sys.modules[name])
