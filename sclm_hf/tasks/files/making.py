"""What a verb makes of its own of the cells of a file, kept in pieces until it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, CorpusError
from ...opening.specialists import is_specialist
from ...sources.cell_source import CellSource
from ...sources.opening import is_one_source, open_source
from ...sources.shards.parquet import datasets_of
from .. import get_function
from ..running.settings import RunSettings
from ..running.verb import Verb
from .fingerprint import make_fingerprint
from .h5ad import read_h5ad
from .pieces import Pieces

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...opening.loading import LoadedModel


@dataclass(frozen=True)
class Making:
    """A verb that makes something of its own of a file.

    Attributes:
        cells: the cells of the file.
        verb: the verb.
        loaded: the model and its processor; None where the verb needs none.
        settings: its settings.
        folder: where pieces are kept.
        fingerprint: everything that the result depends on.
    """

    cells: CellSource
    verb: Verb
    loaded: "LoadedModel | None"
    settings: RunSettings
    folder: Path
    fingerprint: dict[str, Any]

    @classmethod
    def of_file(
        cls, source: Path, destination: Path, verb: Verb, loaded: "LoadedModel | None", settings: RunSettings
    ) -> "Making":
        """Open a file; `destination` is what will be written.

        Raises:
            CorpusError: the file cannot be read.
        """
        expects = "counts" if loaded is None else loaded.processor.feature_extractor.expects
        cells = open_source(source.stem, source, layer=settings.layer, expects=expects)
        fingerprint = make_fingerprint(source, cells, loaded, verb, settings)
        return cls(cells, verb, loaded, settings, folder_of(destination), fingerprint)

    @contextmanager
    def made(self, *, overwrite: bool) -> "Iterator[AnnData | DataFrame]":
        """The result; its pieces are removed when the body, which writes it, went well.

        Args:
            overwrite: discard pieces with another fingerprint.

        Raises:
            ConfigurationError: there are pieces of another run.
            SclmError: as for the function of the verb, or a piece cannot be kept.
        """
        pieces = Pieces(self.folder, self.fingerprint, overwrite=overwrite)
        with pieces.until_written():
            yield self.verb.make(self.cells, self.loaded, self.settings, pieces)


@contextmanager
def table_of_file(
    verb: str, source: Path, destination: Path, model: Any, *, overwrite: bool, **settings: Any
) -> "Iterator[DataFrame]":
    """The table that a verb makes of a file, in pieces that are removed when the body, which writes it, went well.

    With a task-specific model an `.h5ad` file is read whole, and a run starts anew.

    Args:
        verb: name of the verb.
        source: an `.h5ad` file, an AnnData zarr folder, or a data set of Parquet shards.
        destination: the file that the table will be written to.
        model: as for the function of the verb.
        overwrite: discard pieces of other settings.
        **settings: as for the function of the verb.

    Raises:
        ConfigurationError: there are pieces of another run.
        CorpusError: the file cannot be read.
        Others as for the function of the verb.
    """
    function = get_function(verb)
    record, chosen = function.verb, function.verb.choose(settings)
    if model is not None and is_specialist(model, settings.get("revision")):
        yield function(read_h5ad(source), model, **settings)
        return
    if not source.exists():
        raise CorpusError(f"There is no file `{source}`.")
    source = only_source(source, verb)
    making = Making.of_file(source, destination, record, record.load(model, None, chosen), chosen)
    with making.made(overwrite=overwrite) as table:
        yield table


def only_source(path: Path, verb: str) -> Path:
    """The one source that a path holds.

    Raises:
        ConfigurationError: it holds several, and `verb` reads one.
    """
    held = [] if not path.exists() or is_one_source(path) else list(datasets_of(path).values())
    if len(held) == 1:
        return held[0]
    if path.exists() and not is_one_source(path):
        raise ConfigurationError(f"`{path}` is a folder of files: `{verb}` reads one, name it.")
    return path


def folder_of(destination: Path) -> Path:
    """The folder beside a file to write in which what was computed for it is kept."""
    return destination.with_name(f"{destination.name}.partial")
