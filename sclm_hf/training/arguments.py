"""Settings of a training run, from YAML, from flags or from Python."""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigurationError, require, unknown_name
from ..files import read_yaml

PRECISIONS = ("no", "fp16", "bf16")
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
OPTIMIZERS = ("adamw", "adam", "sgd")
TRACKERS = ("tensorboard", "trackio", "wandb", "codecarbon")


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class TrainingConfig:
    """Settings of `sclm_hf.training.loop.train`; names are those of `transformers.TrainingArguments` where they agree.

    Each step sees `per_device_train_batch_size` × processes × `gradient_accumulation_steps` cells.

    Raises:
        ConfigurationError: a value is out of range or two settings contradict one another.
    """

    output_dir: str = option("trained", "Folder for the trained model, its checkpoints and its log.")
    num_train_epochs: int | None = option(
        None,
        "Passes over the corpus; `max_steps` wins. By default 1; for a classifier that `finetune` trains 300 steps, "
        "if one pass takes fewer.",
    )
    max_steps: int = option(0, "Optimizer steps in total; 0 = as many as `num_train_epochs` takes.")
    per_device_train_batch_size: int = option(
        32, "Cells per forward pass and process; for CellPLM the most cells of a sample, one sample per pass."
    )
    max_tokens_per_batch: int = option(
        0,
        "Most tokens per forward pass and process, padding included; `per_device_train_batch_size` is then the most "
        "cells. Needs `max_steps`. 0 = no limit.",
    )
    per_device_eval_batch_size: int = option(
        64, "Cells per forward pass and process in evaluation; for CellPLM as above."
    )
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.")
    learning_rate: float | None = option(
        None, "Peak learning rate; by default 1e-4, with a LoRA on a classifier 1e-3."
    )
    optimizer: str = option(
        "adamw",
        "adamw; adam, whose weight decay is part of the gradient and of all parameters; or sgd, with momentum "
        "`adam_beta1` and such a decay.",
    )
    weight_decay: float = option(0.0, "AdamW weight decay of matrices (0 = Adam, as published for scGPT).")
    adam_beta1: float = option(0.9, "AdamW beta 1.")
    adam_beta2: float = option(0.999, "AdamW beta 2.")
    adam_epsilon: float = option(1e-8, "AdamW epsilon.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0 = never.")
    lr_scheduler_type: str = option("cosine", f"After the warm-up: {', '.join(SCHEDULES)}.")
    warmup_steps: float = option(0.0, "Steps of linear warm-up; below 1: share of all steps.")
    mixed_precision: str = option(
        "no", "no, fp16 or bf16; on a CPU that multiplies bfloat16 no faster than float32, bf16 trains in float32."
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    ddp_find_unused_parameters: bool = option(False, "For models in which some parameters get no gradient.")
    dataloader_num_workers: int = option(0, "Processes that read and encode cells; they do not change results.")
    seed: int = option(0, "Seed of new weights, dropout and all random draws.")
    logging_steps: int = option(10, "Steps between two lines of the log.")
    eval_steps: int = option(0, "Steps between two evaluations; 0 = at the end of each epoch.")
    save_steps: int = option(500, "Steps between two checkpoints; 0 = at the end of each epoch.")
    save_total_limit: int = option(2, "Checkpoints to keep: the newest ones, and the best one in addition.")
    metric_for_best_model: str = option("loss", "Evaluation metric that decides which checkpoint is best.")
    greater_is_better: bool | None = option(None, "Direction of that metric; by default lower only for losses.")
    load_best_model_at_end: bool = option(True, "Save the best weights at the end, not the last ones.")
    early_stopping_patience: int = option(
        0, "Stop after this many evaluations in which neither that metric nor the loss improved; 0 = never."
    )
    early_stopping_threshold: float = option(
        0.0, "Smallest change of the metric, or of the loss, that counts as an improvement."
    )
    save_merged: bool = option(True, "With LoRA, save the model with the adapter merged as well as the adapter.")
    resume_from_checkpoint: str | None = option(
        None, "`last` (starts anew if there is no checkpoint), or a checkpoint folder."
    )
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": f"Trackers in addition to the log file: {', '.join(TRACKERS)}; or none."},
    )
    project_name: str = option("sclm-hf", "Name of the project in the trackers.")
    use_cpu: bool = option(False, "Train on the CPU even where there is an accelerator.")

    def __post_init__(self) -> None:
        at_least_one = (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "logging_steps",
            "save_total_limit",
        )
        for name in at_least_one:
            self._check(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1")
        not_negative = (
            "max_steps",
            "max_tokens_per_batch",
            "weight_decay",
            "max_grad_norm",
            "warmup_steps",
            "dataloader_num_workers",
            "eval_steps",
            "save_steps",
            "early_stopping_patience",
            "early_stopping_threshold",
        )
        for name in not_negative:
            self._check(getattr(self, name) >= 0, name, "0 or more")
        self._check(self.learning_rate is None or self.learning_rate > 0, "learning_rate", "above 0")
        self._check(self.mixed_precision in PRECISIONS, "mixed_precision", f"one of {', '.join(PRECISIONS)}")
        self._check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        self._check(self.lr_scheduler_type in SCHEDULES, "lr_scheduler_type", f"one of {', '.join(SCHEDULES)}")
        if self.max_tokens_per_batch and not self.max_steps:
            raise ConfigurationError(
                "With `max_tokens_per_batch` the lengths of the cells decide how many steps an epoch takes, and the "
                "schedule of the learning rate needs their number: give `max_steps`."
            )
        unknown = set(self.trackers) - set(TRACKERS)
        self._check(not unknown, "report_to", f"some of {', '.join(TRACKERS)}, or none")

    def _check(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ConfigurationError(f"`{name}` must be {expected}, got {getattr(self, name)!r}.")

    @property
    def trackers(self) -> list[str]:
        """The trackers asked for; empty for `none`."""
        return [name for name in self.report_to if name != "none"]

    @property
    def higher_is_better(self) -> bool:
        """Direction of `metric_for_best_model`."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.metric_for_best_model.endswith("loss")

    def completed(self, *, learning_rate: float = 1e-4) -> "TrainingConfig":
        """The settings with values for those that were left out."""
        return dataclasses.replace(
            self,
            num_train_epochs=self.num_train_epochs or 1,
            learning_rate=self.learning_rate or learning_rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, the form in which YAML recipes hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "TrainingConfig":
        """Read a recipe that holds nothing but these settings; see `parse_arguments`."""
        return parse_arguments((cls,), ["--config", str(path)])[0]

    def to_yaml(self, path: str | Path) -> None:
        """Write the settings as a recipe that `from_yaml` reads."""
        yaml = require("yaml", extra="train")
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def parse_arguments(types: Sequence[type], argv: Sequence[str] | None = None, **parser_options: Any) -> tuple:
    """Fill dataclasses from `--config RECIPE.yaml` and from flags; flags win.

    Args:
        types: dataclasses with distinct field names; a recipe is one flat mapping over all of them.
        argv: command line without the program's name; `sys.argv` when None.
        **parser_options: `prog`, `description`, … of `argparse`.

    Returns:
        One instance of each of `types`.

    Raises:
        ConfigurationError: a key or flag is unknown (the message lists the valid ones), or a value is refused.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", help="YAML recipe; flags win over it.")
    found, flags = finder.parse_known_args(argv)
    names = [f.name for one in types for f in dataclasses.fields(one)]
    recipe = _recipe_as_flags(found.config, names) if found.config else []
    values, unknown = flag_parser(types, parents=[finder], **parser_options).parse_known_args([*recipe, *flags])
    if unknown:
        raise unknown_name(unknown[0], [f"--{name}" for name in names])
    return tuple(one(**{f.name: getattr(values, f.name) for f in dataclasses.fields(one)}) for one in types)


def flag_parser(types: Sequence[type], **parser_options: Any) -> argparse.ArgumentParser:
    """A parser with the flags that transformers' `HfArgumentParser` has, which takes longer to import than to run.

    Args:
        types: dataclasses whose fields are text, numbers, truth values, `Literal` or lists, or one of these or None.
        **parser_options: those of `argparse`.
    """
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(formatter_class=formatter, allow_abbrev=False, **parser_options)
    for one in types:
        hints = get_type_hints(one)
        for setting in dataclasses.fields(one):
            _add_flag(parser, setting, hints[setting.name])
    return parser


def _add_flag(parser: argparse.ArgumentParser, setting: Field, kind: Any) -> None:
    help = setting.metadata["help"]
    default = setting.default if setting.default_factory is MISSING else setting.default_factory()
    options: dict[str, Any] = {"required": True} if default is MISSING else {"default": default}
    if type(None) in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    elif get_origin(kind) is list:
        options |= {"type": get_args(kind)[0], "nargs": "+"}
    elif kind is bool:
        options |= {"type": _truth} | ({} if default is None else {"nargs": "?", "const": True})
    else:
        options["type"] = kind
    parser.add_argument(*_spellings(setting.name), help=help, **options)
    if default is True:
        negated = _spellings(f"no_{setting.name}")
        parser.add_argument(*negated, dest=setting.name, action="store_false", default=False, help=help)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _truth(text: str) -> bool:
    values = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return values[text.lower()]


def read_mapping(name: str, text: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """A setting that is a mapping: in Python as it is, on the command line as JSON.

    Raises:
        ConfigurationError: it is something else.
    """
    try:
        mapping = json.loads(text) if isinstance(text, str) and text else text or {}
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigurationError(f"`{name}` must be a mapping in JSON, got {text!r}: {error}") from error
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(f"`{name}` must be a mapping, got {text!r}.")
    return dict(mapping)


def _recipe_as_flags(path: str, names: list[str]) -> list[str]:
    recipe = read_yaml(Path(path)) or {}
    if not isinstance(recipe, dict):
        raise ConfigurationError(f"The recipe {path} must be a mapping of settings, got {type(recipe).__name__}.")
    flags = []
    for name, value in recipe.items():
        if name not in names:
            raise unknown_name(str(name), names, f" in {path}")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags
