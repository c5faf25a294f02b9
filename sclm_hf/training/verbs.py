"""What `sclm-hf align`, `finetune` and `pretrain` and their scripts run.

Flags are read, and files and models looked for, before torch is imported: what is wrong with them is told at once.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, require
from ..opening.names import resolve_name
from .arguments import TrainingConfig, parse_arguments
from .settings.align import NEW, AlignArguments
from .settings.cell_text import CellTextArguments
from .settings.data import DataArguments, check_files
from .settings.finetune import LINEAR, FinetuneArguments
from .settings.pretrain import PretrainArguments
from .settings.text import SMALL, TextArguments
from .settings_help import print_help

if TYPE_CHECKING:
    from .loop import TrainingResult

SETTINGS: dict[str, tuple[type, ...]] = {
    "align": (DataArguments, AlignArguments, TrainingConfig),
    "finetune": (DataArguments, FinetuneArguments, CellTextArguments, TextArguments, TrainingConfig),
    "pretrain": (DataArguments, PretrainArguments, TrainingConfig),
}
"""Verb -> the dataclasses whose fields are its flags."""


FIRST = {
    "align": ("train_files", "label_column", "model_name_or_path", "text_model", "output_dir"),
    "finetune": ("train_files", "label_column", "model_name_or_path", "output_dir", "eval_share"),
    "pretrain": ("train_files", "family", "objective", "output_dir", "max_steps"),
}
"""Verb -> the flags that most runs need, which its help shows first."""

ABOUT = {
    "align": "Train an encoder of cells and one of texts to share a space.",
    "finetune": "Fine-tune a model to annotate cells, with LoRA by default.",
    "pretrain": "Pre-train a model on files of cells.",
}


def align(argv: Sequence[str] | None = None) -> None:
    """Train an encoder of cells and one of texts to share a space.

    Args:
        argv: flags; those of the command line when None.

    Raises:
        SclmError: see [`~sclm_hf.training.align.align`]; or a flag or a key of the recipe is unknown.
    """
    data, arguments, config = _read("align", argv)
    _check(data, arguments.model_name_or_path, None if arguments.text_model == NEW else arguments.text_model)
    from .align import align

    _tell(align(data, arguments, config))


def finetune(argv: Sequence[str] | None = None) -> None:
    """Fine-tune a model of cells, or a language model that reads cells, to annotate them.

    Args:
        argv: flags; those of the command line when None.

    Raises:
        SclmError: see [`~sclm_hf.training.finetune.finetune`]; or a flag or a key of the recipe is unknown.
    """
    data, arguments, soft, text, config = _read("finetune", argv)
    if text.text and soft.cell_model is not None:
        raise ConfigurationError("`text` and `cell_model` are two ways to read a cell: give one of them.")
    new = SMALL if text.text else LINEAR
    name = arguments.model_name_or_path
    _check(data, None if name == new else name, soft.cell_model, text.cell_tokens)
    if text.text:
        from .finetune_text import finetune_text

        _tell(finetune_text(data, arguments, text, config))
    elif soft.cell_model is not None:
        from .finetune_cell_text import finetune_cell_text

        _tell(finetune_cell_text(data, arguments, soft, config))
    else:
        from .finetune import finetune

        _tell(finetune(data, arguments, config))


def pretrain(argv: Sequence[str] | None = None) -> None:
    """Pre-train a model of cells.

    Args:
        argv: flags; those of the command line when None.

    Raises:
        SclmError: see [`~sclm_hf.training.pretrain.pretrain`]; or a flag or a key of the recipe is unknown.
    """
    data, arguments, config = _read("pretrain", argv)
    _check(data, arguments.model_name_or_path)
    from .pretrain import pretrain

    _tell(pretrain(data, arguments, config))


def _read(verb: str, argv: Sequence[str] | None) -> tuple:
    given = sys.argv[1:] if argv is None else argv
    # without rich, which draws the panels, argparse helps
    if {"-h", "--help"} & set(given) and find_spec("rich") is not None:
        print_help(verb, ABOUT[verb], SETTINGS[verb], FIRST[verb])
        raise SystemExit(0)
    usage = "%(prog)s [--config RECIPE.yaml] [--setting value ...]"
    return parse_arguments(SETTINGS[verb], argv, prog=f"sclm-hf {verb}", usage=usage)


def _check(data: DataArguments, *models: str | None) -> None:
    """Find out that a file, a model or the extra for training is missing."""
    check_files(data)
    for name in models:
        if name is not None:
            resolve_name(name)
    require("accelerate", extra="train")


def _tell(result: "TrainingResult") -> None:
    if result.is_main_process:
        print(result.summary())
