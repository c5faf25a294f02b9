"""LoRA (Hu et al., ICLR 2022) through stock `peft`.

`import sclm_hf` tells peft which layers LoRA adapts in our families, so that a bare `LoraConfig()` works as well.
"""

import copy
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import resolve_revision

from ..errors import CheckpointError, ConfigurationError, require
from ..registry import get_family

peft = require("peft", extra="train")

ADAPTED_CONFIG = "adapted_config.json"
"""The configuration of the adapted model: its class and its label names.

It is not called `config.json`, because transformers takes an adapter folder with one for a whole model.
"""


def lora_config(
    model: PreTrainedModel,
    *,
    r: int = 8,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    target_modules: list[str] | None = None,
    modules_to_save: list[str] | None = None,
    train_gene_embeddings: bool = False,
    **options: Any,
) -> "peft.LoraConfig":
    """A `peft.LoraConfig` with the defaults of the model's family.

    Args:
        model: the model to adapt.
        r: rank.
        lora_alpha: the update is scaled by `lora_alpha / r`.
        lora_dropout: dropout before the update.
        target_modules: linear layers to adapt; by default the attention projections that the registry names.
        modules_to_save: modules trained in full and saved with the adapter; by default the head of a classifier, or
            the heads of a classifier for several tasks.
        train_gene_embeddings: train the gene embeddings in full too; always so when genes were added to those of the
            saved base.
        **options: passed to `peft.LoraConfig`.

    Raises:
        ConfigurationError: the model's family is unknown, its gene embeddings cannot be trained, it has no layer of a
            name in `target_modules`, or `r` or `lora_dropout` is out of range.
    """
    family = get_family(model.config.model_type)
    if r < 1:
        raise ConfigurationError(f"`r` (`lora_r`) must be at least 1, got {r}.")
    if not 0 <= lora_dropout < 1:
        raise ConfigurationError(f"`lora_dropout` must be at least 0 and below 1, got {lora_dropout}.")
    _check_targets(model, target_modules or ())
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    if modules_to_save is None:
        modules_to_save = list(family.classification_head) if is_classifier else _task_heads(model)
    are_weights = any(True for _ in model.get_input_embeddings().parameters())
    if train_gene_embeddings and not are_weights:
        raise ConfigurationError(
            f"The gene embeddings of {family.title} are a fixed table, no weights: leave out `train_gene_embeddings`."
        )
    if are_weights and (train_gene_embeddings or _has_added_genes(model)):
        modules_to_save = [*modules_to_save, model._input_embed_layer]
    # GPT-2 keeps its matrices transposed; peft finds out by itself, with a warning
    options = {"fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()), **options}
    return peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if is_classifier else None,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules or family.lora_target_modules),
        modules_to_save=modules_to_save or None,
        **options,
    )


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Refuse a name that fits no layer: beside others that do, peft would pass over it."""
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    if unknown := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]:
        raise ConfigurationError(
            f"`target_modules` (`lora_target_modules`) names {unknown}, and {type(model).__name__} has no such linear "
            f"layer: expected some of {sorted({name.rpartition('.')[2] for name in layers})}."
        )


def add_lora(model: PreTrainedModel, **settings: Any) -> "peft.PeftModel":
    """Freeze `model` and put a trainable LoRA on it; `settings` are those of [`lora_config`]."""
    return peft.get_peft_model(model, lora_config(model, **settings))


def save_adapter(model: "peft.PeftModel", directory: str | Path, *, processor: Any = None) -> None:
    """Save the adapter with what is needed to use it: base reference, configuration with label names, processor.

    A `README.md` with these facts is written unless there is one.

    Args:
        model: the adapted model; its base was loaded from a folder or the Hub.
        directory: folder to write.
        processor: the processor of the base.

    Raises:
        ConfigurationError: the base was never saved, so nothing could be named as base.
    """
    directory = Path(directory)
    base = model.get_base_model()
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_reference(model)
    has_card = (directory / "README.md").exists()
    # peft would save the gene embeddings a second time
    model.save_pretrained(directory, save_embedding_layers=False)
    config = copy.deepcopy(base.config)
    config.architectures = [type(base).__name__]
    if not has_card:
        # instead of peft's, which is a form to fill in
        (directory / "README.md").write_text(_card(model.active_peft_config, config), encoding="utf-8")
    (directory / ADAPTED_CONFIG).write_text(config.to_json_string(), encoding="utf-8")
    if processor is not None:
        processor.save_pretrained(directory)


def base_reference(model: "peft.PeftModel") -> str:
    """Repository or absolute folder that the base was loaded from.

    Raises:
        ConfigurationError: it was never saved, or has genes since that neither it nor the adapter would bring along.
    """
    base = model.get_base_model()
    name = base.config._name_or_path
    if not name:
        raise ConfigurationError(
            "An adapter names the folder or repository of its base, and this base was never saved: save it with "
            "`save_pretrained`, load it with `from_pretrained`, and adapt that."
        )
    saved = {module for config in model.peft_config.values() for module in config.modules_to_save or ()}
    if base._input_embed_layer not in saved and _has_added_genes(base):
        raise ConfigurationError(
            f"The model has {base.config.vocab_size} gene embeddings and its base `{name}` another number, so the "
            "adapter must bring them along: adapt with `add_lora`, or with "
            f"`modules_to_save=['{base._input_embed_layer}']`."
        )
    # a relative path would only hold for this working directory
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def load_adapter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    is_trainable: bool = False,
) -> "peft.PeftModel":
    """Load the base and the adapter on it, ready for inference.

    Args:
        path: folder or repository that [`save_adapter`] wrote.
        base: folder or repository of the base, if it is no longer where the adapter says.
        revision: branch, tag or commit of the adapter.
        dtype: of the weights.
        is_trainable: go on training the adapter.

    Raises:
        CheckpointError: the adapter or its base cannot be read, or they do not belong together.
    """
    path = str(path)
    # one commit for all files
    revision = resolve_revision(path, revision)
    try:
        adapter = peft.PeftConfig.from_pretrained(path, revision=revision)
        model_class, config = _adapted_class(path, revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` is not an adapter that can be read: {error}") from error
    model = _load_base(model_class, config, adapter, str(base or adapter.base_model_name_or_path), dtype, path)
    adapted = peft.PeftModel.from_pretrained(model, path, revision=revision, is_trainable=is_trainable)
    return adapted if is_trainable else adapted.eval()


def merge_adapter(model: "peft.PeftModel") -> PreTrainedModel:
    """The base with the adapter's update added to its weights, a plain model; `model` is left as it is."""
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        # most of peft's methods take a module trained in full for one linear layer
        if isinstance(module, peft.utils.ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(merged.get_submodule(parent), child, module.modules_to_save[module.active_adapters[0]])
    merged = merged.merge_and_unload()
    merged.config.architectures = [type(merged).__name__]
    return merged


def _card(adapter: "peft.LoraConfig", config: Any) -> str:
    """A `README.md` that says what the adapter is; how well it works is for who evaluated it to say."""
    base, is_local = adapter.base_model_name_or_path, Path(adapter.base_model_name_or_path).is_dir()
    header = ["library_name: peft", "tags: [lora, single-cell]", *([] if is_local else [f"base_model: {base}"])]
    layers = adapter.target_modules
    facts = {
        "Base": f"`{base}`",
        "Family": get_family(config.model_type).title,
        "Class": f"`{config.architectures[0]}`",
        "Rank and alpha": f"{adapter.r} and {adapter.lora_alpha}",
        "Adapted layers": layers if isinstance(layers, str) else ", ".join(sorted(layers)),
        "Trained in full": ", ".join(adapter.modules_to_save or ()) or "nothing",
    }
    if config.architectures[0].endswith("ForSequenceClassification"):
        facts["Labels"] = ", ".join(config.id2label.values())
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    use = "Load it with `sclm_hf.adapters.lora.load_adapter`."
    return "\n".join(["---", *header, "---", "", "# LoRA adapter", "", *lines, "", use, ""])


def _task_heads(model: PreTrainedModel) -> list[str]:
    """What a classifier for several tasks has beside its encoder; none for other models."""
    if not type(model).__name__.endswith("ForMultiTaskClassification"):
        return []
    added = {name: module for name, module in model.named_children() if name != model.base_model_prefix}
    names = []
    for name, module in added.items():
        # peft takes no lists of modules
        names += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return [name for name in names if any(True for _ in model.get_submodule(name).parameters())]


def _has_added_genes(model: PreTrainedModel) -> bool:
    """Whether the model has another number of gene embeddings than the base it was loaded from."""
    config = model.config
    if not config._name_or_path:
        return False
    try:
        saved = AutoConfig.from_pretrained(config._name_or_path, revision=getattr(config, "_commit_hash", None))
    # a base that is gone is named when the adapter is loaded
    except OSError:
        return False
    return saved.vocab_size != config.vocab_size


def _adapted_class(path: str, revision: str | None) -> tuple[type[PreTrainedModel], Any]:
    file = cached_file(path, ADAPTED_CONFIG, revision=revision)
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    config = AutoConfig.for_model(**settings)
    family = get_family(config.model_type)
    architecture = settings["architectures"][0]
    if architecture not in family.models:
        raise ValueError(f"its class `{architecture}` is none of {', '.join(family.models)}")
    return getattr(importlib.import_module(family.modeling_module), architecture), config


def _load_base(model_class, config, adapter, base: str, dtype, path: str) -> PreTrainedModel:
    """Load the base; whatever it lacks must come with the adapter."""
    verbosity = transformers_logging.get_verbosity()
    # the head that the base lacks comes with the adapter, so a warning that it starts random would be wrong
    transformers_logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(
            base,
            config=config,
            dtype=dtype,
            revision=adapter.revision,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except OSError as error:
        raise CheckpointError(
            f"The base of the adapter `{path}` cannot be read from `{base}`: {error} Name its place with `base=`."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    saved = tuple(adapter.modules_to_save or ())
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if lacking := sorted(key for key in absent if not any(f".{module}." in f".{key}" for module in saved)):
        raise CheckpointError(
            f"`{base}` is not the base of the adapter `{path}`: it lacks {len(lacking)} weights of the right shape "
            f"that the adapter does not bring along, for example `{lacking[0]}`."
        )
    return model
