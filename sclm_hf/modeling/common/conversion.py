"""Turning original checkpoints into ours: one literal table of names per family, and a report of every tensor.

A table maps an original name to ours. `{}` stands for a number, the same on both sides. The value is a name, a tuple
of names (the tensor is cut in equal parts along its first axis), `Stacked` (numbered tensors become one, along a new
first axis) or `Dropped` (left out on purpose, with the reason). A name that is not in the table is an error.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sclm_hf.errors import CheckpointError, SclmError
from sclm_hf.files import new_folder
from sclm_hf.logging import counted, quiet_transformers

from .soundness import is_finite, number_kind, require_plausible, without_memory

_Model = TypeVar("_Model", bound=nn.Module)

REPORT_FILE = "loading_report.json"


class Dropped(str):
    """The reason why a tensor is left out on purpose."""


class Stacked(str):
    """The name of the tensor that numbered tensors are stacked into."""


WeightMap = dict[str, str | tuple[str, ...]]


@dataclass
class LoadingReport:
    """What became of every tensor of an original checkpoint.

    Attributes:
        family: the family's name.
        source: names of the files read.
        architecture: class that the folder opens as.
        used: tensors taken under their own name.
        renamed: original name -> our names.
        dropped: original name -> why it was left out on purpose.
        notes: what else the user should know.
        folders: where below the output the checkpoints lie; several for a file that holds several models.
    """

    family: str
    source: list[str]
    architecture: str = ""
    used: list[str] = field(default_factory=list)
    renamed: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=lambda: ["."])

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.architecture} from {', '.join(self.source)}",
            f"  tensors used as named: {len(self.used)}, renamed: {len(self.renamed)}, dropped: {len(self.dropped)}",
        ]
        lines += [f"  dropped `{name}`: {reason}" for name, reason in self.dropped.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write the report beside the weights as `loading_report.json`."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


@contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Report any error raised while interpreting a checkpoint as one that names `path`, a file of it or its folder.

    Raises:
        CheckpointError: the content cannot be used; or a setting has the wrong type or value, or a tensor the wrong
            number of axes.
    """
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"`{path}`: {error}") from error
    # other errors of ours are about genes or settings, here those that the checkpoint holds
    except SclmError as error:
        raise CheckpointError(f"`{path}` is damaged or of another kind: {error}") from error
    # damaged settings and tensors raise almost anything
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"`{path}` is damaged or of another kind: its settings and tensors make no model ({reason})."
        ) from error


def convert_weights(
    source: dict[str, Tensor], weight_map: WeightMap, path: Path, report: LoadingReport
) -> dict[str, Tensor]:
    """Rename, cut, stack and drop the tensors of `source`, read from `path`, as `weight_map` says; fills `report`.

    Raises:
        CheckpointError: a tensor is not in the table, or holds numbers that are NaN or infinite.
    """
    patterns = [(_pattern(original), target) for original, target in weight_map.items()]
    converted: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for name, tensor in source.items():
        match, target = next(((m, target) for p, target in patterns if (m := p.fullmatch(name))), (None, None))
        if match is None:
            unknown.append(name)
        elif isinstance(target, Dropped):
            report.dropped[name] = str(target)
        elif not is_finite(tensor):
            raise CheckpointError(
                f"`{name}` in `{path}` holds numbers that are NaN or infinite: the file is damaged, or its training "
                "went wrong."
            )
        elif isinstance(target, Stacked):
            stacks.setdefault(str(target), {})[int(match.group(1))] = tensor
            report.renamed[name] = [str(target)]
        else:
            names = [n.format(*match.groups()) for n in ((target,) if isinstance(target, str) else target)]
            parts = [tensor] if len(names) == 1 else tensor.chunk(len(names))
            converted.update(zip(names, parts, strict=True))
            if names == [name]:
                report.used.append(name)
            else:
                report.renamed[name] = names
    if unknown:
        raise CheckpointError(
            f"`{path}` holds {counted(len(unknown), 'tensor')} that {report.family} does not have: {_some(unknown)}. "
            "It is of another family, or of a version that this converter does not know."
        )
    for name, parts in stacks.items():
        converted[name] = torch.stack([parts[number] for number in sorted(parts)])
    return converted


def build_model(
    model_class: type[_Model], config: Any, weights: dict[str, Tensor], path: Path, *, own: tuple[str, ...] = ()
) -> _Model:
    """The model of `config` with `weights`: nothing missing, nothing left over, every shape and kind equal.

    No memory is taken before that is known.

    Args:
        model_class: class of the model.
        config: its configuration.
        weights: name -> tensor.
        path: where they are from.
        own: ends of the names of tensors that no file holds, and that stay as the model makes them.

    Raises:
        CheckpointError: lists what does not fit.
    """
    require_plausible(path, config.to_dict(), {name: tensor.shape for name, tensor in weights.items()})
    expected = {
        name: tensor
        for name, tensor in without_memory(model_class, config).state_dict().items()
        if not (own and name.endswith(own))
    }
    common = sorted(expected.keys() & weights.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if weights[name].shape != expected[name].shape
    ]
    kinds = {name: (number_kind(weights[name]), number_kind(expected[name])) for name in common}
    miscast = [
        f"{name} holds {found} numbers instead of {kind}" for name, (found, kind) in kinds.items() if found != kind
    ]
    problems = [
        f"{what}: {_some(names)}"
        for what, names in (
            ("missing", sorted(expected.keys() - weights.keys())),
            ("left over", sorted(weights.keys() - expected.keys())),
            ("wrongly shaped", misshapen),
            ("of another kind", miscast),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights of `{path}` do not fit {model_class.__name__}; {'; '.join(problems)}. Check that the "
            "settings file belongs to these weights."
        )
    model = model_class(config)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in weights.items()}, strict=not own)
    return model


def converter(convert: Callable[[Path, Path], LoadingReport]) -> Callable[..., LoadingReport]:
    """Make a converter write its output whole or not at all, as the only run that writes there.

    An output that is taken is refused before anything is read. The converter gets a third argument, `add`: called with
    the report and the folder when everything else is written, it may write more into the folder.
    """

    @functools.wraps(convert)
    def convert_checkpoint(
        source: str | Path, output: str | Path, add: Callable[[LoadingReport, Path], None] | None = None
    ) -> LoadingReport:
        with new_folder(Path(output)) as folder:
            report = convert(Path(source), folder)
            if add is not None:
                add(report, folder)
        return report

    return convert_checkpoint


def write_checkpoint(folder: Path, model: Any, processor: Any, report: LoadingReport) -> None:
    """Write model, processor and report into a new folder."""
    with quiet_transformers():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    report.save(folder)


def _pattern(original: str) -> re.Pattern:
    return re.compile(re.escape(original).replace(r"\{\}", r"(\d+)"))


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
