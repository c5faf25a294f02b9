"""Makes transformers' Auto classes, and peft's defaults, know the models of `sclm_hf.registry`.

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

from .peft_defaults import complete_adapters, refuse_virtual_tokens, register_target_modules
from .registry import COMPOSITES, FAMILIES, STANDALONE, Composite, Family, Standalone
from .registry.specialists import SPECIALISTS, Specialist

_WITH_PROCESSOR: tuple[Family | Composite | Specialist, ...] = (
    *FAMILIES.values(),
    *COMPOSITES.values(),
    *SPECIALISTS.values(),
)
_MODEL_TYPES: tuple[Family | Composite | Specialist | Standalone, ...] = (*_WITH_PROCESSOR, *STANDALONE.values())

_AUTO = "transformers.models.auto."
_MODELS = _AUTO + "modeling_auto"
_PIPELINES, _OUR_PIPELINES = "transformers.pipelines", "sclm_hf.tasks.engines.pipelines"
_LAYERS = "transformers.modeling_layers"
"""Imports the Auto models before it has what our models need of it."""
_COMMON = "sclm_hf.modeling.common."
"""What our models need may be what brings transformers in."""
_OF_CONFIGURATIONS = (_COMMON + "plans", _COMMON + "configuration")
"""What configurations need of it, which brings in nothing that they have not."""
_BUILT_ON = tuple(
    f"transformers.models.{name}.modeling_{name}"
    for name in dict.fromkeys(family.built_on for family in FAMILIES.values() if family.built_on)
)
"""What some of our models build on; each brings the Auto models in before it is complete itself."""


def _load(module_name: str, name: str) -> type | None:
    """The class `name`, or None while its module is still being imported; it is registered when that is done."""
    module = importlib.import_module(module_name)
    return None if _is_loading(module_name) else getattr(module, name)


def _is_loading(module_name: str) -> bool:
    return getattr(getattr(sys.modules.get(module_name), "__spec__", None), "_initializing", False)


def _config(family: Family | Composite | Specialist | Standalone) -> type | None:
    # transformers' own configurations, which some of ours build on, cannot be imported before that
    return None if _is_loading(_MODELS) else _load(family.configuration_module, family.config)


def _register_configs(auto: ModuleType) -> None:
    for family in _MODEL_TYPES:
        if config := _config(family):
            auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    common = [name for name in sys.modules if name.startswith(_COMMON)]
    if any(_is_loading(name) for name in (_LAYERS, *_BUILT_ON, *common)):
        return
    for name in _KINDS_WITHOUT_MODELS:
        if name in sys.modules and not _is_loading(name):
            _REGISTRARS[name](sys.modules[name])
    for family in _MODEL_TYPES:
        for auto_class, model_name in family.auto_classes.items():
            if model := _load(family.modeling_module, model_name):
                getattr(auto, auto_class).register(_config(family), model, exist_ok=True)


def _register_tokenizers(auto: ModuleType) -> None:
    for family in FAMILIES.values():
        tokenizer = _load("sclm_hf.tokenization.genes.tokenization_gene", family.tokenizer)
        if (config := _config(family)) and tokenizer:
            auto.AutoTokenizer.register(config, tokenizer_class=tokenizer, exist_ok=True)


def _register_feature_extractors(auto: ModuleType) -> None:
    for family in FAMILIES.values():
        extractor = _load("sclm_hf.tokenization.feature_extraction_expression", family.feature_extractor)
        if (config := _config(family)) and extractor:
            auto.AutoFeatureExtractor.register(config, extractor, exist_ok=True)


def _register_processors(auto: ModuleType) -> None:
    for family in _WITH_PROCESSOR:
        processor = _load(family.processor_module, family.processor)
        if (config := _config(family)) and processor:
            auto.AutoProcessor.register(config, processor, exist_ok=True)


def _register_pipelines(pipelines: ModuleType) -> None:
    # a room of a higher floor, which stands ready only where pipelines are asked for
    if register_tasks := _load(_OUR_PIPELINES, "register_pipelines"):
        register_tasks(pipelines)


_PEFT: dict[str, Callable[[ModuleType], None]] = {
    "peft.utils.constants": register_target_modules,
    "peft.tuners.tuners_utils": complete_adapters,
    "peft.peft_model": refuse_virtual_tokens,
}
_REGISTRARS: dict[str, Callable[[ModuleType], None]] = {
    _AUTO + "configuration_auto": _register_configs,
    _AUTO + "tokenization_auto": _register_tokenizers,
    _AUTO + "feature_extraction_auto": _register_feature_extractors,
    _AUTO + "processing_auto": _register_processors,
    _MODELS: _register_models,
    _PIPELINES: _register_pipelines,
    **_PEFT,
}
_ON_DEMAND = (*_PEFT, _PIPELINES)
"""Those that are registered only once somebody has imported their module."""
_KINDS_WITHOUT_MODELS = tuple(name for name in _REGISTRARS if name != _MODELS and name not in _ON_DEMAND)

# our modules import parts of transformers that import an Auto module in turn: whichever is done last registers
_WAITING_FOR = {
    **dict.fromkeys((_LAYERS, *_BUILT_ON), _MODELS),
    "sclm_hf.tokenization.genes.tokenization_gene": _AUTO + "tokenization_auto",
    "sclm_hf.tokenization.feature_extraction_expression": _AUTO + "feature_extraction_auto",
    **{family.processor_module: _AUTO + "processing_auto" for family in _WITH_PROCESSOR},
    **{family.configuration_module: _AUTO + "configuration_auto" for family in _MODEL_TYPES},
    **{family.modeling_module: _MODELS for family in _MODEL_TYPES},
    _OUR_PIPELINES: _PIPELINES,
}


def register() -> None:
    """Register every model with transformers' Auto classes now, and with peft if it is loaded.

    Calling it again changes nothing.
    """
    for name, registrar in _REGISTRARS.items():
        if name not in _ON_DEMAND or name in sys.modules:
            registrar(importlib.import_module(name))


def _after_import(fullname: str, module: ModuleType) -> None:
    auto_name = _AUTO + "modeling_auto" if fullname.startswith(_COMMON) else _WAITING_FOR.get(fullname, fullname)
    auto = sys.modules.get(auto_name)
    if auto is None or (auto is not module and _is_loading(auto_name)):
        return
    module.__spec__._initializing = False
    _REGISTRARS[auto_name](auto)


class _RegisteringLoader(importlib.abc.Loader):
    """Runs a module's own loader, then registers what has become complete."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _after_import(module.__name__, module)


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Steps in when a module to register with, or one of ours, is imported for the first time."""

    def find_spec(self, fullname, path=None, target=None):
        is_common = fullname.startswith(_COMMON) and fullname not in _OF_CONFIGURATIONS
        if fullname not in _REGISTRARS and fullname not in _WAITING_FOR and not is_common:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def install_hook() -> None:
    """Register each kind when the module that it registers with is loaded; at once for those already loaded."""
    if any(isinstance(finder, _AutoModuleFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _AutoModuleFinder())
    for name, registrar in _REGISTRARS.items():
        if name in sys.modules:
            registrar(sys.modules[name])
