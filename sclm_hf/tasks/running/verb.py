"""What a verb is: one record, from which its function, file-to-file, its command and the card's example follow."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import unknown_name
from .cell_run import CellRun
from .settings import RunSettings, own_fields_first, with_keywords

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from pandas import DataFrame

    from ...opening.loading import LoadedModel
    from ...registry import Family
    from ...sources.cell_source import CellSource
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces
    from .prepared_cells import PreparedCells


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        name: name of its function and of its command, and of the files in `tasks` and `cli`.
        auto_class: class of transformers by which its model opens.
        settings: its settings.
        usage: lines of Python that show it on a card; `{model}` and `{family}` are filled in.
        writes: the places of an AnnData that it adds results to, of `obs`, `obsm`, `obsp`, `layers` and `uns`.
        by_shards: whether the cells can be run in parts, which `sclm-hf merge` joins.
        is_special: whether only those families serve it that name it among their `special_verbs`.
        gives_table: whether it gives a table instead of an AnnData.
        by_pieces: whether what it makes of its own is made in pieces, by [`make`].
        trains: whether it trains a model, which goes on after a stop, by [`make_of_file`].
        run: what it does with cells; None where it makes something of its own instead of adding to the cells.
    """

    name: str
    auto_class: str
    settings: type[RunSettings]
    usage: str
    writes: tuple[str, ...] = ()
    by_shards: bool = False
    is_special: bool = False
    gives_table: bool = False
    by_pieces: bool = False
    trains: bool = False
    run: type[CellRun] | None = None

    def serves(self, family: "Family") -> bool:
        """Whether models of a family can do it."""
        return self.auto_class in family.auto_classes and (not self.is_special or self.name in family.special_verbs)

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

    def load(self, model: Any, processor: Any, settings: Any) -> "LoadedModel":
        """Load the model; see `opening.loading.load_model`. Settings that have `partners` say whether it gets them."""
        from ...opening.loading import load_model
        from ...opening.partners import with_partners

        loaded = load_model(
            model,
            self.auto_class,
            processor=processor,
            device=settings.device,
            dtype=settings.dtype,
            revision=settings.revision,
        )
        return loaded if getattr(settings, "partners", False) is False else with_partners(loaded)

    def key(self, settings: RunSettings, family: str) -> str:
        """Name of the record in `uns["sclm_hf"]`."""
        return self.name if self.run is None else settings.key(family)

    def make(self, cells: "CellSource", loaded: Any, settings: Any, pieces: "Pieces | None") -> "AnnData | DataFrame":
        """What it makes of its own of the cells of a source.

        Args:
            cells: the cells.
            loaded: the model and its processor, as `load` gives them.
            settings: the settings.
            pieces: keeps what was computed; what it has is not computed again.
        """
        raise NotImplementedError

    def make_of_file(self, path: "Path", model: Any, settings: Any, pieces: "Pieces") -> "AnnData":
        """What it makes of its own of an `.h5ad` file, with a model that it trains.

        Args:
            path: the file.
            model: as for its function.
            settings: the settings.
            pieces: keeps what was computed, and what is to be taken up.
        """
        raise NotImplementedError

    def start(self, loaded: "LoadedModel", cells: "PreparedCells", settings: RunSettings) -> CellRun:
        """A run over cells."""
        return self.run(self, loaded, cells, settings)

    def of_specialist(
        self, found: Mapping[str, Any], settings: Any, family: str, names: Sequence[str]
    ) -> Mapping[str, Any]:
        """What a task-specific model found, in the places of an AnnData; `"facts"` are for the record.

        Args:
            found: what its processor gave for the verb.
            settings: of the verb.
            family: name of the model.
            names: (cells,) names of the cells.
        """
        return found

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
        from ...opening.specialists import is_specialist
        from .adding import add_to_cells

        if is_specialist(model, given.get("revision")):
            from .specialists import add_specialist_results

            return add_specialist_results(adata, self, model, processor, given, copy=copy)
        return add_to_cells(adata, self, model, processor, given, copy=copy)


def documented_by(verb: Verb) -> Callable[[Callable], Callable]:
    """Complete the function of a verb: its settings become keyword arguments in its signature and documentation.

    The function takes them as `**settings`, and its docstring has a line `**settings: …`, which is replaced by them.
    The record is `function.verb`.
    """
    fields = own_fields_first(verb.settings)

    def complete(function: Callable) -> Callable:
        function.__signature__ = with_keywords(function, fields, lambda field: field.type)
        function.__doc__ = _with_settings(function.__doc__, fields)
        function.verb = verb
        return function

    return complete


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
