"""LoRA (Hu et al., ICLR 2022) through stock `peft`.

`import sclm_hf` tells peft which layers LoRA adapts in our families, so that a bare `LoraConfig()` works as well.
"""

import copy
import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..cards import render
from ..errors import CheckpointError, ConfigurationError, SclmError, require
from ..logging import counted, quiet_transformers, warn
from ..modeling.common.soundness import is_finite, require_plausible
from ..opening.families import class_of, read_config
from ..opening.files import (
    ADAPTED_CONFIG,
    ADAPTER_WEIGHTS,
    Stored,
    damage_is_told,
    find_file,
    read_headers,
    read_settings,
    require_readable,
)
from ..opening.kinds import is_classifier, labels_cells, labels_tasks
from ..opening.names import is_repo_id, resolve_name
from ..opening.weights import open_model
from ..registry import COMPOSITES, FAMILIES, Composite, Family, get_family
from ..registry.specialists import SPECIALISTS, Specialist
from .settings import REMEDY, base_of, read_adapter_settings

peft = require("peft", extra="train")

_UNREADABLE = "is not an adapter that can be read"


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

    Of a model that joins cells with a language model, the LoRA adapts the language model, and the projector between
    them is trained in full; the encoder of cells stays as it is. Of a language model that knows nothing of cells, the
    layers are those that peft adapts.

    Args:
        model: the model to adapt.
        r: rank.
        lora_alpha: the update is scaled by `lora_alpha / r`.
        lora_dropout: dropout before the update.
        target_modules: linear layers to adapt; by default the attention projections that the registry names.
        modules_to_save: modules trained in full and saved with the adapter; by default the head of a classifier, or
            the heads of a classifier for several tasks. Those that keep running statistics of what they have seen
            (`BatchNorm`) are always among them, for their statistics change in training.
        train_gene_embeddings: train the gene embeddings in full too; always so when genes were added to those of the
            saved base.
        **options: passed to `peft.LoraConfig`.

    Raises:
        ConfigurationError: the model's family is unknown, its gene embeddings cannot be trained, it has no layer of a
            name in `target_modules` or none at all, or `r` or `lora_dropout` is out of range.
    """
    if not 0 <= lora_dropout < 1:
        raise ConfigurationError(f"`lora_dropout` must be at least 0 and below 1, got {lora_dropout}.")
    if r < 1:
        raise ConfigurationError(f"`r` (`lora_r`) must be at least 1, got {r}.")
    if hasattr(model, "train_projector_only"):
        return peft.LoraConfig(
            task_type=peft.TaskType.CAUSAL_LM,
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=_language_layers(model, target_modules),
            modules_to_save=modules_to_save or ["projector"],
            **options,
        )
    if model.config.model_type not in FAMILIES | SPECIALISTS and model.can_generate():
        is_seq2seq = model.config.is_encoder_decoder
        return peft.LoraConfig(
            task_type=peft.TaskType.SEQ_2_SEQ_LM if is_seq2seq else peft.TaskType.CAUSAL_LM,
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=list(_layers_of(model, target_modules)),
            modules_to_save=modules_to_save,
            **options,
        )
    family = _record(model.config.model_type)
    if not (target_modules or family.lora_target_modules):
        if isinstance(family, Specialist):
            raise ConfigurationError(
                f"{family.title} has no layer that a LoRA could adapt: train it whole (`sclm-hf fit {family.name}`)."
            )
        raise ConfigurationError(
            f"{family.title} has no layer that a LoRA could adapt: train all of it (`head` full, `--head full`), or a "
            "probe on its embeddings (`head` probe, `--head probe`)."
        )
    _check_targets(model, target_modules or ())
    classifies = is_classifier(model)
    if modules_to_save is None:
        modules_to_save = _trained_in_full(model, family)
    are_weights = isinstance(family, Family) and any(True for _ in model.get_input_embeddings().parameters())
    if train_gene_embeddings and not are_weights:
        what = "are a fixed table, no weights" if isinstance(family, Family) else "are no weights of their own"
        raise ConfigurationError(f"The gene embeddings of {family.title} {what}: leave out `train_gene_embeddings`.")
    if are_weights and (train_gene_embeddings or _has_added_genes(model)):
        modules_to_save = [*modules_to_save, model._input_embed_layer]
    modules_to_save = [*modules_to_save, *_running_statistics(model, modules_to_save)]
    # GPT-2 keeps its matrices transposed; peft finds out by itself, with a warning
    options = {"fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()), **options}
    return peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if classifies else None,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules or _default_targets(model)),
        modules_to_save=modules_to_save or None,
        **options,
    )


def _trained_in_full(model: PreTrainedModel, family: Family | Specialist) -> list[str]:
    """What a LoRA trains in full unless told otherwise: heads, and what else the registry names."""
    heads = list(family.classification_head) if is_classifier(model) else []
    if labels_tasks(type(model).__name__):
        heads = heads_of(model)
    return [*heads, *(family.trained_in_full if isinstance(family, Specialist) else ())]


def _saved_modules(model: "peft.PeftModel") -> set[str]:
    """Names, or ends of names, of the modules that an adapter trains in full and brings along."""
    return {module for config in model.peft_config.values() for module in config.modules_to_save or ()}


def _running_statistics(model: PreTrainedModel, saved: Collection[str]) -> list[str]:
    """Names of the modules with running statistics, which change in training; not of those inside `saved` ones."""
    named = [name for name, one in model.named_modules() if getattr(one, "running_mean", None) is not None]
    return [name for name in named if not any(f".{one}." in f".{name}." for one in saved)]


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise if a target matches no layer; peft silently ignores it when other targets match."""
    layers = _linear_layers(model)
    if unknown := [target for target in targets if not _is_among(target, layers)]:
        raise ConfigurationError(
            f"`target_modules` (`lora_target_modules`) names {unknown}, and {type(model).__name__} has no such linear "
            f"layer: expected some of {sorted({name.rpartition('.')[2] for name in layers})}."
        )


def _record(model_type: Any) -> Family | Composite | Specialist:
    """What the registry holds of a kind of model.

    Raises:
        ConfigurationError: it holds nothing of it.
    """
    return (COMPOSITES | SPECIALISTS).get(model_type) or get_family(model_type)


def _default_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the layers to adapt in a model of one of our families, or a task-specific one."""
    family, layers = _record(model.config.model_type), _linear_layers(model)
    if isinstance(family, Specialist):
        return family.lora_target_modules
    attends = any(_is_among(target, layers) for target in family.lora_target_modules)
    return family.lora_target_modules if attends else family.lora_without_attention


def _linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]


def _is_among(target: str, layers: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for name in layers)


def _language_layers(model: PreTrainedModel, targets: Sequence[str] | None) -> str:
    """A pattern of the layers to adapt in the language model of a model that reads cells.

    Args:
        model: the model.
        targets: names of linear layers; by default those that peft adapts in such a language model.

    Raises:
        ConfigurationError: the language model has no such layer.
    """
    targets = _layers_of(model.base_model.language_model, targets)
    return rf"(.*\.)?language_model\.(.*\.)?({'|'.join(map(re.escape, targets))})"


def _layers_of(language: PreTrainedModel, targets: Sequence[str] | None) -> Sequence[str]:
    """Names of the layers to adapt in a language model; arguments and errors as for [`_language_layers`]."""
    known = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    targets = targets or known.get(language.config.model_type)
    if not targets:
        raise ConfigurationError(
            f"It is not known which layers of a `{language.config.model_type}` a LoRA adapts: name them with "
            "`target_modules` (`lora_target_modules`)."
        )
    _check_targets(language, targets)
    return targets


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
    if lost := _running_statistics(base, _saved_modules(model)):
        warn(
            f"The adapter leaves out the running statistics of {counted(len(lost), 'module')} of the model, such as "
            f"`{lost[0]}`, which change in training: if they did, the loaded adapter is another model than this one. "
            "Adapt with `add_lora`, which brings them along."
        )
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_reference(model, directory)
        _name_targets(model, config)
    config = copy.deepcopy(base.config)
    config.architectures = [type(base).__name__]
    card = directory / "README.md"
    text = card.read_bytes() if card.exists() else _card(model.active_peft_config, config).encode()
    # peft would save the gene embeddings a second time
    model.save_pretrained(directory, save_embedding_layers=False)
    # instead of peft's, which is a form to fill in, or fills in one that is there
    card.write_bytes(text)
    (directory / ADAPTED_CONFIG).write_text(config.to_json_string(), encoding="utf-8")
    if processor is not None:
        processor.save_pretrained(directory)


def _name_targets(model: "peft.PeftModel", config: "peft.PeftConfig") -> None:
    """Put the names of the layers in the place of patterns, which nobody would try who loads the adapter."""
    names = getattr(model.base_model, "targeted_module_names", None)
    if names and isinstance(getattr(config, "target_modules", None), str):
        config.target_modules, config.exclude_modules = set(names), None


def base_reference(model: "peft.PeftModel", directory: Path | None = None) -> str:
    """Repository that the base was loaded from; or its folder, as seen from the adapter's, so that both can move.

    Args:
        model: the adapted model.
        directory: folder of the adapter; the folder of the base is absolute unless given.

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
    if base._input_embed_layer not in _saved_modules(model) and _has_added_genes(base):
        raise ConfigurationError(
            f"The model has {base.config.vocab_size} gene embeddings and its base `{name}` another number, so the "
            "adapter must bring them along: adapt with `add_lora`, or with "
            f"`modules_to_save=['{base._input_embed_layer}']`."
        )
    if not Path(name).is_dir():
        return name
    if directory is None:
        return str(Path(name).resolve())
    relative = Path(os.path.relpath(Path(name).resolve(), directory.resolve())).as_posix()
    # a name of a repository never begins with a dot
    return relative if relative.startswith(".") else f"./{relative}"


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
        CheckpointError: the adapter or its base cannot be read, or they do not belong together; a tensor of the
            adapter is missing, unknown, of another shape or kind, or not finite.
    """
    path = str(path)
    # one commit for all files
    revision = resolve_name(path, revision)
    require_readable(path, revision)
    settings = read_adapter_settings(path, revision)
    weights = find_file(path, ADAPTER_WEIGHTS, revision)
    if weights is None:
        raise CheckpointError(f"`{path}` is not an adapter that can be read: it holds no `{ADAPTER_WEIGHTS}`.")
    stored = read_headers([weights])
    require_plausible(path, settings, {key: one.shape for key, one in stored.items()})
    with damage_is_told(path, _UNREADABLE):
        model_class, config = _adapted_class(path, revision)
    model = _load_base(model_class, config, settings, str(base or base_of(path, settings)), dtype, path)
    with damage_is_told(path, _UNREADABLE), quiet_transformers(), warnings.catch_warnings():
        # said below, as an error
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        # on no device before the weights are there: an adapter may claim any rank
        adapted = peft.PeftModel.from_pretrained(
            model, path, revision=revision, is_trainable=is_trainable, low_cpu_mem_usage=True
        )
    _require_all(path, adapted, stored)
    return adapted if is_trainable else adapted.eval()


def _require_all(path: str, model: "peft.PeftModel", stored: dict[str, Stored]) -> None:
    """Refuse an adapter whose file does not hold exactly what it consists of, in finite numbers."""
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    everything = model.state_dict()
    # some heads count their steps, in whole numbers
    counters = {name.rpartition(".")[2] for name, one in model.named_buffers() if not one.is_floating_point()}
    floating = {key for key in stored if key.rpartition(".")[2] not in counters}
    for what, names in (
        ("lacks", expected.keys() - stored.keys()),
        ("holds unknown weights,", stored.keys() - expected.keys() - everything.keys()),
        ("holds numbers that are not floating point in", {key for key in floating if stored[key].kind != "float"}),
        (
            "holds numbers that are NaN or infinite in",
            {key for key in expected.keys() & stored.keys() if not is_finite(expected[key])},
        ),
    ):
        if names:
            raise CheckpointError(
                f"`{path}` does not fit its configuration: `{ADAPTER_WEIGHTS}` {what} `{min(names)}`"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}."
            )


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
    """A `README.md` that says what the adapter is; how well it works is left to those who evaluate it."""
    base, layers = adapter.base_model_name_or_path, adapter.target_modules
    known = (COMPOSITES | SPECIALISTS | FAMILIES).get(config.model_type)
    facts = {
        "Family": known.title if known else f"language model `{config.model_type}`",
        "Class": f"`{config.architectures[0]}`",
        "Rank and alpha": f"{adapter.r} and {adapter.lora_alpha}",
        "Adapted layers": layers if isinstance(layers, str) else ", ".join(sorted(layers)),
        "Trained in full": ", ".join(dict.fromkeys(adapter.modules_to_save or ())) or "nothing",
    }
    if labels_cells(config.architectures[0]):
        facts["Labels"] = ", ".join(config.id2label.values())
    return render("adapter_card", base=base, on_the_hub=is_repo_id(base), facts=facts) + "\n"


def heads_of(model: PreTrainedModel) -> list[str]:
    """Names of the modules that a model has beside its encoder, but for those that share weights with it."""
    shared = {id(parameter) for parameter in model.base_model.parameters()}
    names = []
    for name, module in model.named_children():
        if module is not model.base_model:
            # peft takes no lists of modules
            names += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    owned = {name: [id(parameter) for parameter in model.get_submodule(name).parameters()] for name in names}
    return [name for name, own in owned.items() if own and shared.isdisjoint(own)]


def _has_added_genes(model: PreTrainedModel) -> bool:
    """Whether the model has another number of gene embeddings than the base it was loaded from."""
    config = model.config
    if not config._name_or_path:
        return False
    try:
        saved = read_config(config._name_or_path, getattr(config, "_commit_hash", None))
    # a base that is gone is named when the adapter is loaded
    except (OSError, SclmError):
        return False
    there = getattr(config, "vocab_size", None)
    return saved.get("vocab_size", there) != there


def _adapted_class(path: str, revision: Any) -> tuple[type[PreTrainedModel], Any]:
    settings = read_settings(path, ADAPTED_CONFIG, revision)
    if settings is None:
        raise CheckpointError(f"`{path}` {_UNREADABLE}: it holds no `{ADAPTED_CONFIG}`.")
    family = _record(settings.get("model_type"))
    architecture = next(iter(settings.get("architectures") or ()), None)
    if architecture not in family.models:
        raise CheckpointError(
            f"`{ADAPTED_CONFIG}` of `{path}` names the class `{architecture}`: expected one of "
            f"{', '.join(family.models)}."
        )
    model_class = class_of(family, architecture)
    return model_class, model_class.config_class.from_dict(settings)


def _load_base(
    model_class: type[PreTrainedModel], config: Any, settings: dict[str, Any], base: str, dtype: Any, path: str
) -> PreTrainedModel:
    """Load the base; whatever it lacks must come with the adapter."""
    try:
        return open_model(
            base,
            model_class,
            revision=settings.get("revision"),
            dtype=dtype,
            config=config,
            may_lack=tuple(settings.get("modules_to_save") or ()),
        )
    except CheckpointError as error:
        raise CheckpointError(f"`{base}` is not the base of the adapter `{path}`: {error} {REMEDY}") from error
