import math
import signal

import pytest

from sclm_hf.errors import CheckpointError
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.callbacks import Interruption, LossLog, note_evaluation
from sclm_hf.training.checkpoints import TrainingState


def test_a_rewound_log_forgets_later_records_and_a_cut_line(tmp_path):
    log = LossLog(tmp_path / "log.jsonl")
    assert log.read() == []
    log.rewind(3)
    for step in (1, 2, 3, 4):
        log.append({"step": step, "loss": 1 / step})
    with log.path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4]
    log.rewind(2)
    log.append({"step": 3, "loss": 0.5})
    assert log.read() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.5}]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"loss": 1.0}', b'{"step": "1"}', b"[" * 20_000, b"\xff"])
def test_a_damaged_line_of_the_log_is_named(tmp_path, line):
    log = LossLog(tmp_path / "log.jsonl")
    log.append({"step": 1, "loss": 1.0})
    with log.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(CheckpointError, match=r"log\.jsonl` .*mend it, or move it away"):
        log.read()


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("loss", [3.0, 2.0, 2.5, math.nan, 1.9], [1, 2, 2, 2, 5]), ("accuracy", [0.3, 0.2, 0.5], [1, 1, 3])],
)
def test_the_best_evaluation_is_remembered(metric, values, best):
    state, config = TrainingState(), TrainingConfig(metric_for_best_model=metric)
    for step, (value, expected) in enumerate(zip(values, best, strict=True), start=1):
        state.step = step
        assert note_evaluation(state, {metric: value, "loss": value if metric == "loss" else step}, config) == (
            expected == step
        )
        assert state.best_step == expected and state.last_evaluation == step


def test_a_first_evaluation_that_is_no_number_is_not_the_best():
    state = TrainingState(step=1)
    assert not note_evaluation(state, {"loss": math.nan}, TrainingConfig())
    state.step = 2
    assert note_evaluation(state, {"loss": 5.0}, TrainingConfig()) and state.best_step == 2


def evaluations(scores, losses, **settings):
    """The state after evaluations with these scores and losses."""
    state, config = TrainingState(), TrainingConfig(metric_for_best_model="macro_f1", **settings)
    for step, (score, loss) in enumerate(zip(scores, losses, strict=True), start=1):
        state.step = step
        note_evaluation(state, {"macro_f1": score, "loss": loss}, config)
    return state


def test_a_run_whose_loss_falls_is_not_stopped():
    falling = [1 / step for step in range(1, 9)]
    state = evaluations([0.07] * 8, falling, early_stopping_patience=2)
    assert not state.stopped_early
    assert evaluations([0.07] * 8, [*falling[:6], 0.2, 0.2], early_stopping_patience=2).stopped_early


def test_of_equal_scores_the_lower_loss_is_the_best_and_the_later_if_that_is_equal_too():
    assert evaluations([0.5, 0.5, 0.5], [3, 2, 1]).best_step == 3
    assert evaluations([0.5, 0.5, 0.5], [3, 1, 2]).best_step == 2
    assert evaluations([0.5, 0.5, 0.4], [1, 1, 0]).best_step == 2


def test_a_loss_that_falls_by_less_than_the_threshold_does_not_count():
    state = evaluations([0.5] * 4, [1.0, 0.99, 0.98, 0.97], early_stopping_patience=3, early_stopping_threshold=0.05)
    assert state.stopped_early


def test_a_second_signal_acts_at_once():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.is_wished()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler
