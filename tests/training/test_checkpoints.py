import contextlib
import errno
import json
import pkgutil
import signal
import subprocess
from pathlib import Path

import anndata as ad
import pytest
import torch

from sclm_hf.adapters.lora import add_lora, load_adapter
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.corpora.fingerprint import changes
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmWarning
from sclm_hf.files import sole_writer
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForSequenceClassification
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.tiny import make_processor, make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.checkpoints import (
    CheckpointFolder,
    TrainingState,
    check_output_dir,
    update_checkpoint,
    whole_checkpoint,
)
from sclm_hf.training.loop import train

from .h5ad_files import GENES, write_h5ad
from .training_cells import CLS, PAD, CellsInMemory, classifier

COLLATOR = CellClassificationCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD), num_labels=3)


def config(folder, **settings):
    defaults = {
        "output_dir": str(folder),
        "max_steps": 12,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_steps": 4,
        "eval_steps": 3,
        "use_cpu": True,
    }
    return TrainingConfig(**(defaults | settings))


def adapted(base: Path):
    """A LoRA over a saved classifier, with dropout everywhere."""
    if not base.exists():
        classifier(hidden_dropout_prob=0.3).save_pretrained(base)
    torch.manual_seed(1)
    return add_lora(ScGPTForSequenceClassification.from_pretrained(base), lora_dropout=0.2)


def run(base, folder, corpus=None, on_log=None, **settings):
    model = adapted(base)
    cells, held_out = corpus or CellsInMemory(26), CellsInMemory(8, seed=1)
    return model, train(model, cells, COLLATOR, config(folder, **settings), eval_corpus=held_out, on_log=on_log)


def measured(result):
    """The records without what depends on the clock."""
    return [{k: v for k, v in record.items() if k != "cells_per_second"} for record in result.history]


def assert_same(result, expected):
    """Two runs logged the same and left the same weights."""
    assert measured(result) == measured(expected)
    assert result.best_step == expected.best_step and result.metrics == expected.metrics
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (result.output_dir / name).read_bytes() == (expected.output_dir / name).read_bytes()


class Killed(Exception):
    pass


class KilledOnTheWay(CellsInMemory):
    """Dies when it should hand out the next batch after `batches` of them."""

    def __init__(self, n, batches):
        super().__init__(n)
        self.left = batches

    def loader(self, *args, **kwargs):
        for batch in super().loader(*args, **kwargs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield batch


@pytest.mark.parametrize("batches", [*(pytest.param(n, marks=pytest.mark.slow) for n in (9, 16)), 21])
def test_a_killed_run_replays_to_the_same_bits(tmp_path, batches):
    _, expected = run(tmp_path / "base", tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "base", tmp_path / "killed", KilledOnTheWay(26, batches))
    _, result = run(tmp_path / "base", tmp_path / "killed", resume_from_checkpoint="last")
    assert_same(result, expected)


@pytest.mark.slow
def test_a_finished_run_is_only_saved_again(tmp_path):
    _, expected = run(tmp_path / "base", tmp_path / "out")
    _, again = run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last")
    assert again.history == expected.history and again.step == 12


def test_the_run_leaves_adapter_and_merged_model(tmp_path):
    model, _ = run(tmp_path / "base", tmp_path / "out")
    batch = next(CellsInMemory(8).loader(8, collator=COLLATOR))
    expected = model.eval()(**batch).logits
    loaded = load_adapter(tmp_path / "out" / "adapter")
    torch.testing.assert_close(loaded(**batch).logits, expected, rtol=0, atol=0)
    merged = ScGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(merged(**batch).logits, expected, rtol=0, atol=1e-5)


def test_a_folder_with_checkpoints_is_not_mixed_with_a_new_run(tmp_path):
    run(tmp_path / "base", tmp_path / "out", max_steps=8, save_total_limit=5)
    with pytest.raises(ConfigurationError, match="resume_from_checkpoint=last"):
        run(tmp_path / "base", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="newer than step-00000004 or"):
        run(
            tmp_path / "base", tmp_path / "out", resume_from_checkpoint=str(tmp_path / "out/checkpoints/step-00000004")
        )
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint=str(tmp_path))


@pytest.mark.slow
def test_a_checkpoint_of_elsewhere_starts_a_run_in_an_empty_folder_only(tmp_path):
    _, first = run(tmp_path / "base", tmp_path / "first", max_steps=8, save_total_limit=5)
    elsewhere = str(tmp_path / "first/checkpoints/step-00000008")
    with pytest.warns(SclmWarning, match="best weights so far stay"):
        _, result = run(tmp_path / "base", tmp_path / "second", max_steps=10, resume_from_checkpoint=elsewhere)
    assert first.best_step <= 8 < result.best_step <= result.step == 10
    assert [record["step"] for record in result.history if "loss" in record] == [9, 10]
    with pytest.raises(ConfigurationError, match="of another run"):
        run(tmp_path / "base", tmp_path / "second", resume_from_checkpoint=elsewhere)


def test_a_run_goes_on_with_the_cells_that_it_began_with(tmp_path):
    def corpus():
        processor = make_processor("scgpt", GENES)
        return CellCorpus([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], processor, label_column="cell_type")

    def begin(**settings):
        torch.manual_seed(0)
        model = open_classifier(str(base), corpus().label_names)
        return train(model, corpus(), collator, config(tmp_path / "out", **settings))

    for seed, name in enumerate("ab"):
        write_h5ad(tmp_path / f"{name}.h5ad", 12, seed=seed)
    base = make_tiny_checkpoint("scgpt", tmp_path / "base", genes=GENES)
    collator = CellClassificationCollator.from_processor(corpus().processor, num_labels=3)
    # 24 cells, 6 a step: the epoch is over
    begin(max_steps=4)
    assert begin(max_steps=4, resume_from_checkpoint="last").step == 4
    cells = ad.read_h5ad(tmp_path / "b.h5ad")
    cells.obs_names = [f"renamed {name}" for name in cells.obs_names]
    cells.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(CheckpointError, match="other cells than this run has: the cells of `b` have other names"):
        begin(max_steps=8, resume_from_checkpoint="last")


def test_what_changed_is_told():
    before = {"a": {"names": "1", "counts": "1"}, "b": {"names": "1", "counts": "1"}}
    now = {"b": {"names": "2", "counts": "2"}, "c": {"names": "1", "counts": "1"}}
    assert changes(before, before) == []
    assert changes(before, now) == ["`a` is missing", "the cells of `b` have other names and counts", "`c` is new"]


class Ordered(CellsInMemory):
    """Names its order after the batch size."""

    def order_id(self, batch_size):
        return f"batches of {batch_size}"


def test_an_epoch_is_not_resumed_in_another_order(tmp_path):
    run(tmp_path / "base", tmp_path / "out", Ordered(26), max_steps=3)
    changed = {"per_device_train_batch_size": 2, "resume_from_checkpoint": "last"}
    with pytest.raises(CheckpointError, match="in another order"):
        run(tmp_path / "base", tmp_path / "out", Ordered(26), **changed)
    run(tmp_path / "base", tmp_path / "out", Ordered(26), resume_from_checkpoint="last", max_steps=4)


def test_a_checkpoint_with_damaged_generators_is_refused(tmp_path):
    run(tmp_path / "base", tmp_path / "out", max_steps=4)
    (generators,) = (tmp_path / "out" / "checkpoints" / "step-00000004").glob("random_states_0*")
    generators.write_bytes(generators.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"Cannot take up .*step-00000004"):
        run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last")
    generators.unlink()
    with pytest.raises(CheckpointError, match="random_states_0"):
        run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last")


@pytest.mark.parametrize(("change", "message"), [({"seed": 1}, "seed"), ({"corpus": CellsInMemory(25)}, "cells")])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    run(tmp_path / "base", tmp_path / "out", max_steps=4)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last", **change)


@pytest.mark.slow
def test_only_the_newest_and_the_best_are_kept(tmp_path):
    _, result = run(tmp_path / "base", tmp_path / "out", max_steps=20, save_steps=2, save_total_limit=2)
    kept = {int(path.name.removeprefix("step-")) for path in CheckpointFolder(tmp_path / "out" / "checkpoints").all()}
    assert kept == {18, 20} | {result.best_step}


# what writes weights, optimizer, generators, the state, the log, and the model in the end
@pytest.mark.parametrize(
    "writer",
    [
        "os.replace",
        *(
            pytest.param(writer, marks=pytest.mark.slow)
            for writer in (
                "torch.save",
                "sclm_hf.training.loop.save_trained",
                "accelerate.utils.other.safe_save_file",
                "accelerate.checkpointing.save",
                "os.fsync",
                "pathlib.Path.open",
            )
        ),
    ],
)
def test_a_full_disk_leaves_a_state_to_resume_from(tmp_path, monkeypatch, writer):
    _, expected = run(tmp_path / "base", tmp_path / "whole")
    steps = [0]

    def note(record):
        steps.append(record["step"])

    def full(*args, **kwargs):
        reads = writer == "pathlib.Path.open" and "a" not in args
        if not reads and (steps[-1] >= 6 or writer.endswith("save_trained")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"(?s)No space left.*resume"):
        original = attribute(writer)
        patch.setattr(writer, full)
        run(tmp_path / "base", tmp_path / "out", on_log=note)
    folder = CheckpointFolder(tmp_path / "out" / "checkpoints")
    assert folder.last() is not None and sorted(folder.directory.iterdir()) == folder.all()
    _, result = run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last")
    assert_same(result, expected)


def test_what_is_no_error_of_writing_keeps_its_name(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("sclm_hf.training.loop.save_trained", broken)
    with pytest.raises(KeyError, match="a bug"):
        run(tmp_path / "base", tmp_path / "out", max_steps=2)


def attribute(name):
    """What `monkeypatch.setattr` would replace."""
    target, _, last = name.rpartition(".")
    return getattr(pkgutil.resolve_name(target), last)


@pytest.mark.slow
def test_a_disk_that_is_really_full_leaves_a_state_to_resume_from(tmp_path):
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    ballast = tmp_path / "disk" / "ballast"

    def fill(record):
        if record["step"] == 6 and not ballast.exists():
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    try:
        _, expected = run(tmp_path / "base", tmp_path / "whole")
        with pytest.raises(CheckpointError, match=r"Cannot write .*resume"):
            run(tmp_path / "base", tmp_path / "disk" / "out", on_log=fill)
        ballast.unlink()
        _, result = run(tmp_path / "base", tmp_path / "disk" / "out", resume_from_checkpoint="last")
        assert_same(result, expected)
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.slow
def test_what_was_logged_after_the_checkpoint_is_not_logged_twice(tmp_path):
    epochs = {"max_steps": 0, "num_train_epochs": 3, "eval_steps": 0, "save_steps": 5}
    _, expected = run(tmp_path / "base", tmp_path / "whole", **epochs)

    def die(record):
        if record["step"] == 5 and "eval_loss" in record:
            raise Killed

    # the checkpoint of step 5, the last one of the epoch, is there; what the evaluation changed is not noted in it
    with pytest.raises(Killed):
        run(tmp_path / "base", tmp_path / "out", on_log=die, **epochs)
    _, result = run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last", **epochs)
    assert_same(result, expected)


def test_a_checkpoint_is_whole_or_absent(tmp_path):
    folder = CheckpointFolder(tmp_path, limit=1)
    with whole_checkpoint(folder.partial(1), folder.path(1)) as directory:
        TrainingState(step=1).save(directory)
    folder.partial(2).mkdir()
    folder.path(3).mkdir()
    assert folder.last() == folder.path(1)
    folder.clean()
    assert list(tmp_path.iterdir()) == [folder.path(1)]
    with (
        pytest.raises(CheckpointError, match="untouched"),
        whole_checkpoint(folder.partial(1), folder.path(1)) as directory,
    ):
        TrainingState(step=99).save(directory)
        raise RuntimeError("file write failed")
    assert TrainingState.load(folder.path(1)).step == 1
    update_checkpoint(folder, TrainingState(step=1, epoch=7, world_size=3))
    assert TrainingState.load(folder.path(1)) == TrainingState(step=1, epoch=7, world_size=1)
    assert list(tmp_path.iterdir()) == [folder.path(1)]


class InterruptedOnTheWay(CellsInMemory):
    """Sends itself a signal with batch number `at`."""

    def __init__(self, n, at, number):
        super().__init__(n)
        self.at, self.number = at, number

    def loader(self, *args, **kwargs):
        for batch in super().loader(*args, **kwargs):
            if self.at == 0:
                signal.raise_signal(self.number)
            self.at -= 1
            yield batch


def test_ctrl_c_saves_a_state_to_resume_from(tmp_path):
    _, expected = run(tmp_path / "base", tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "base", tmp_path / "out", InterruptedOnTheWay(26, 12, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is handler
    assert CheckpointFolder(tmp_path / "out" / "checkpoints").last().name == "step-00000007"
    _, result = run(tmp_path / "base", tmp_path / "out", resume_from_checkpoint="last")
    assert_same(result, expected)


def test_one_run_at_a_time_trains_into_a_folder(tmp_path):
    second = []

    def try_to_write(record):
        with (
            pytest.raises(ConfigurationError, match="is being written by process") as caught,
            sole_writer(tmp_path / "a"),
        ):
            pass
        second.append(str(caught.value))

    run(tmp_path / "base", tmp_path / "a", max_steps=2, on_log=try_to_write)
    assert second and not list(tmp_path.glob(".*.lock"))
    with sole_writer(tmp_path / "b"), pytest.raises(ConfigurationError, match="b` is being written by process"):
        run(tmp_path / "base", tmp_path / "b", max_steps=2)
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "a")
    with pytest.raises(ConfigurationError, match="a is not writable"):
        check_output_dir(config(tmp_path / "a"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        check_output_dir(config(tmp_path / "file" / "b"))
    with sole_writer(tmp_path / "c"), pytest.raises(ConfigurationError, match="is being written by process"):
        check_output_dir(config(tmp_path / "c"))


def test_a_checkpoint_of_another_version_is_refused_with_what_to_do(tmp_path):
    TrainingState(step=1).save(tmp_path)
    state = json.loads((tmp_path / "training_state.json").read_text())
    (tmp_path / "training_state.json").write_text(json.dumps({**state, "order": "as it was"}))
    with pytest.raises(CheckpointError, match=r"json` was written by another version.*another `output_dir`"):
        TrainingState.load(tmp_path)
