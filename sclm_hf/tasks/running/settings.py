"""Settings of verbs, each defined once: its name, default, limits, flag and help.

From the fields of these dataclasses follow the keyword arguments of a verb's function, the flags of its command, and
what `uns["sclm_hf"]` records.
"""

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ...opening.loading import LoadedModel

GENES = "`genes` (`--genes`)"


def setting(
    default: Any,
    help: str,
    *,
    flag: str | None = "",
    least: float | None = None,
    most: float | None = None,
    recorded: bool = True,
    written: bool = False,
) -> Any:
    """A field of a dataclass of settings.

    Args:
        default: its default.
        help: what it does, for the documentation of the function and of the command.
        flag: the flag of the command; by default `--` and the name. None = the command has none.
        least: the smallest value.
        most: the largest value.
        recorded: whether results depend on it, so that `uns["sclm_hf"]` keeps it among the settings.
        written: whether it names a file that is written, not read.
    """
    metadata = {"help": help, "flag": flag, "least": least, "most": most, "recorded": recorded, "written": written}
    return dataclasses.field(default=default, metadata=metadata)


def own_fields_first(settings: type) -> list[Field]:
    """The fields of a settings class, its own before those that it inherits."""
    by_name = {field.name: field for field in dataclasses.fields(settings)}
    order = [name for one in settings.__mro__ for name in inspect.get_annotations(one) if name in by_name]
    return [by_name[name] for name in dict.fromkeys(order)]


def flag_of(field: Field) -> str | None:
    """The flag of a field on the command line, for example `--batch-size`."""
    flag = field.metadata["flag"]
    return f"--{field.name.replace('_', '-')}" if flag == "" else flag


def with_keywords(function: Callable, fields: Sequence[Field], annotate: Callable[[Field], Any]) -> inspect.Signature:
    """The signature of a function with a keyword argument for each field in the place of its `**settings`.

    Fields that the function itself has an argument for are left out.

    Args:
        function: the function.
        fields: the fields of its settings.
        annotate: field -> annotation of its argument.
    """
    written, keyword = inspect.signature(function), inspect.Parameter.KEYWORD_ONLY
    given = [
        inspect.Parameter(one.name, keyword, default=one.default, annotation=annotate(one))
        for one in fields
        if one.name not in written.parameters
    ]
    others = [one for one in written.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    first = [one for one in others if one.kind is not keyword]
    return written.replace(parameters=[*first, *given, *(one for one in others if one.kind is keyword)])


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How cells are run through a model.

    Raises:
        ConfigurationError: a value is out of range.
    """

    layer: str | None = setting(
        None, "layer that holds the data, or `X` or `raw`; by default the first of layers['counts'], raw and X."
    )
    species: str | None = setting(
        None,
        "species of the cells: `human`; `mouse`, whose genes go through orthologs; with UCE any species that the "
        "checkpoint holds proteins of, for example `zebrafish`. By default the one that Ensembl ids name, else human.",
    )
    batch_key: str | None = setting(
        None,
        "column of `obs` with the batches, for models trained with batch labels: their names where "
        "`config.batch_names` holds these, else their numbers. For CellPLM the column that tells samples apart; by "
        "default `batch`, without which all cells are one sample.",
    )
    batch_size: int = setting(
        64,
        "cells per batch; fewer where cells are very long, and halved, with a warning, when memory runs out. A "
        "stopped run goes on with another number. CellPLM takes whole samples instead.",
        least=1,
    )
    device: "str | torch.device | None" = setting(
        None, "where to run: `cuda`, `mps` or `cpu`; by default the best that the machine has.", recorded=False
    )
    dtype: "str | torch.dtype | None" = setting(
        None, "type of the weights: `float32` (the default), `bfloat16` or `float16`.", recorded=False
    )
    seed: int = setting(0, "seed of what is random about a cell.")
    revision: str | None = setting(None, "branch, tag or commit on the Hub.", recorded=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if field.metadata["recorded"]}

    def depends_on(self) -> dict[str, Any]:
        """What the results depend on, by name, as JSON holds it: what is kept of a stopped run fits no other.

        The batch size is not among it, by which results differ no more than in rounding: a run that ended for want of
        memory goes on with smaller batches.
        """
        return {name: value for name, value in self.to_record().items() if name != "batch_size"}

    def files(self, *, written: bool) -> list[Path]:
        """The files and folders that the settings name.

        Args:
            written: those that are written, or those that are read.
        """
        fields = [one for one in dataclasses.fields(self) if one.metadata["written"] == written]
        values = [getattr(self, one.name) for one in fields if "Path" in str(one.type)]
        return [Path(value) for value in values if isinstance(value, (str, Path))]

    def batch_key_for(self, loaded: "LoadedModel") -> str | None:
        """The column of `obs` whose batches the model is told.

        Args:
            loaded: the model and its processor.
        """
        return self.batch_key


@dataclass(frozen=True, kw_only=True)
class AddingSettings(RunSettings):
    """Settings of verbs that add results to the cells."""

    genes: "str | Path | Sequence[str] | None" = setting(
        None,
        "names or Ensembl ids of the genes that are read, separated by commas in one text, or a file with one per "
        "line; by default all. The others stay in the cells, and are not looked at.",
    )
    key_added: str | None = setting(None, "name of the results.", flag="--key", recorded=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_key(self.key_added)

    def key(self, family: str) -> str:
        """Name of the record in `uns["sclm_hf"]`, and of the main result.

        Args:
            family: the model's family.
        """
        raise NotImplementedError

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return ()

    @property
    def genes_read(self) -> list[str] | None:
        """The names of the genes that are read; None for all."""
        from .gene_names import read_names

        return read_names(self.genes, GENES)

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name; of a file of genes what it holds."""
        kept, read = super().to_record(), self.genes_read
        return kept if read is None else {**kept, "genes": "; ".join(read)}


def _check(field: Field, value: Any) -> None:
    """Raise if a field of numbers holds something else or is out of range; other fields are not checked."""
    if field.type not in (int, float, int | None, float | None) or (value is None and field.default is None):
        return
    whole = field.type in (int, int | None)
    least, most = field.metadata["least"], field.metadata["most"]
    is_number = isinstance(value, numbers.Integral if whole else numbers.Real)
    if is_number and (least is None or value >= least) and (most is None or value <= most):
        return
    if most is not None:
        expected = f"lie between {least} and {most}"
    elif least is not None:
        expected = f"be at least {least}" + (" and a whole number" if whole else "")
    else:
        expected = "be a whole number" if whole else "be a number"
    raise ConfigurationError(f"`{field.name}` (`{flag_of(field)}`) must {expected}, got {value!r}.")


def _check_key(key_added: str | None) -> None:
    """Raise for a name that an `.h5ad` file cannot hold, because HDF5 treats `/` and `.` as paths."""
    if key_added is None or (isinstance(key_added, str) and key_added not in ("", ".") and "/" not in key_added):
        return
    raise ConfigurationError(
        f"`key_added` (`--key`) must be a name without `/`, for example 'X_scgpt', got {key_added!r}."
    )
