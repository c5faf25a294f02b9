"""Checkpoints: whole or absent. One is written beside the others, flushed to the disk, and then renamed into place."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..errors import CheckpointError

STATE_FILE = "training_state.json"
WEIGHTS_FILE = "model.safetensors"
_PARTIAL = ".partial-"


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
        evaluations_without_improvement: evaluations since then.
        last_evaluation: the step of the last evaluation.
        stopped_early: early stopping has ended the run.
        corpus_cells: number of cells of the corpus.
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
    evaluations_without_improvement: int = 0
    last_evaluation: int | None = None
    stopped_early: bool = False
    corpus_cells: int = 0
    seed: int = 0
    world_size: int = 1

    def save(self, directory: Path) -> None:
        """Write `training_state.json`."""
        (directory / STATE_FILE).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "TrainingState":
        """Read `training_state.json`.

        Raises:
            CheckpointError: the folder is no checkpoint, or one of another version.
        """
        try:
            values = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{directory} is not a training checkpoint ({error}): give a folder `step-…` that training wrote."
            ) from error
        if not isinstance(values, dict) or set(values) != {f.name for f in fields(cls)}:
            raise CheckpointError(f"{directory / STATE_FILE} was written by another version of `sclm_hf`.")
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
        for path in self.directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path)

    def prune(self, best_step: int | None) -> None:
        """Remove all but the newest `limit` checkpoints and the one of `best_step`."""
        best = None if best_step is None else self.path(best_step)
        for path in self.all()[: -self.limit]:
            if path != best:
                # without its state file a checkpoint no longer counts, so a kill leaves no half of one behind
                (path / STATE_FILE).unlink()
                shutil.rmtree(path)


@contextmanager
def replacing(temporary: Path, final: Path) -> Iterator[Path]:
    """Make `final` out of what is written into `temporary`, all of it or nothing.

    Raises:
        CheckpointError: writing failed, for example because the disk is full; `final` is as it was.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        flush(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        flush_entry(final.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"Cannot write {final}: {error}. Earlier checkpoints are untouched: make room and resume from the last one."
        ) from error


def flush(directory: Path) -> None:
    """Force the files below `directory` onto the disk."""
    for path in (directory, *directory.rglob("*")):
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Force one file, or the entries of one folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
