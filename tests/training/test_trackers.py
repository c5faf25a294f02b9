import socket
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sclm_hf.errors import MissingDependencyError
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train

from .training_cells import CLS, PAD, CellsInMemory, masked_model


def run(folder, report_to):
    config = TrainingConfig(
        output_dir=str(folder),
        max_steps=6,
        per_device_train_batch_size=8,
        logging_steps=2,
        eval_steps=3,
        report_to=report_to,
        project_name="tracked",
        use_cpu=True,
    )
    collator = MaskedExpressionCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD))
    return train(masked_model(), CellsInMemory(), collator, config, eval_corpus=CellsInMemory(8, seed=1))


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    result = run(tmp_path, ["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tracked"))
    events.Reload()
    for name in ("loss", "learning_rate", "eval_loss"):
        logged = [(record["step"], record[name]) for record in result.history if name in record]
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(s, pytest.approx(v)) for s, v in logged]


def test_trackio_writes_to_its_local_database_without_a_network(tmp_path, monkeypatch):
    from trackio import sqlite_storage, utils

    connect = socket.socket.connect

    def only_here(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"connected to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    result = run(tmp_path / "out", ["trackio"])
    (name,) = sqlite_storage.SQLiteStorage.get_runs("tracked")
    logged = [row["loss"] for row in sqlite_storage.SQLiteStorage.get_logs("tracked", name) if "loss" in row]
    assert logged == pytest.approx([record["loss"] for record in result.history if "loss" in record])


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="`pip install wandb`"):
        run(tmp_path, ["wandb"])
