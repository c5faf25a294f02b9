"""What peft has to know about our families, given to its modules once they are imported; peft is not imported here.

A stock configuration then does what it does with the models of transformers: it finds the layers to adapt, and what an
adapter needs beside them is trained and saved with it.
"""

import re
from types import ModuleType
from typing import Any

from .errors import ConfigurationError
from .registry import FAMILIES, Family
from .registry.specialists import SPECIALISTS, Specialist

_ADAPTABLE: dict[str, Family | Specialist] = {**FAMILIES, **SPECIALISTS}


def register_target_modules(constants: ModuleType) -> None:
    """Tell `peft.utils.constants` which layers each method adapts in each family, for configurations that do not."""
    for name, table in vars(constants).items():
        # in place: peft's tuners hold these very dictionaries
        if method := re.fullmatch("TRANSFORMERS_MODELS_TO_(.+)_(?:TARGET|FEEDFORWARD)_MODULES_MAPPING", name):
            adaptable = [family for family in _ADAPTABLE.values() if family.lora_target_modules]
            table.update({family.name: _modules(family, method[1], name) for family in adaptable})


def _modules(family: Family | Specialist, method: str, table: str) -> list[str]:
    if table == "TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING":
        return list(family.feedforward_modules)
    if method == "IA3":
        return [*family.key_value_modules, *family.feedforward_modules]
    if method == "LNTUNING":
        return list(family.norm_modules)
    if method == "BEFT":
        return [family.key_value_modules[-1]]
    return list(family.lora_target_modules)


def complete_adapters(tuners: ModuleType) -> None:
    """Have `peft.tuners.tuners_utils` train, and save with an adapter, the modules that no checkpoint holds.

    These are the head of a classifier, whatever a family calls it, and all that was missing from the checkpoint when
    the model was opened. Left frozen and out of the adapter, they would be drawn anew each time it is loaded.
    """
    inject = tuners.BaseTuner.inject_adapter
    if hasattr(inject, "is_completed"):
        return

    def inject_adapter(tuner: Any, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        _complete(tuner.peft_config[adapter_name], model)
        inject(tuner, model, adapter_name, *args, **kwargs)

    inject_adapter.is_completed = True
    tuners.BaseTuner.inject_adapter = inject_adapter


def _complete(adapter: Any, model: Any) -> None:
    family = _family(model)
    # what was saved stays as it is
    if family is None or adapter.inference_mode:
        return
    heads = family.classification_head if adapter.task_type == "SEQ_CLS" else ()
    saved = list(getattr(adapter, "modules_to_save", None) or ())
    wanted = [*heads, *getattr(model, "random_modules", ())]
    lacking = [name for name in wanted if not any(f".{name}".endswith(f".{known}") for known in saved)]
    if not lacking:
        return
    if not hasattr(adapter, "modules_to_save"):
        raise ConfigurationError(
            f"{lacking} of {type(model).__name__} started random, because the checkpoint lacks them, and "
            f"`{type(adapter).__name__}` saves no modules with the adapter: train the model in full first, or choose "
            "a method that does, such as `LoraConfig`."
        )
    adapter.modules_to_save = [*saved, *lacking]


def refuse_virtual_tokens(peft_model: ModuleType) -> None:
    """Have `peft.peft_model` refuse prompts for models that take none, which would drop or pool them silently."""
    set_up = peft_model.PeftModel._setup_prompt_encoder
    if hasattr(set_up, "is_guarded"):
        return

    def _setup_prompt_encoder(self: Any, adapter_name: str) -> Any:
        _check_prompts(self.peft_config[adapter_name], self.base_model)
        return set_up(self, adapter_name)

    _setup_prompt_encoder.is_guarded = True
    peft_model.PeftModel._setup_prompt_encoder = _setup_prompt_encoder


def _check_prompts(adapter: Any, model: Any) -> None:
    if _family(model) is None:
        return
    # not at the top: `import sclm_hf` is to stay cheap
    import inspect

    if adapter.peft_type in ("PREFIX_TUNING", "CARTRIDGE"):
        takes_them = model.can_generate()
    else:
        inputs = inspect.signature(model.forward).parameters
        # virtual tokens have no expression, and are drawn beside weights
        takes_them = "inputs_embeds" in inputs and "expression_values" not in inputs
        takes_them = takes_them and any(True for _ in model.get_input_embeddings().parameters())
    if not takes_them:
        raise ConfigurationError(
            f"`{type(adapter).__name__}` puts virtual tokens before those of a cell, and `{type(model).__name__}` "
            "takes none: choose a method that adapts layers, such as `LoraConfig` or `IA3Config`."
        )


def _family(model: Any) -> Family | Specialist | None:
    return _ADAPTABLE.get(getattr(getattr(model, "config", None), "model_type", None))
