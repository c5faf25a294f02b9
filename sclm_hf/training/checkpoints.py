"""Checkpoints: whole or absent. One is written beside the others, flushed to the disk, and then renamed into place."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from safetensors import SafetensorError

from ..corpora.fingerprint import Fingerprint, changes
from ..errors import CheckpointError, ConfigurationError, require
from ..files import flush_entry, read_json_object, replacing, sole_writer, write_text
from ..logging import warn
from .arguments import TrainingConfig

accelerate = require("accelerate", extra="train")

STATE_FILE = "training_state.json"
MEND = "make room and resume from the last checkpoint"
WEIGHTS_FILE = "model.safetensors"
_PARTIAL = ".partial-"

MOST_TOLD = 5
"""So many sources that changed are named."""


@dataclass
class TrainingState:
    """Where a run stands; everything about it that is neither a tensor nor a generator.

    Attributes:
        step: optimizer steps taken.
        epoch: current pass over the corpus.
        cells: cells of this epoch handed out to all processes together: the only state of the corpus.
        loss_sum: sum of the losses of the steps since the last line of the log.
        loss_steps: number of these steps.
        best_metric: best value of the watched metric so far.
        best_step: the step that reached it.
        best_loss: the evaluation loss of that step.
        lowest_loss: the evaluation loss that counted as an improvement last.
        evaluations_without_improvement: evaluations since the metric or the loss improved.
        last_evaluation: the step of the last evaluation.
        first_embedding: what the cell embedding was worth before the first step, None where nothing measured it.
        last_embedding: what it was worth at the last evaluation.
        collapsed_evaluations: evaluations in a row that found the embedding collapsed.
        log_records: records in the log.
        stopped_early: early stopping has ended the run.
        corpus_cells: number of cells of the corpus.
        fingerprint: of the cells of the corpus, empty where they come from no sources.
        order_id: names the order in which the corpus hands out its cells, empty where it has no name.
        seed: seed of the run.
        world_size: number of processes.
    """

    step: int = 0
    epoch: int = 0
    cells: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    best_loss: float | None = None
    lowest_loss: float | None = None
    evaluations_without_improvement: int = 0
    last_evaluation: int | None = None
    stopped_early: bool = False
    first_embedding: dict[str, float | None] | None = None
    last_embedding: dict[str, float | None] | None = None
    collapsed_evaluations: int = 0
    log_records: int = 0
    corpus_cells: int = 0
    fingerprint: Fingerprint = field(default_factory=dict)
    order_id: str = ""
    seed: int = 0
    world_size: int = 1

    def save(self, directory: Path) -> None:
        """Write `training_state.json`; one that is there is replaced at once."""
        write_text(directory / STATE_FILE, json.dumps(asdict(self), indent=2), CheckpointError, mend=MEND)
        flush_entry(directory)

    def forget_best(self) -> None:
        """Compare with no earlier evaluation from now on."""
        self.best_metric = self.best_step = self.best_loss = self.lowest_loss = None
        self.evaluations_without_improvement = 0

    @classmethod
    def load(cls, directory: Path) -> "TrainingState":
        """Read `training_state.json`.

        Raises:
            CheckpointError: the folder is no checkpoint, or one of another version.
        """
        try:
            values = read_json_object(directory / STATE_FILE)
        except CheckpointError as error:
            raise CheckpointError(
                f"`{directory}` is not a training checkpoint ({error}): give a folder `step-…` that training wrote."
            ) from error
        if set(values) != {f.name for f in fields(cls)}:
            raise CheckpointError(
                f"`{directory / STATE_FILE}` was written by another version of `sclm_hf`: resume with that version, "
                "or begin a new run in another `output_dir` (`--output_dir`)."
            )
        return cls(**values)


class CheckpointFolder:
    """The checkpoints of a run: `<directory>/step-00000100` and so on.

    Args:
        directory: where they live; created by the first checkpoint.
        limit: newest checkpoints to keep, beside the best one.
    """

    def __init__(self, directory: str | Path, limit: int = 2) -> None:
        self.directory = Path(directory)
        self.limit = limit

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`."""
        return self.directory / f"step-{step:08d}"

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self.directory.glob("step-*") if (path / STATE_FILE).is_file())

    def last(self) -> Path | None:
        """The newest complete checkpoint."""
        return max(self.all(), default=None)

    def partial(self, step: int) -> Path:
        """Where the checkpoint of `step` is written before it is whole."""
        return self.directory / f"{_PARTIAL}{self.path(step).name}"

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for path in [*self.directory.glob(f"{_PARTIAL}*"), *self.directory.glob("step-*")]:
            if not (path / STATE_FILE).is_file() or path.name.startswith(_PARTIAL):
                shutil.rmtree(path)

    def prune(self, best_step: int | None) -> None:
        """Remove all but the newest `limit` checkpoints and the one of `best_step`."""
        best = None if best_step is None else self.path(best_step)
        for path in self.all()[: -self.limit]:
            if path != best:
                # without its state file a checkpoint no longer counts, so a kill leaves no half of one behind
                (path / STATE_FILE).unlink()
                shutil.rmtree(path)


def check_output_dir(config: TrainingConfig) -> None:
    """Find out before files are read and models loaded what would stop the run when it begins to write.

    Raises:
        ConfigurationError, CheckpointError: as `find_checkpoint`; or another run writes there.
    """
    find_checkpoint(config, CheckpointFolder(Path(config.output_dir) / "checkpoints"))
    names = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
    if accelerate.utils.get_int_from_env(names, 0) == 0:
        with sole_writer(Path(config.output_dir)):
            pass


def find_checkpoint(config: TrainingConfig, folder: CheckpointFolder) -> Path | None:
    """The checkpoint that a run starts from, None for a fresh start.

    Raises:
        ConfigurationError: the output folder is a file or cannot be written, or holds a model that the run would
            replace, or checkpoints that it would mix with its own.
        CheckpointError: the checkpoint asked for does not exist.
    """
    if folder.directory.parent.is_dir() and not os.access(folder.directory.parent, os.W_OK):
        raise ConfigurationError(f"`output_dir` {config.output_dir} is not writable: choose another folder.")
    asked, last = config.resume_from_checkpoint, folder.last()
    if last is None:
        _check_is_free(Path(config.output_dir))
    if asked == "last":
        return last
    if asked is None:
        if last is not None:
            raise ConfigurationError(
                f"`output_dir` {config.output_dir} holds checkpoints of an earlier run: continue it with "
                "`resume_from_checkpoint=last`, remove them, or choose another folder."
            )
        return None
    chosen = Path(asked)
    TrainingState.load(chosen)
    if last is not None and last.resolve() != chosen.resolve():
        raise ConfigurationError(
            f"{folder.directory} holds checkpoints that are newer than {chosen.name} or of another run: remove them "
            "(the run goes another way from there), or choose another `output_dir`."
        )
    return chosen


def _check_is_free(output_dir: Path) -> None:
    """Refuse a folder whose model is not of a run: it may be the very base that an adapter will name."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigurationError(f"`output_dir` {output_dir} is a file: name a folder to write to.")
    if (output_dir / "config.json").exists():
        raise ConfigurationError(
            f"`output_dir` {output_dir} holds a model, which this run would replace: choose another folder."
        )


def save_checkpoint(accelerator: accelerate.Accelerator, folder: CheckpointFolder, state: TrainingState) -> None:
    """Write the checkpoint of `state.step` and remove those that are no longer kept; called in all processes.

    Raises:
        CheckpointError: writing failed; earlier checkpoints are untouched.
    """
    partial, final = folder.partial(state.step), folder.path(state.step)
    with whole_checkpoint(partial, final) if accelerator.is_main_process else explained(final):
        accelerator.wait_for_everyone()
        hook = accelerator.register_save_state_pre_hook(_bare_weights)
        accelerator.save_state(str(partial))
        hook.remove()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state.save(partial)
    if accelerator.is_main_process:
        folder.prune(state.best_step)
    accelerator.wait_for_everyone()


def update_checkpoint(folder: CheckpointFolder, state: TrainingState) -> None:
    """Note what has happened since the checkpoint of `state.step`, which changed neither weights nor generators.

    Raises:
        CheckpointError: writing failed; the checkpoint is as it was.
    """
    directory = folder.path(state.step)
    with explained(directory):
        # a run with another number of processes may have written the generators
        dataclasses.replace(state, world_size=TrainingState.load(directory).world_size).save(directory)
    folder.prune(state.best_step)


def load_checkpoint(accelerator: accelerate.Accelerator, directory: Path, fresh: TrainingState) -> TrainingState:
    """Put model, optimizer, schedule and generators into the state of a checkpoint.

    Args:
        accelerator: has prepared what is loaded.
        directory: the checkpoint.
        fresh: the state that the run would start with.

    Returns:
        The state to continue with.

    Raises:
        CheckpointError: the checkpoint belongs to another run, or does not fit the model.
    """
    state = TrainingState.load(directory)
    for name, what in (("corpus_cells", "cells in the corpus"), ("seed", "seed")):
        if getattr(state, name) != getattr(fresh, name):
            raise CheckpointError(
                f"{directory} was written with {getattr(state, name)} as {what}, and this run has "
                f"{getattr(fresh, name)}: resume with the settings and files of that run."
            )
    if changed := changes(state.fingerprint, fresh.fingerprint):
        more = f" (and {len(changed) - MOST_TOLD} more)" if len(changed) > MOST_TOLD else ""
        raise CheckpointError(
            f"{directory} was written with other cells than this run has: "
            f"{'; '.join(changed[:MOST_TOLD])}{more}. Resume with the files of that run, or begin a new one in "
            "another `output_dir` (`--output_dir`)."
        )
    if 0 < state.cells < state.corpus_cells and state.order_id != fresh.order_id:
        raise CheckpointError(
            f"{directory} was written in the middle of an epoch, and this run would hand out the cells in another "
            "order: resume with the files, `per_device_train_batch_size` and `max_tokens_per_batch` of that run."
        )
    if state.world_size != fresh.world_size:
        warn(
            f"{directory} was written by {state.world_size} processes and is taken up by {fresh.world_size}: "
            "the cells go on where they stopped, the dropout does not."
        )
    hook = accelerator.register_load_state_pre_hook(lambda models, _: _unwrap(accelerator, models))
    try:
        if state.world_size == fresh.world_size:
            # accelerate would go on with other random numbers where they cannot be read
            name = f"{accelerate.utils.constants.RNG_STATE_NAME}_{accelerator.process_index}.pkl"
            accelerate.utils.load(directory / name)
        accelerator.load_state(str(directory), load_kwargs={"weights_only": True})
    except Exception as error:
        raise CheckpointError(f"Cannot take up {directory}: {error}") from error
    finally:
        hook.remove()
    return dataclasses.replace(state, world_size=fresh.world_size, order_id=fresh.order_id)


def _bare_weights(models: list, weights: list[dict], directory: str) -> None:
    """Save names as the bare model has them, so that any number of processes can read them, and tied weights once."""
    for i, names in enumerate(weights):
        kept, places = {}, set()
        for name, tensor in names.items():
            place = (tensor.device, tensor.data_ptr(), tensor.shape)
            if tensor.numel() == 0 or place not in places:
                kept[name.removeprefix("module.")] = tensor
            places.add(place)
        weights[i] = kept


def _unwrap(accelerator: accelerate.Accelerator, models: list) -> None:
    models[:] = [accelerator.unwrap_model(model) for model in models]


@contextmanager
def whole_checkpoint(temporary: Path, final: Path) -> Iterator[Path]:
    """Make `final`, which does not exist yet, out of what is written into `temporary`: all of it or nothing.

    Raises:
        CheckpointError: writing failed, for example because the disk is full.
    """
    with explained(final), replacing(temporary, final):
        temporary.mkdir(parents=True)
        yield temporary


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn errors of writing to `place` into one that says what is left and what to do.

    Raises:
        CheckpointError: writing failed.
    """
    try:
        yield
    # a full disk is a RuntimeError to torch, and an error of its own to safetensors
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write {place}: {error}. The checkpoints are untouched: make room and resume from the last one."
        ) from error
