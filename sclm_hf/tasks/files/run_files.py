"""`embed` and `annotate` from file to file: larger than memory, kept in pieces, continued after a stop."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import ConfigurationError, CorpusError, ExpressionError, FilesError, GeneCoverageError, SclmError
from ...evaluation.collapse import CollapseMeter
from ...files import check_output_file, sole_writer
from ...logging import get_logger
from ...opening.loading import LoadedModel, load_model
from ...sources.cell_source import CellSource
from ...sources.opening import name_paths, open_source
from ...versions import package_versions
from .. import annotate as annotation
from ..embed import check_key, embedding_reader, report_collapse
from ..inference import check_run, prepare_cells, run_blocks, run_cells
from ..running.provenance import make_record
from .pieces import Pieces, remove_left_over
from .results import (
    add_results,
    check_room,
    check_source,
    complete_or_absent,
    exists_already,
    read_fingerprints,
)

if TYPE_CHECKING:
    import torch

    from ...tokenization.processing_cell import CellProcessor

logger = get_logger(__name__)


class Written(NamedTuple):
    """A finished file, and the name of its record in `uns["sclm_hf"]`."""

    path: Path
    key: str


@dataclass(frozen=True)
class _Job:
    """What is done to each file.

    Attributes:
        task: `"embed"` or `"annotate"`.
        key: name of the record in `uns["sclm_hf"]`.
        array_key: name of the results in `obsm`.
        read: takes them from the model's output.
        columns: (n_cells, …) results -> what else stands in `obs`.
        settings: what the results depend on.
        extra: what else stands in the record.
    """

    task: str
    key: str
    array_key: str
    read: Callable
    settings: dict[str, Any]
    columns: Callable[[np.ndarray], dict[str, Any]] = lambda results: {}
    extra: dict[str, Any] | None = None


def embed_files(
    source: str | Path,
    destination: str | Path,
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    key_added: str | None = None,
    layer: str | None = None,
    species: str = "human",
    batch_key: str | None = None,
    batch_size: int = 64,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
) -> list[Written]:
    """Write a copy of a file with the embeddings that `model` gives to its cells; its data are never in memory whole.

    Results are kept block by block in the folder `<destination>.partial`: a run that was stopped, in whatever way,
    goes on there when it is repeated. The copy takes its name when it is complete. Of a model of samples a block is a
    sample, and the results of all cells are in memory once, while they are written.

    Args:
        source: an .h5ad file, an AnnData zarr folder, a data set of Parquet shards; or a folder of .h5ad files.
        destination: the .h5ad file to write; for a folder, the folder to write to. Of zarr and Parquet the result
            holds `obs` names and results, not the data.
        model, processor, key_added, layer, species, batch_key, batch_size, device, dtype, seed, revision: as for
            `embed`.
        overwrite: replace results of other settings, and pieces of them.

    Returns:
        The files written or found finished.

    Raises:
        ConfigurationError: the destination holds something else, is the source, or is being written by another run.
        CorpusError: the source cannot be read.
        FilesError: some files of a folder cannot be used; the others are done.
        SclmError: no space is left; what was computed stays.
        Others as for `embed`.
    """
    check_key(key_added)
    check_run(batch_size, seed)
    with _Files.opened(source, destination, overwrite) as files:
        loaded = load_model(model, "embed", processor=processor, device=device, dtype=dtype, revision=revision)
        config = loaded.model.config
        key = key_added or f"X_{config.model_type}"
        settings = _settings(layer, species, batch_key, batch_size, seed)
        settings["normalized"] = config.normalize_cell_embedding
        return files.run(loaded, _Job("embed", key, key, embedding_reader(config), settings))


def annotate_files(
    source: str | Path,
    destination: str | Path,
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    key_added: str | None = None,
    unassigned_threshold: float = 0.0,
    layer: str | None = None,
    species: str = "human",
    batch_key: str | None = None,
    batch_size: int = 64,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
) -> list[Written]:
    """Write a copy of a file with the labels that a fine-tuned `model` predicts, as [`embed_files`] writes embeddings.

    Args:
        source, destination, overwrite: as for [`embed_files`].
        model, processor, key_added, unassigned_threshold, layer, species, batch_key, batch_size, device, dtype, seed,
            revision: as for `annotate`.

    Returns:
        The files written or found finished.
    """
    check_key(key_added)
    annotation.check_threshold(unassigned_threshold)
    check_run(batch_size, seed)
    keys = annotation.Keys.of(key_added)
    with _Files.opened(source, destination, overwrite, columns=keys[:2]) as files:
        loaded = load_model(model, "annotate", processor=processor, device=device, dtype=dtype, revision=revision)
        names = annotation.label_names_of(loaded.model.config)
        settings = _settings(layer, species, batch_key, batch_size, seed)
        settings["unassigned_threshold"] = unassigned_threshold

        def columns(probabilities: np.ndarray) -> dict[str, Any]:
            labels, confidence = annotation.predictions(probabilities, names, unassigned_threshold)
            return {keys.prediction: labels, keys.confidence: confidence}

        extra = {"label_names": np.array(names, dtype=object)}
        read = annotation.probabilities_of
        return files.run(loaded, _Job("annotate", keys.prediction, keys.probabilities, read, settings, columns, extra))


def _settings(layer: str | None, species: str, batch_key: str | None, batch_size: int, seed: int) -> dict[str, Any]:
    return {"layer": layer, "species": species, "batch_key": batch_key, "batch_size": batch_size, "seed": seed}


def _pairs(source: str | Path, destination: str | Path) -> list[tuple[Path, Path]]:
    """Each file with the one to write."""
    from ...sources.anndata.zarr_folder import is_zarr
    from ...sources.shards.parquet import is_dataset

    source, destination = Path(source), Path(destination)
    if not source.exists():
        raise CorpusError(f"`{source}` does not exist.")
    if not source.is_dir() or is_zarr(source) or is_dataset(source):
        if destination.suffix != ".h5ad":
            raise ConfigurationError(f"`{destination}` must be named `….h5ad`: that is what is written.")
        return [(source, destination)]
    if destination.suffix == ".h5ad":
        raise ConfigurationError(
            f"`{source}` is a folder of files and `{destination}` is named like one: name a folder."
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
    """The files of a run: checked as far as they can be without the model, and locked.

    Attributes:
        pairs: each file with the one to write.
        columns: names of the columns that `obs` gets.
        overwrite: replace results of other settings.
        locked: the destination whose lock is held.
        failed: files that cannot be used -> why.
    """

    pairs: list[tuple[Path, Path]]
    columns: Sequence[str]
    overwrite: bool
    locked: Path
    failed: dict[Path, SclmError] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(
        cls, source: str | Path, destination: str | Path, overwrite: bool, columns: Sequence[str] = ()
    ) -> "Iterator[_Files]":
        """Check the files, and hold the lock of the destination."""
        files = cls(_pairs(source, destination), columns, overwrite, Path(destination))
        for path, result in files.pairs:
            _check_destination(path, result, overwrite)
        with sole_writer(files.locked):
            for path, result in files.pairs:
                with files.going_on_after(path):
                    check_source(path, columns)
                    if not result.exists():
                        check_room(path, result)
            if len(files.failed) == len(files.pairs):
                raise files.error([])
            yield files

    def run(self, loaded: LoadedModel, job: "_Job") -> list[Written]:
        """Do each file that can be used.

        Raises:
            FilesError: some could not; the others are done.
        """
        written = []
        for path, result in self.pairs:
            if path in self.failed:
                continue
            with self.going_on_after(path), nullcontext() if result == self.locked else sole_writer(result):
                written.append(Written(_run_file(path, result, loaded, job, self), job.key))
        if self.failed:
            raise self.error(written)
        return written

    @contextmanager
    def going_on_after(self, path: Path) -> Iterator[None]:
        """Note an error of one file of several, and let the others be done."""
        try:
            yield
        except SclmError as error:
            if len(self.pairs) == 1:
                raise
            logger.error("%s: %s", path, error)
            self.failed[path] = error

    def error(self, written: list[Written]) -> FilesError:
        """What is said at the end when files failed."""
        reasons = "\n".join(f"- `{path}`: {error}" for path, error in self.failed.items())
        others = "; the others are done" if written else ""
        return FilesError(
            f"{len(self.failed)} of {len(self.pairs)} files could not be used{others}. Mend these and repeat, which "
            f"goes on with them:\n{reasons}",
            written,
            self.failed,
        )


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Refuse a destination that cannot be written, or that is clearly something else."""
    check_output_file(destination)
    if not destination.exists():
        return
    if destination.resolve() == source.resolve():
        raise ConfigurationError(f"`{destination}` is the source itself: name another file to write.")
    if not overwrite and not read_fingerprints(destination):
        raise exists_already(destination)


def _run_file(source: Path, destination: Path, loaded: LoadedModel, job: _Job, files: _Files) -> Path:
    expects = loaded.processor.feature_extractor.expects
    cells = open_source(source.stem, source, layer=job.settings["layer"], expects=expects)
    # results are written into a copy, which has them all
    cells.check_columns()
    fingerprint = _fingerprint(source, cells, loaded, job)
    folder = destination.with_name(f"{destination.name}.partial")
    if _is_finished(destination, fingerprint, job, files.overwrite):
        logger.info("%s is finished.", destination)
        remove_left_over(folder, fingerprint)
        return destination
    check_room(source, destination)
    how = {"species": job.settings["species"], "batch_key": job.settings["batch_key"]}
    with _errors_of(source):
        prepared = prepare_cells(cells, loaded, **how)
    pieces = Pieces(folder, fingerprint, overwrite=files.overwrite)
    how = {
        "batch_size": job.settings["batch_size"],
        "seed": job.settings["seed"],
        "description": job.task,
        "pieces": pieces,
    }
    meter = CollapseMeter(prepared.cell_ids)
    for block, values in run_blocks(loaded, prepared, job.read, **how):
        meter.add(block, values)
    if prepared.samples is None:
        results = run_blocks(loaded, prepared, job.read, **how)
    else:
        # the cells of a sample may lie anywhere in the file
        results = [(slice(None), run_cells(loaded, prepared, job.read, **how))]
    record = {**make_record(loaded, prepared, job.settings), **(job.extra or {}), "fingerprint": _hash(fingerprint)}
    if job.task == "embed":
        record["collapse"] = report_collapse(meter.measure(), f"`{destination}`")
    with complete_or_absent(source, destination, cells, pieces.n_bytes, files.columns) as file:
        add_results(file, results, cells.n_cells, job.array_key, job.columns, job.key, record)
    pieces.remove()
    return destination


@contextmanager
def _errors_of(source: Path) -> Iterator[None]:
    """Errors about cells name the file that they are in."""
    try:
        yield
    except (ExpressionError, GeneCoverageError) as error:
        raise type(error)(f"`{source}`: {error}") from error


def _fingerprint(source: Path, cells: CellSource, loaded: LoadedModel, job: _Job) -> dict[str, Any]:
    """Everything that the results depend on."""
    config = loaded.model.config.to_dict()
    config = {name: config[name] for name in sorted(config) if name not in ("_name_or_path", "transformers_version")}
    weights = hashlib.blake2b(digest_size=16)
    weights.update(json.dumps(config, sort_keys=True, default=str).encode())
    tensors = {**loaded.model.state_dict(), **loaded.model.frozen_tables()}
    for name, tensor in sorted(tensors.items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(dtype=_bytes()).numpy())
    return {
        "source": source.name,
        "source files": [list(pair) for pair in cells.stamp],
        "model": weights.hexdigest(),
        "processor": hashlib.blake2b(_processor_text(loaded).encode(), digest_size=16).hexdigest(),
        "task": [job.task, job.key, str(loaded.model.dtype)],
        **job.settings,
        "versions": package_versions("sclm_hf"),
    }


def _bytes() -> "torch.dtype":
    import torch

    return torch.uint8


def _processor_text(loaded: LoadedModel) -> str:
    extractor, tokenizer = loaded.processor.feature_extractor, loaded.processor.tokenizer
    return json.dumps([extractor.to_dict(), tokenizer.get_vocab()], sort_keys=True, default=str)


def _hash(fingerprint: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fingerprint, sort_keys=True).encode(), digest_size=16).hexdigest()


def _is_finished(destination: Path, fingerprint: dict, job: _Job, overwrite: bool) -> bool:
    """Whether the destination holds these results; refuses one that holds something else."""
    if not destination.exists():
        return False
    if read_fingerprints(destination).get(job.key) == _hash(fingerprint):
        return True
    if not overwrite:
        raise exists_already(destination)
    return False
