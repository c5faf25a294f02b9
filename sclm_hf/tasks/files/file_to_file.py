"""Any verb from file to file: larger than memory, kept in pieces, continued after a stop."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import ConfigurationError, CorpusError, FilesError, SclmError
from ...files import check_apart, check_replaced, sole_writer
from ...logging import get_logger
from ...opening.specialists import specialist_of
from ...sources.anndata.h5ad import refuse_h5mu
from ...sources.cell_source import CellSource
from ...sources.opening import is_one_source, name_paths, open_source
from ...sources.shards.parquet import datasets_of
from ...versions import package_versions
from .. import get_function
from ..running.cell_run import CellRun, Results
from ..running.prepared_cells import prepare_cells
from ..running.provenance import make_record
from ..running.settings import RunSettings
from ..running.verb import Verb
from .fingerprint import hash_of, make_fingerprint, stamp_of
from .h5ad import PAIRED, check_output, read_modalities, write_h5ad, write_modalities
from .making import Making, folder_of, only_source
from .pieces import Pieces, remove_left_over
from .results import (
    add_record,
    add_results,
    check_room,
    check_source,
    complete_or_absent,
    exists_already,
    read_fingerprints,
)
from .shards import Shard, shard_record

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel
    from ...tokenization.processing_cell import CellProcessor

logger = get_logger(__name__)


class Written(NamedTuple):
    """A finished file, and the name of its record in `uns["sclm_hf"]`."""

    path: Path
    key: str


def run_files(
    verb: str,
    source: str | Path,
    destination: str | Path,
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    overwrite: bool = False,
    shard: str | None = None,
    **settings: Any,
) -> list[Written]:
    """Write a copy of a file with the results of a verb for its cells.

    Results are kept block by block in the folder `<destination>.partial`: a run that was stopped, for whatever reason,
    resumes there when it is repeated. The copy gets its name when it is complete. The data are never all in memory;
    the results are if the model reads whole samples (each is then one block), or if the verb needs all of them.

    `perturb` makes an AnnData of its own of one file, block by block, and resumes as well; what it makes is in memory.
    A verb that runs without a model, or whose model is a task-specific one, reads an `.h5ad` file whole and writes
    what it makes; so does `multimodal` with an `.h5mu` file. `predict_perturbation`, which goes on with a training
    that was stopped, keeps 2 GB of it in memory at most, beside what it makes.

    Args:
        verb: name of the verb, for example `"embed"`.
        source: an .h5ad file, an AnnData zarr folder, a data set of Parquet shards; or a folder of .h5ad files.
        destination: the .h5ad file to write; for a folder, the folder to write to. For zarr and Parquet, the result
            holds the names of the cells and the results, not the data.
        model, processor: as for the function of the verb.
        overwrite: replace results of other settings, and pieces of them.
        shard: run a part of the cells only, `"2/4"` the second of four contiguous ranges; its results are written to
            `<destination>.2-of-4.h5ad` with the names of the cells, without the data, and joined by [`merge_shards`].
            Every shard reads the whole file once to check it, so that all refuse and report the same.
        **settings: as for the function of the verb.

    Returns:
        The files written or found finished.

    Raises:
        ConfigurationError: the destination holds something else, is the source, or is being written by another run.
        CorpusError: the source cannot be read.
        FilesError: some files of a folder cannot be used; the others are done.
        SclmError: no space is left; what was computed stays.
        Others as for the function of the verb.
    """
    function = get_function(verb)
    record, chosen = function.verb, function.verb.choose(settings)
    if record.gives_table:
        raise ConfigurationError(
            f"`{verb}` gives a table, no cells: call `sclm_hf.{verb}`, or use the command `sclm-hf {verb}`."
        )
    read, written = chosen.files(written=False), chosen.files(written=True)
    check_apart([Path(destination)], [*read, *written])
    check_apart(written, [Path(source)])
    for path in written:
        check_replaced(path, overwrite=overwrite)
    specialist = None if model is None else specialist_of(model, settings.get("revision"))
    if shard is not None and specialist is not None:
        raise ConfigurationError(
            f"{specialist.title} reads all cells of a file together: leave out `shard` (`--shard`)."
        )
    if shard is not None:
        destination = _shard_path(record, Shard.parse(shard), source, destination)
    is_paired = Path(source).suffix == PAIRED
    if is_paired:
        _check_paired(record, Path(source), Path(destination), specialist)
    in_blocks = record.run is not None or record.by_pieces
    if in_blocks and model is not None and specialist is None and not is_paired:
        with _Files.opened(source, destination, record, chosen, overwrite, shard) as files:
            return files.run(record.load(model, processor, chosen))
    destination = check_output(destination, source=source, overwrite=overwrite)
    with sole_writer(destination):
        if record.trains and processor is None and (model is None or isinstance(model, str | Path)):
            pieces = Pieces(folder_of(destination), _in_memory(source, record, model, chosen), overwrite=overwrite)
            with pieces.until_written():
                write_modalities(record.make_of_file(Path(source), model, chosen, pieces), destination)
        else:
            found = function(read_modalities(source), model=model, processor=processor, **settings)
            write_modalities(found, destination)
    return [Written(destination, record.key(chosen, specialist.name if specialist else ""))]


def _in_memory(source: str | Path, verb: Verb, model: Any, settings: RunSettings) -> dict[str, Any]:
    """Everything that the result of a verb depends on that trains a model, by name."""
    return {
        "source": Path(source).name,
        "source files": stamp_of(source),
        "model": stamp_of(model),
        "task": verb.name,
        **settings.depends_on(),
        "versions": package_versions("sclm_hf"),
    }


def _shard_path(verb: Verb, shard: Shard, source: str | Path, destination: str | Path) -> Path:
    """The file to write for a shard; raises if there can be none."""
    if not verb.by_shards:
        raise ConfigurationError(f"`{verb.name}` needs all cells of a file: leave out `shard` (`--shard`).")
    if Path(source).exists() and not is_one_source(Path(source)):
        raise ConfigurationError(
            f"`{source}` is a folder of files: run each file by itself, or leave out `shard` (`--shard`)."
        )
    return shard.path(destination)


def _check_paired(verb: Verb, source: Path, destination: Path, specialist: Any) -> None:
    """Raise if a file of several modalities is not read by the verb, or would be written under another ending."""
    if verb.name != "multimodal" and specialist is None:
        refuse_h5mu(source)
    if destination.suffix != PAIRED:
        raise ConfigurationError(f"`{destination}` must be named `….h5mu`, as `{source}`: all modalities are written.")


def _pairs(source: str | Path, destination: str | Path) -> list[tuple[Path, Path]]:
    """Each file with the one to write."""
    source, destination = Path(source), Path(destination)
    if not source.exists():
        raise CorpusError(f"`{source}` does not exist.")
    if is_one_source(source):
        if destination.suffix != ".h5ad":
            raise ConfigurationError(f"`{destination}` must be named `….h5ad`: that is what is written.")
        return [(source, destination)]
    if destination.suffix == ".h5ad":
        held = datasets_of(source)
        if len(held) == 1:
            return [(path, destination) for path in held.values()]
        one = f" for all {len(held)} data sets, or one of them (`{next(iter(held.values()))}`)" if held else ""
        raise ConfigurationError(
            f"`{source}` is a folder of files and `{destination}` is named like one: name a folder{one}."
        )
    if destination.is_file():
        raise ConfigurationError(f"`{source}` is a folder and `{destination}` a file: name a folder to write to.")
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The folder `{destination}` cannot be made: {error.strerror}.") from error
    return [(path, destination / f"{name}.h5ad") for name, path in name_paths(source).items()]


@dataclass(frozen=True)
class _Files:
    """The files of a run, locked, and checked as far as is possible without the model.

    Attributes:
        pairs: each file with the one to write.
        verb: what is done to each.
        settings: its settings.
        overwrite: replace results of other settings.
        locked: the destination whose lock is held.
        shard: the part of the cells that is run, None = all.
        failed: files that cannot be used -> why.
    """

    pairs: list[tuple[Path, Path]]
    verb: Verb
    settings: RunSettings
    overwrite: bool
    locked: Path
    shard: Shard | None = None
    failed: dict[Path, SclmError] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(
        cls,
        source: str | Path,
        destination: str | Path,
        verb: Verb,
        settings: RunSettings,
        overwrite: bool,
        shard: str | None = None,
    ) -> "Iterator[_Files]":
        """Check the files, and hold the lock of the destination."""
        chosen = None if shard is None else Shard.parse(shard)
        if verb.run is None:
            source = only_source(Path(source), verb.name)
        files = cls(_pairs(source, destination), verb, settings, overwrite, Path(destination), chosen)
        for path, result in files.pairs:
            _check_destination(path, result, overwrite)
        with sole_writer(files.locked):
            for path, result in files.pairs if verb.run is not None else ():
                with files.going_on_after(path):
                    check_source(path, verb.writes, settings.columns())
                    if not result.exists() and shard is None:
                        check_room(path, result)
            if len(files.failed) == len(files.pairs):
                raise files.error([])
            yield files

    def run(self, loaded: "LoadedModel") -> list[Written]:
        """Process each file that can be used.

        Raises:
            FilesError: some could not be used; the others are done.
        """
        written, key = [], self.verb.key(self.settings, loaded.model.config.model_type)
        run = _run_file if self.verb.run is not None else _make_file
        for path, result in self.pairs:
            if path in self.failed:
                continue
            with self.going_on_after(path), nullcontext() if result == self.locked else sole_writer(result):
                run(path, result, loaded, self)
                written.append(Written(result, key))
        if self.failed:
            raise self.error(written)
        return written

    @contextmanager
    def going_on_after(self, path: Path) -> Iterator[None]:
        """Record the error of one file among several, so that the others are still processed."""
        try:
            yield
        except SclmError as error:
            if len(self.pairs) == 1:
                raise
            logger.error("%s: %s", path, error)
            self.failed[path] = error

    def error(self, written: list[Written]) -> FilesError:
        """The error that is raised at the end if files failed."""
        reasons = "\n".join(f"- `{path}`: {error}" for path, error in self.failed.items())
        others = "; the others are done" if written else ""
        return FilesError(
            f"{len(self.failed)} of {len(self.pairs)} files could not be used{others}. Mend these and repeat, which "
            f"goes on with them:\n{reasons}",
            written,
            self.failed,
        )


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raise if a destination cannot be written, or clearly holds something else."""
    check_output(destination, source=source, overwrite=True)
    if destination.exists() and not overwrite and not read_fingerprints(destination):
        raise exists_already(destination)


def _make_file(source: Path, destination: Path, loaded: "LoadedModel", files: _Files) -> None:
    """Write what a verb makes of its own of a file."""
    making = Making.of_file(source, destination, files.verb, loaded, files.settings)
    key = files.verb.key(files.settings, loaded.model.config.model_type)
    if _is_finished(destination, making.fingerprint, key, files.overwrite):
        logger.info("%s is finished.", destination)
        remove_left_over(making.folder, making.fingerprint)
        return
    with making.made(overwrite=files.overwrite) as result:
        result.uns["sclm_hf"][key] |= {"fingerprint": hash_of(making.fingerprint)}
        write_h5ad(result, destination)


def _run_file(source: Path, destination: Path, loaded: "LoadedModel", files: _Files) -> None:
    verb, settings, shard = files.verb, files.settings, files.shard
    expects = loaded.processor.feature_extractor.expects
    cells = open_source(source.stem, source, layer=settings.layer, expects=expects)
    # results are written into a copy of the file, with all of its columns
    cells.check_columns()
    whole = make_fingerprint(source, cells, loaded, verb, settings)
    fingerprint = whole if shard is None else {**whole, "shard": str(shard)}
    part = None if shard is None else _part(shard, cells, loaded)
    folder = folder_of(destination)
    key = settings.key(loaded.model.config.model_type)
    if _is_finished(destination, fingerprint, key, files.overwrite):
        logger.info("%s is finished.", destination)
        remove_left_over(folder, fingerprint)
        return
    if shard is None:
        check_room(source, destination)
    prepared = prepare_cells(
        cells,
        loaded,
        species=settings.species,
        batch_key=settings.batch_key_for(loaded),
        genes=settings.genes_read,
    )
    if part is not None:
        prepared = replace(prepared, part=part)
    run = verb.start(loaded, prepared, settings)
    pieces = Pieces(folder, fingerprint, overwrite=files.overwrite)
    results, n_bytes = _compute(run, pieces)
    with complete_or_absent(source, destination, cells, n_bytes, verb.writes, settings.columns(), part) as file:
        add_results(file, results, cells.n_cells, part)
        record = {**make_record(loaded, prepared, run.recorded_settings()), **run.facts(destination)}
        told = {} if shard is None else shard_record(shard, part, cells.n_cells, whole)
        add_record(file, key, {**record, **told, "fingerprint": hash_of(fingerprint)})
    pieces.remove()


def _part(shard: Shard, cells: CellSource, loaded: "LoadedModel") -> slice:
    """The cells of a shard; raises if the model cannot run them alone."""
    if loaded.processor.context == "sample":
        raise ConfigurationError(
            f"The model of `{loaded.name}` reads whole samples of cells, which a shard may divide: leave out `shard` "
            "(`--shard`), and run files of some samples each."
        )
    return shard.cells(cells.n_cells, cells.location)


def _compute(run: CellRun, pieces: Pieces) -> tuple[Iterable[tuple[Any, Results]], int]:
    """Run all cells.

    Returns:
        The results, block by block where they need not be in memory together, and how many bytes they take.
    """
    # the cells of a sample may lie anywhere in the file
    if run.needs_all or run.cells.samples is not None:
        results = run.results(slice(None), run.all_values(pieces))
        return [(slice(None), results)], results.n_bytes
    run.compute(pieces)
    return ((block, run.results(block, values)) for block, values in run.blocks(pieces)), pieces.n_bytes


def _is_finished(destination: Path, fingerprint: dict, key: str, overwrite: bool) -> bool:
    """Whether the destination holds these results; raises if it holds something else."""
    if not destination.exists():
        return False
    if read_fingerprints(destination).get(key) == hash_of(fingerprint):
        return True
    if not overwrite:
        raise exists_already(destination)
    return False
