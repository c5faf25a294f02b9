"""Kills a training run again and again and compares what it comes to; launched by `test_kills.py`.

It is a program of its own because it forks: torch is imported once, and no thread has started when a run is forked.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.adapters.lora import add_lora
from sclm_hf.modeling.scgpt.configuration_scgpt import ScGPTConfig
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForSequenceClassification
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.callbacks import LossLog
from sclm_hf.training.loop import train
from tests.training.h5ad_files import GENES, LABELS, write_h5ad

SETTINGS = {
    "max_steps": 24,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_tokens_per_batch": 240,
    "learning_rate": 1e-2,
    "dataloader_num_workers": 2,
    "logging_steps": 1,
    "save_steps": 3,
    "eval_steps": 4,
    "save_total_limit": 1,
    "use_cpu": True,
    "resume_from_checkpoint": "last",
}


def write_inputs(folder: Path) -> None:
    """Cells, and a model with dropout to adapt."""
    for seed, name in enumerate(("a", "b", "held_out")):
        write_h5ad(folder / f"{name}.h5ad", 60, seed=seed)
    processor = CellProcessor(ExpressionFeatureExtractor(n_bins=11), GeneTokenizer.from_genes(GENES))
    config = ScGPTConfig(
        vocab_size=processor.tokenizer.gene_vocabulary.size,
        pad_token_id=processor.tokenizer.pad_token_id,
        cls_token_id=processor.tokenizer.cls_token_id,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_dropout_prob=0.3,
        num_bins=11,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    ScGPTForSequenceClassification(config).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")


def open_corpora(inputs: Path) -> tuple[CellCorpus, CellCorpus]:
    """Cells to train on, in two files, and cells to evaluate on."""
    processor = CellProcessor.from_pretrained(inputs / "base")
    sizes = {"block_size": 8, "window_size": 48, "label_column": "cell_type"}
    corpus = CellCorpus([inputs / "a.h5ad", inputs / "b.h5ad"], processor, **sizes)
    return corpus, CellCorpus(inputs / "held_out.h5ad", processor, shuffle=False, **sizes)


def run(inputs: Path, output: Path, **settings) -> None:
    """Train a LoRA, from the last checkpoint if there is one."""
    corpus, held_out = open_corpora(inputs)
    model = add_lora(ScGPTForSequenceClassification.from_pretrained(inputs / "base"), lora_dropout=0.2)
    collator = CellClassificationCollator.from_processor(corpus.processor, num_labels=len(LABELS))
    config = TrainingConfig(output_dir=str(output), **(SETTINGS | settings))
    train(model, corpus, collator, config, eval_corpus=held_out, processor=corpus.processor)


def outcome(output: Path) -> dict:
    """All that a run leaves and that must not depend on kills: losses and metrics, weights, the last state."""
    lines = (output / "training_log.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k != "cells_per_second"} for line in lines]
    files = ["model.safetensors", "adapter/adapter_model.safetensors"]
    checkpoints = sorted(path.name for path in (output / "checkpoints").iterdir())
    files += [f"checkpoints/{checkpoints[-1]}/{name}" for name in ("model.safetensors", "training_state.json")]
    return {"log": records, "checkpoints": checkpoints, "files": [(output / file).read_bytes() for file in files]}


def forked(action, log: Path) -> int:
    """The process that performs `action`, in a group of its own together with its workers."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        action()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def count_file_events(folder: Path, die_at: int | None = None) -> list[int]:
    """Count what this process does to files below `folder`; be killed when it comes to `die_at`."""
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(folder) in str(arguments[0]):
            count[0] += 1
            if count[0] == die_at:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def main(folder: Path, kills: int, seed: int) -> None:
    """Print how often a run was killed, how often while it wrote a checkpoint, and how many runs were compared."""
    write_inputs(folder)
    # compiles the encodings' kernels, once for all runs
    next(open_corpora(folder)[0].batches(8))
    expected, n_events = whole_run(folder)
    generator, output = random.Random(seed), folder / "killed-0"
    counts = {"kills": 0, "while_writing": 0, "compared": 0}
    while counts["kills"] < kills:
        # half of the kills at any moment of writing, half some time after a step
        if generator.random() < 0.5:
            process = start(folder, output, die_at=generator.randint(1, n_events // 2))
        else:
            process = start(folder, output)
            signal_later(process, output, signal.SIGKILL, generator.randint(1, 8), generator.uniform(0, 0.1))
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status):
            counts["kills"] += 1
            counts["while_writing"] += any((output / "checkpoints").glob(".partial-*"))
        else:
            check(status, output, expected)
            counts["compared"] += 1
            output = folder / f"killed-{counts['compared']}"
    check(os.waitpid(start(folder, output), 0)[1], output, expected)
    counts["compared"] += 1
    print(json.dumps(counts | {"interruptions": interrupted_run(folder, expected)}))


def whole_run(folder: Path) -> tuple[dict, int]:
    """What an undisturbed run comes to, and how often it touches its checkpoints."""
    output = folder / "whole"

    def action() -> None:
        count = count_file_events(output / "checkpoints")
        run(folder, output)
        (folder / "events").write_text(str(count[0]))

    assert os.waitpid(forked(action, output.with_suffix(".txt")), 0)[1] == 0
    return outcome(output), int((folder / "events").read_text())


def interrupted_run(folder: Path, expected: dict) -> list[str]:
    """What a run says that is stopped by Ctrl-C, then by SIGTERM, and in the end comes to the same."""
    output, said = folder / "interrupted", []
    for number in (signal.SIGINT, signal.SIGTERM):
        output.with_suffix(".txt").unlink(missing_ok=True)
        process = start(folder, output)
        signal_later(process, output, number, 5, 0.02)
        status = os.waitpid(process, 0)[1]
        assert status != 0 and not any((output / "checkpoints").glob(".partial-*"))
        said += [line for line in output.with_suffix(".txt").read_text().splitlines() if "Stopped" in line]
    check(os.waitpid(start(folder, output), 0)[1], output, expected)
    return said


def start(folder: Path, output: Path, die_at: int | None = None) -> int:
    """Start a run, or go on with it; what it prints goes to a file beside `output`."""

    def action() -> None:
        count_file_events(output / "checkpoints", die_at)
        run(folder, output)

    return forked(action, output.with_suffix(".txt"))


def check(status: int, output: Path, expected: dict) -> None:
    """A run has ended well, and came to what it would have come to without kills."""
    assert status == 0, output.with_suffix(".txt").read_text()
    found = outcome(output)
    assert found["log"] == expected["log"] and found == expected, f"{output} differs"


def signal_later(process: int, output: Path, number: int, records: int, seconds: float) -> None:
    """Signal a run and its workers so many seconds after it has logged so many records, unless it has ended."""
    log = LossLog(output / "training_log.jsonl")
    target = len(log.read()) + records
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while len(log.read()) < target and os.waitid(os.P_PID, process, ended) is None:
        time.sleep(0.005)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
