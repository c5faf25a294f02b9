import json
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tqdm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sclm_hf.errors import CheckpointError, ConfigurationError, MissingDependencyError, SclmWarning
from sclm_hf.hub.card import CardFacts, render_card, start_facts
from sclm_hf.hub.emissions import read_emissions
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.energy import EnergyTracker
from sclm_hf.training.finetune import finetune
from sclm_hf.training.loop import train
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .h5ad_files import write_h5ad
from .training_cells import CLS, PAD, CellsInMemory, masked_model


def run(folder, report_to, resume=None, on_log=None):
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
    cells = {"eval_corpus": CellsInMemory(8, seed=1), "on_log": on_log}
    return train(masked_model(), CellsInMemory(), collator, config, **cells)


class Broken(Exception):
    """What ends a run."""


def breaks(record):
    raise Broken("at the first line of the log")


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


@pytest.mark.parametrize(
    "settings", [{"head": "probe", "model_name_or_path": "any"}, {"model_name_or_path": "linear"}]
)
def test_what_is_fitted_at_once_has_nothing_to_track(tmp_path, settings):
    data = DataArguments(train_files=[str(write_h5ad(tmp_path / "cells.h5ad", 8))])
    arguments = FinetuneArguments(**({"label_column": "cell_type", "model_name_or_path": "any"} | settings))
    with pytest.raises(ConfigurationError, match="`report_to` names tensorboard, which follow a training in steps"):
        finetune(data, arguments, TrainingConfig(output_dir=str(tmp_path / "out"), report_to=["tensorboard"]))


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="`pip install wandb`"):
        run(tmp_path, ["wandb"])


HEADER = "energy_consumed,emissions,duration,country_name,cpu_model,gpu_model,codecarbon_version"


class Meter:
    """As much of codecarbon's tracker as we call: every run writes a line."""

    def __init__(self, *, country_iso_code, output_dir, output_file, **settings):
        self.file, self.flushed = Path(output_dir) / output_file, 0
        self.line = f"0.002,0.0007,90,{country_iso_code},some processor,,3.3.2\n"

    def start(self):
        pass

    def flush(self):
        self.flushed += 1

    def stop(self):
        before = self.file.read_text() if self.file.exists() else f"{HEADER}\n"
        self.file.write_text(before + self.line)


@pytest.fixture
def codecarbon(monkeypatch):
    module, data = ModuleType("codecarbon"), ModuleType("codecarbon.input")
    module.OfflineEmissionsTracker = Meter
    data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}})
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setitem(sys.modules, "codecarbon.input", data)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "deu")


def test_energy_is_measured_and_stands_in_the_card(tmp_path, codecarbon):
    run(tmp_path, ["codecarbon"])
    run(tmp_path, ["codecarbon"], resume="last")
    found = read_emissions(tmp_path)
    assert found.kwh == pytest.approx(0.004) and found.runs == 2 and found.country == "DEU"
    facts = start_facts(tmp_path, license="mit")
    card = render_card(facts)
    assert "Energy of the machine during training: 4 Wh and 1.4 g of CO2 in 3 minutes" in str(card)
    assert card.data.co2_eq_emissions["emissions"] == pytest.approx(1.4)
    facts.save(tmp_path / "facts.json")
    assert CardFacts.load(tmp_path / "facts.json").energy == found


def test_energy_is_written_once_a_minute_for_runs_that_are_killed(tmp_path, codecarbon, monkeypatch):
    tracker = EnergyTracker(tmp_path)
    tracker.start()
    tracker.log({"loss": 1.0}, step=1)
    assert tracker.tracker.flushed == 0
    monkeypatch.setattr("sclm_hf.training.energy._WRITE_EVERY", 0.0)
    tracker.log({"loss": 1.0}, step=2)
    assert tracker.tracker.flushed == 1


def test_a_run_that_fails_leaves_its_energy(tmp_path, codecarbon):
    with pytest.raises(Broken) as failure:
        run(tmp_path, ["codecarbon"], on_log=breaks)
    assert read_emissions(tmp_path).runs == 1 and not hasattr(failure.value, "__notes__")
    run(tmp_path, ["codecarbon"])
    assert read_emissions(tmp_path).runs == 2


def test_a_meter_that_does_not_stop_hides_no_failure(tmp_path, codecarbon, monkeypatch):
    def full(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(Meter, "stop", full)
    with pytest.raises(Broken) as failure:
        run(tmp_path, ["codecarbon"], on_log=breaks)
    assert failure.value.__notes__ == ["What codecarbon measured last is lost: OSError('No space left on device')."]


def test_codecarbon_that_writes_nothing_is_told(tmp_path, codecarbon, monkeypatch):
    monkeypatch.setattr(Meter, "stop", lambda self: None)
    tracker = EnergyTracker(tmp_path)
    tracker.start()
    with pytest.warns(SclmWarning, match="codecarbon wrote no"):
        tracker.finish()


def test_a_card_says_nothing_of_energy_that_nobody_measured(tmp_path):
    run(tmp_path, [])
    assert read_emissions(tmp_path) is None
    card = str(render_card(start_facts(tmp_path, license="mit")))
    assert "Energy" not in card and "co2_eq_emissions" not in card


@pytest.mark.parametrize("country", [None, " ", "XX", "Germany"])
def test_energy_needs_a_country(tmp_path, codecarbon, monkeypatch, country):
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", country) if country else monkeypatch.delenv(
        "CODECARBON_COUNTRY_ISO_CODE"
    )
    with pytest.raises(ConfigurationError, match="CODECARBON_COUNTRY_ISO_CODE=DEU"):
        run(tmp_path, ["codecarbon"])


def emissions(folder, *lines):
    (folder / "emissions.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return read_emissions(folder)


@pytest.mark.parametrize("content", ["", "energy_consumed\n1\n", "\x00", "a,b\n1,2\n", f"{HEADER}\n{'x' * 200_000}"])
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / "emissions.csv").write_text(content)
    with pytest.raises(CheckpointError, match="does not hold what codecarbon measures"):
        read_emissions(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_energy_that_is_no_amount_is_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match="does not hold what codecarbon measures"):
        emissions(tmp_path, "5,1,1,a,b,c,d", f"{value},1,1,a,b,c,d")


def test_names_are_no_markup_and_not_without_end(tmp_path):
    hostile = "Ger<script>alert(1)</script>![x](http://evil)"
    found = emissions(tmp_path, *[f"1,1,1,{hostile},processor {number},,3" for number in range(99)])
    assert not set("<>![]:") & set(found.country + found.processor)
    assert "95 others" in found.processor and len(found.country) <= 80


@pytest.mark.parametrize(
    ("kwh", "said"), [(2e-9, "2e-06 Wh"), (0.0021, "2.1 Wh"), (0.9999, "1,000 Wh"), (412.0, "412 kWh")]
)
def test_amounts_are_said_in_units_that_fit(tmp_path, kwh, said):
    assert emissions(tmp_path, f"{kwh},0,14400,a,b,,3").said == f"{said} and 0 g of CO2 in 4 hours"


def test_an_adapter_shares_the_energy_of_its_model(tmp_path):
    emissions(tmp_path, "1,1,1,a,b,,3")
    (tmp_path / "adapter").mkdir()
    assert read_emissions(tmp_path / "adapter") == read_emissions(tmp_path)
    (tmp_path / "other").mkdir()
    assert read_emissions(tmp_path / "other") is None


@pytest.mark.parametrize("energy", [{"kwh": 1}, [1], "x"])
def test_facts_of_a_card_with_energy_of_another_form_are_refused(tmp_path, energy):
    refuse_facts(tmp_path, lambda _: energy)


@pytest.mark.parametrize("changed", [{"country": "x\n\n## Licence"}, {"kwh": "a"}, {"kwh": -1}, {"runs": None}])
def test_facts_of_a_card_with_hostile_energy_are_refused(tmp_path, changed):
    refuse_facts(tmp_path, lambda energy: energy | changed)


def refuse_facts(folder, change):
    facts = CardFacts("t", "scgpt", "mit", "s", energy=emissions(folder, "1,1,1,a,b,,3"))
    content = json.loads(facts.to_json())
    content["energy"] = change(content["energy"])
    (folder / "facts.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError):
        CardFacts.load(folder / "facts.json")


@pytest.mark.slow
def test_codecarbon_itself_measures_a_run(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    run(tmp_path, ["codecarbon"])
    found = read_emissions(tmp_path)
    assert found.kwh > 0 and found.country == "Germany"


@pytest.mark.slow
def test_codecarbon_itself_ends_with_a_run_that_fails(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    before = set(threading.enumerate())
    with pytest.raises(Broken):
        run(tmp_path, ["codecarbon"], on_log=breaks)
    assert read_emissions(tmp_path).kwh > 0
    # progress bars have a thread of their own, which stays
    after = [one for one in threading.enumerate() if one not in before and not isinstance(one, tqdm.TMonitor)]
    for thread in after:
        thread.join(timeout=5)
    assert not [thread for thread in after if thread.is_alive()]
