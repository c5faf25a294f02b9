import socket
import sys
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sclm_hf.errors import CheckpointError, ConfigurationError, MissingDependencyError
from sclm_hf.hub.card import render_card, start_facts
from sclm_hf.hub.emissions import read_emissions
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train

from .training_cells import CLS, PAD, CellsInMemory, masked_model


def run(folder, report_to, resume=None):
    config = TrainingConfig(
        output_dir=str(folder),
        max_steps=6,
        per_device_train_batch_size=8,
        logging_steps=2,
        eval_steps=3,
        report_to=report_to,
        resume_from_checkpoint=resume,
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


class Meter:
    """As much of codecarbon's tracker as we call: every run writes a line."""

    def __init__(self, *, country_iso_code, output_dir, output_file, **settings):
        self.file = f"{output_dir}/{output_file}"
        self.line = f"0.002,0.0007,90,{country_iso_code},some processor,,3.3.2\n"

    def start(self):
        pass

    def stop(self):
        header = "energy_consumed,emissions,duration,country_name,cpu_model,gpu_model,codecarbon_version\n"
        with open(self.file, "a") as file:
            file.write(self.line if file.tell() else header + self.line)


@pytest.fixture
def codecarbon(monkeypatch):
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Meter
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")


def test_energy_is_measured_and_stands_in_the_card(tmp_path, codecarbon):
    run(tmp_path, ["codecarbon"])
    run(tmp_path, ["codecarbon"], resume="last")
    found = read_emissions(tmp_path)
    assert found["kwh"] == pytest.approx(0.004) and found["runs"] == 2 and found["country"] == "DEU"
    card = render_card(start_facts(tmp_path, license="mit"))
    assert "Energy of training: 4 Wh and 1.4 g of CO2 in 3 minutes" in str(card)
    assert card.data.co2_eq_emissions["emissions"] == pytest.approx(1.4)


def test_a_card_says_nothing_of_energy_that_nobody_measured(tmp_path):
    run(tmp_path, [])
    assert read_emissions(tmp_path) == {}
    card = str(render_card(start_facts(tmp_path, license="mit")))
    assert "Energy" not in card and "co2_eq_emissions" not in card


def test_energy_needs_a_country(tmp_path, codecarbon, monkeypatch):
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE")
    with pytest.raises(ConfigurationError, match="CODECARBON_COUNTRY_ISO_CODE=DEU"):
        run(tmp_path, ["codecarbon"])


@pytest.mark.parametrize("content", ["", "energy_consumed\n1\n", "\x00", "a,b\n1,2\n"])
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / "emissions.csv").write_text(content)
    with pytest.raises(CheckpointError, match="does not hold what codecarbon measures"):
        read_emissions(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_energy_that_is_no_amount_is_refused(tmp_path, value):
    header = "energy_consumed,emissions,duration,country_name,cpu_model,gpu_model,codecarbon_version\n"
    (tmp_path / "emissions.csv").write_text(f"{header}{value},1,1,a,b,c,d\n")
    with pytest.raises(CheckpointError, match="does not hold what codecarbon measures"):
        read_emissions(tmp_path)


@pytest.mark.slow
def test_codecarbon_itself_measures_a_run(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    run(tmp_path, ["codecarbon"])
    found = read_emissions(tmp_path)
    assert found["kwh"] > 0 and found["country"] == "Germany"
