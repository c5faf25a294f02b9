"""What a verb is: one record, from which its function, file-to-file, its command and the card's example follow."""

import inspect
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...errors import unknown_name
from .settings import AddingSettings, RunSettings, own_fields_first

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData
    from transformers.utils import ModelOutput

    from ...opening.loading import LoadedModel
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces
    from .prepared_cells import PreparedCells

PLACES = ("obs", "obsm", "obsp", "layers", "uns")

Settings = TypeVar("Settings", bound=AddingSettings)


@dataclass(frozen=True)
class Results:
    """What a verb adds to an AnnData: name -> value in each of its places.

    Attributes:
        obs: (cells,) columns.
        obsm: (cells, …) arrays.
        obsp: (cells, cells) matrices; of all cells only.
        layers: (cells, genes) arrays; sparse ones of all cells only.
        uns: anything that an `.h5ad` file can hold; of all cells only.
    """

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    obsp: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    def by_place(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The names and values of each place."""
        return [(place, getattr(self, place)) for place in PLACES]

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return sum(_n_bytes(value) for _, values in self.by_place() for value in values.values())


class CellRun(Generic[Settings]):
    """One run of a verb over cells: what it takes from the model's output, and what it makes of that.

    Cells are run in blocks, which are kept on the way from file to file, so that a run that was stopped goes on.

    Attributes:
        needs_all: whether `results` is called once with all cells, instead of block by block.

    Args:
        verb: the verb.
        loaded: the model and its processor.
        cells: the cells.
        settings: the settings of the verb.
    """

    needs_all = False

    def __init__(self, verb: "Verb", loaded: "LoadedModel", cells: "PreparedCells", settings: Settings) -> None:
        self.verb, self.loaded, self.cells, self.settings = verb, loaded, cells, settings
        self.config = loaded.model.config
        self.key = settings.key(self.config.model_type)

    def read(self, output: "ModelOutput") -> "torch.Tensor":
        """(batch, …) what is taken from the output of the model, one row per cell."""
        raise NotImplementedError

    def forward(self, model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Run a batch; for verbs that need more than one output of the model, or its inputs.

        Args:
            model: the model, in evaluation mode.
            batch: its inputs.

        Returns:
            (batch, …) what is taken, one row per cell.
        """
        return self.read(model(**batch))

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """What is added for some cells.

        Args:
            cells: which cells.
            values: (cells, …) float32, what was taken of them.
        """
        raise NotImplementedError

    def recorded_settings(self) -> dict[str, Any]:
        """The settings that the record in `uns["sclm_hf"]` keeps."""
        return self.settings.to_record()

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """What the record says beside model, versions, settings and coverage, once all results are made.

        Args:
            file: the file that is written, for warnings; None in memory.
        """
        return {}

    def blocks(self, pieces: "Pieces | None" = None) -> "Iterator[tuple[slice | np.ndarray, np.ndarray]]":
        """Run the cells block by block.

        Args:
            pieces: keeps the values of blocks; those that it has are not computed again.

        Returns:
            An iterator over (cells of the block, (cells, …) values of them).
        """
        from .batches import run_blocks

        return run_blocks(
            self.loaded,
            self.cells,
            self.forward,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            description=self.verb.name,
            pieces=pieces,
        )

    def compute(self, pieces: "Pieces") -> None:
        """Run the cells until the values of all are among the pieces."""
        deque(self.blocks(pieces), maxlen=0)

    def all_values(self, pieces: "Pieces | None" = None) -> "np.ndarray":
        """(n_cells, …) float32 values of all cells, in their order."""
        from .batches import collected

        return collected(self.blocks(pieces), len(self.cells.lengths))


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        name: name of its function and of its command, and of the files in `tasks` and `cli`.
        auto_class: class of transformers by which its model opens.
        settings: its settings.
        usage: lines of Python that show it on a card; `{model}` and `{family}` are filled in.
        writes: the places of an AnnData that it adds results to, some of `PLACES`.
        run: what it does with cells; None where it makes an AnnData of its own instead of adding to the cells.
    """

    name: str
    auto_class: str
    settings: type[RunSettings]
    usage: str
    writes: tuple[str, ...] = ()
    run: type[CellRun] | None = None

    def choose(self, given: Mapping[str, Any]) -> Any:
        """The settings, with those `given` by name.

        Raises:
            ConfigurationError: there is no setting of such a name, or a value is out of range.
        """
        known = [one.name for one in own_fields_first(self.settings)]
        for name in given:
            if name not in known:
                raise unknown_name(name, known, f" of `{self.name}`")
        return self.settings(**given)

    def load(self, model: Any, processor: "CellProcessor | None", settings: RunSettings) -> "LoadedModel":
        """Load the model; see `opening.loading.load_model`."""
        from ...opening.loading import load_model

        return load_model(
            model,
            self.auto_class,
            processor=processor,
            device=settings.device,
            dtype=settings.dtype,
            revision=settings.revision,
        )

    def start(self, loaded: "LoadedModel", cells: "PreparedCells", settings: RunSettings) -> CellRun:
        """A run over cells."""
        return self.run(self, loaded, cells, settings)

    def add_to(
        self,
        adata: "AnnData",
        model: Any,
        processor: "CellProcessor | None",
        given: Mapping[str, Any],
        *,
        copy: bool,
    ) -> "AnnData":
        """Run the cells of an AnnData, and add the results; see [`add_to_cells`]."""
        from .adding import add_to_cells

        return add_to_cells(adata, self, model, processor, given, copy=copy)


def documented_by(verb: Verb) -> Callable[[Callable], Callable]:
    """Complete the function of a verb: its settings become keyword arguments in its signature and documentation.

    The function takes them as `**settings`, and its docstring has a line `**settings: …`, which is replaced by them.
    The record is `function.verb`.
    """
    fields = own_fields_first(verb.settings)

    def complete(function: Callable) -> Callable:
        written = inspect.signature(function)
        keyword = inspect.Parameter.KEYWORD_ONLY
        given = [inspect.Parameter(one.name, keyword, default=one.default, annotation=one.type) for one in fields]
        others = [one for one in written.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        first = [one for one in others if one.kind is not keyword]
        function.__signature__ = written.replace(
            parameters=[*first, *given, *(one for one in others if one.kind is keyword)]
        )
        function.__doc__ = _with_settings(function.__doc__, fields)
        function.verb = verb
        return function

    return complete


def _n_bytes(value: Any) -> int:
    """Bytes of an array, a sparse matrix, a table or a mapping of these."""
    if isinstance(value, Mapping):
        return sum(map(_n_bytes, value.values()))
    if hasattr(value, "memory_usage"):
        return int(value.memory_usage(deep=True).sum()) if hasattr(value, "columns") else int(value.nbytes)
    if hasattr(value, "indptr"):
        return value.data.nbytes + value.indices.nbytes + value.indptr.nbytes
    return getattr(value, "nbytes", 0)


def _with_settings(doc: str | None, fields: list) -> str | None:
    """A docstring in which the settings stand one by one."""
    if doc is None:
        return None
    lines = []
    for line in doc.splitlines():
        if not line.strip().startswith("**settings:"):
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        for one in fields:
            text = f"{one.name}: {one.metadata['help']}"
            lines += textwrap.wrap(text, 119, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return "\n".join(lines)
