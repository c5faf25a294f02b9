"""What watches a run: the log file, early stopping, and the wish to stop in good order."""

import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from ..files import require_regular_file, write_text
from .arguments import TrainingConfig
from .checkpoints import MEND, TrainingState

_MOVE = "mend it, or move it away, and the log starts anew"


class LossLog:
    """A JSON line for each record of a run, for plots; `pandas.read_json(path, lines=True)` reads it.

    Args:
        path: the file; appended to.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rewind(self, n_records: int) -> int:
        """Keep the first `n_records`; what a killed run logged after its checkpoint will be logged again.

        Returns:
            The number of records that are there.
        """
        if not self.path.exists():
            return 0
        kept = self.read()[:n_records]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self.path, lines, CheckpointError, mend=MEND)
        return len(kept)

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; it must name its `step`."""
        with self._explained(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a kill cut off is none.

        Raises:
            CheckpointError: the file is damaged, or not that of a run.
        """
        return [self._record(number, line) for number, line in enumerate(self._text().split("\n")[:-1], 1)]

    def _text(self) -> str:
        require_regular_file(self.path)
        try:
            return self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"`{self.path}` cannot be read as the log of a run ({error}): {_MOVE}.") from error

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise CheckpointError(
                f"Line {number} of `{self.path}` is no JSON object with a `step`, as the log of a run has: {_MOVE}."
            )
        return record

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"Cannot write {self.path}: {error}. The checkpoints are untouched: make room and resume from the "
                "last one."
            ) from error


def note_evaluation(state: TrainingState, metrics: Mapping[str, float], config: TrainingConfig) -> bool:
    """Compare an evaluation with those before, in `state`.

    An evaluation is an improvement when the watched metric gains more than the threshold, or when the loss falls by
    more, below its lowest value so far: a score of labels may stand still for long while a classifier still learns. Of
    evaluations with the same metric the one with the lower loss is the best, and the later one if that is the same
    too.

    Args:
        state: where the run stands; changed in place. `stopped_early` tells whether patience has run out.
        metrics: what the evaluation gave: the watched metric, and `loss`.
        config: names the metric, its direction, patience and threshold.

    Returns:
        Whether this is the best evaluation.

    Raises:
        ConfigurationError: there is no metric of the watched name.
    """
    state.last_evaluation = state.step
    metric, loss = watched_metric(metrics, config), metrics["loss"]
    threshold = config.early_stopping_threshold
    sign = 1 if config.higher_is_better else -1
    gain = math.inf if state.best_metric is None else sign * (metric - state.best_metric)
    gains = math.isfinite(metric) and gain > threshold
    falls = math.isfinite(loss) and (state.lowest_loss is None or loss < state.lowest_loss - threshold)
    if falls:
        state.lowest_loss = loss
    is_best = gains or (gain == 0 and (state.best_loss is None or loss <= state.best_loss))
    if is_best:
        state.best_metric, state.best_step = metric, state.step
        state.best_loss = loss if math.isfinite(loss) else None
    state.evaluations_without_improvement = 0 if gains or falls else state.evaluations_without_improvement + 1
    state.stopped_early = 0 < config.early_stopping_patience <= state.evaluations_without_improvement
    return is_best


def watched_metric(metrics: Mapping[str, float], config: TrainingConfig) -> float:
    """The evaluation metric that decides.

    Raises:
        ConfigurationError: there is none of this name.
    """
    name = config.metric_for_best_model.removeprefix("eval_")
    if name not in metrics:
        raise ConfigurationError(
            f"`metric_for_best_model` is {name!r}, and the evaluation gives {', '.join(sorted(metrics))}."
        )
    return metrics[name]


class Interruption:
    """Turns Ctrl-C and SIGTERM into a wish that the loop grants at the end of its step; a second one acts at once.

    After the block the signal takes its usual effect. Outside the main thread signals keep their usual effect.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def is_wished(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._restore()
            signal.raise_signal(number)
        self.signal = number

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
