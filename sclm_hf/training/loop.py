"""The one training loop: every objective, family and adapter goes through `train`."""

import contextlib
import dataclasses
import functools
import inspect
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model
from torch import nn

from ..corpora.fingerprint import Fingerprint, fingerprint
from ..errors import ConfigurationError, SclmError, require
from ..files import sole_writer
from ..logging import get_logger, progress_bar, warn
from ..modeling.common.cpu import has_fast_bfloat16
from ..opening.kinds import inner_model
from ..opening.loading import default_device
from .arguments import TrainingConfig
from .callbacks import Interruption, LossLog, note_evaluation, watched_metric
from .checkpoints import (
    WEIGHTS_FILE,
    CheckpointFolder,
    TrainingState,
    explained,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    update_checkpoint,
)
from .optimization import create_optimizer, create_schedule
from .saving import check_model, kept_model, note_batches, save_trained
from .steps import Step, narrow_batches, on_device, steps
from .trackers import check_trackers, energy_to_the_end, start_trackers, trackers_of
from .validation import OF_LABEL, ComputeMetrics, check_loss, evaluate

if TYPE_CHECKING:
    from .embedding_watch import EmbeddingWatch
    from .partners import Comparison

accelerate = require("accelerate", extra="train")

logger = get_logger(__name__)

SHOWN = ("effective_rank", "probe_macro_f1", "batch_mixing", "label_purity")
"""What the progress bar shows of the cell embedding."""


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a run.

    Attributes:
        output_dir: folder of the trained model, with its processor, log and checkpoints.
        step: optimizer steps taken.
        best_step: the step whose weights were kept, None without evaluation.
        metrics: the evaluation at that step, or the last one.
        history: the records of the log, in order: `step`, `epoch`, `loss`, `learning_rate`, … or `eval_…`.
        stopped_early: early stopping, or the watch, ended the run.
        watch_found: what the watch found to be lost, for example "the cell embedding collapsed"; None where nothing.
        is_main_process: whether this is the process that reports the result.
        comparison: the model beside linear baselines, where they were fitted.
        evaluation_chose: the evaluated cells chose among several checkpoints, or when to stop.
    """

    output_dir: Path
    step: int
    best_step: int | None
    metrics: dict[str, float]
    history: list[dict[str, Any]] = field(repr=False)
    stopped_early: bool = False
    watch_found: str | None = None
    is_main_process: bool = True
    comparison: "Comparison | None" = field(default=None, repr=False)
    evaluation_chose: bool = False

    def summary(self) -> str:
        """The result in a few lines."""
        end = "stopped early" if self.stopped_early else "finished"
        if self.stopped_early and self.watch_found is not None:
            end += f" because {self.watch_found}"
        steps = f" after {self.step} steps" if self.step else ""
        lines = [f"Training {end}{steps}; the model is in {self.output_dir}."]
        losses = [record["loss"] for record in self.history if "loss" in record]
        if losses:
            lines.append(f"Training loss: {losses[0]:.4g} at first, {losses[-1]:.4g} at last.")
        if self.metrics:
            named = {name.removeprefix("eval_"): value for name, value in self.metrics.items() if OF_LABEL not in name}
            values = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
            lines.append(f"Evaluation of the saved weights: {values}.")
            if self.evaluation_chose:
                lines.append(chosen_on_these("The checkpoint was"))
        if self.comparison is not None:
            lines += ["", self.comparison.summary()]
        return "\n".join(lines)


def chosen_on_these(what: str) -> str:
    """That scores favour the model, because `what` ("The checkpoint was") was chosen on the cells that give them."""
    return f"{what} chosen on the same cells, which favours the model: `evaluate` it on others."


def train(
    model: nn.Module,
    corpus: Any,
    collator: Any,
    config: TrainingConfig,
    *,
    eval_corpus: Any = None,
    eval_collator: Any = None,
    compute_metrics: ComputeMetrics | None = None,
    processor: Any = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    watch: "EmbeddingWatch | None" = None,
    is_last: bool = True,
) -> TrainingResult:
    """Train `model` on `corpus` and save it, with its processor, to `config.output_dir`.

    The loss is the model head's. Element-wise losses are divided by the number of labels in the whole optimizer
    step of all processes (`num_items_in_batch`), so that neither accumulation nor the number of processes changes
    them. Each process reads its own batches from the corpus's plan.

    Args:
        model: a transformers model with a loss, or a PEFT model around one; changed in place.
        corpus: a `CellCorpus`, or anything with its `__len__` and `loader` (and `order_id`, where the order of cells
            depends on settings, and `n_batches`, where batches are not filled one after the other).
        collator: an objective of `sclm_hf.objectives`.
        config: settings.
        eval_corpus: cells to evaluate on; without it there is no best checkpoint and no early stopping.
        eval_collator: objective for them, `collator` by default.
        compute_metrics: `(logits, labels) -> {name: value}` over all evaluated cells, for heads with `logits`.
        processor: saved beside the model.
        on_log: called in the main process with every record of the log.
        watch: measures the cell embedding before the first step and at every evaluation, and ends the run when it
            collapses.
        is_last: False where the same processes train again afterwards, which they cannot once their group is left.

    Raises:
        ConfigurationError: model, settings, corpus and existing checkpoints do not go together, or another run writes
            to the folder.
        CheckpointError: a checkpoint, the log or the model cannot be written, or a checkpoint not read.
        SclmError: the loss or the weights are no longer finite numbers.
    """
    check_model(kept_model(model), processor)
    note_batches(kept_model(model), getattr(corpus, "batch_names", None))
    accelerator = create_accelerator(config)
    alone = sole_writer(Path(config.output_dir)) if accelerator.is_main_process else contextlib.nullcontext()
    with alone, energy_to_the_end(accelerator):
        cells = (corpus, collator, eval_corpus, eval_collator or collator)
        return _Run(model, *cells, config, accelerator, compute_metrics, on_log, watch).fit(processor, is_last)


def steps_per_epoch(corpus: Any, config: TrainingConfig, n_processes: int) -> int:
    """Optimizer steps that a pass over a corpus takes, as [`train`] does it.

    Raises:
        ConfigurationError: there are fewer batches than processes.
    """
    per_device, cells = config.per_device_train_batch_size, len(corpus)
    count = getattr(corpus, "n_batches", None)
    n_batches = count(per_device) if count else math.ceil(cells / per_device)
    if n_batches < n_processes:
        raise ConfigurationError(
            f"{cells} cells make {n_batches} batches, which leave some of the {n_processes} processes without one: "
            "give more cells, or lower `per_device_train_batch_size`."
        )
    return math.ceil(n_batches / (n_processes * config.gradient_accumulation_steps))


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self, model, corpus, collator, eval_corpus, eval_collator, config, accelerator, compute_metrics, on_log, watch
    ) -> None:
        config = config.completed()
        self.config, self.corpus, self.collator = config, corpus, collator
        # batches hold each cell as often as it has views
        self.n_views = getattr(getattr(corpus, "augment", None), "views", 1)
        self.eval_corpus, self.eval_collator, self.compute_metrics = eval_corpus, eval_collator, compute_metrics
        self.on_log, self.watch = on_log, watch
        self._check()
        self.output_dir = Path(config.output_dir)
        self.accelerator = accelerator
        self.world_size, self.is_main = self.accelerator.num_processes, self.accelerator.is_main_process
        self.total_steps = self._count_steps()
        self.checkpoints = CheckpointFolder(self.output_dir / "checkpoints", config.save_total_limit)
        self.budget = {"max_tokens_per_batch": config.max_tokens_per_batch} if config.max_tokens_per_batch else {}
        self.state = TrainingState(
            corpus_cells=len(corpus), order_id=self._order_id(), seed=config.seed, world_size=self.world_size
        )
        self.saved_state: TrainingState | None = None
        self.log = LossLog(self.output_dir / "training_log.jsonl")
        self.interruption = Interruption()
        self.shown: dict[str, str] = {}
        self._prepare(model)
        self._take_up(find_checkpoint(config, self.checkpoints))

    def _check(self) -> None:
        """Refuse now what would otherwise fail after hours."""
        if self.eval_corpus is None and self.config.early_stopping_patience > 0:
            raise ConfigurationError(
                "`early_stopping_patience` needs cells to evaluate on: pass `eval_corpus` (in recipes `eval_files` or "
                "`eval_share`), or set it to 0."
            )
        if self.eval_corpus is not None and self.compute_metrics is None:
            names = {"loss"} if self.watch is None else {"loss", *self.watch.names}
            watched_metric(dict.fromkeys(names, math.nan), self.config)

    def _count_steps(self) -> int:
        if self.config.max_tokens_per_batch:
            return self.config.max_steps
        per_epoch = steps_per_epoch(self.corpus, self.config, self.world_size)
        return self.config.max_steps or per_epoch * self.config.num_train_epochs

    def _order_id(self) -> str:
        identify = getattr(self.corpus, "order_id", None)
        return identify(self.config.per_device_train_batch_size, **self.budget) if identify else ""

    def _fingerprint(self) -> Fingerprint:
        if hasattr(self.corpus, "sources"):
            return fingerprint(self.corpus)
        return self.corpus.fingerprint() if hasattr(self.corpus, "fingerprint") else {}

    def _prepare(self, model: nn.Module) -> None:
        accelerate.utils.set_seed(self.config.seed, device_specific=True)
        if self.config.gradient_checkpointing:
            kept = kept_model(model)
            # its name before transformers 5.23
            getattr(kept, "activation_checkpointing_enable", kept.gradient_checkpointing_enable)()
        self.divides_by_items = accepts_num_items(model)
        optimizer = create_optimizer(model, self.config)
        # accelerate would step a prepared schedule once for each process
        self.schedule = create_schedule(optimizer, self.config, self.total_steps)
        self.accelerator.register_for_checkpointing(self.schedule)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def _take_up(self, checkpoint: Path | None) -> None:
        """Continue from `checkpoint`, if any, and clear away what was done or half done after it."""
        if checkpoint is not None:
            self.state.fingerprint = self._fingerprint()
            self.state = load_checkpoint(self.accelerator, checkpoint, self.state)
            logger.info("Resuming from %s", checkpoint)
            if checkpoint.resolve() == self.checkpoints.path(self.state.step).resolve():
                self.saved_state = dataclasses.replace(self.state)
            elif self.state.best_step is not None:
                warn(f"The best weights so far stay beside {checkpoint}: those of this run compete among themselves.")
                self.state.forget_best()
        self.loss_sum = torch.tensor(self.state.loss_sum if self.is_main else 0.0, device=self.accelerator.device)
        if self.is_main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self.checkpoints.clean()
            self.checkpoints.prune(self.state.best_step)
            self.state.log_records = self.log.rewind(self.state.log_records)
        start_trackers(self.accelerator, self.config)
        self.accelerator.wait_for_everyone()

    @property
    def done(self) -> bool:
        return self.state.step >= self.total_steps or self.state.stopped_early or self._has_collapsed

    @property
    def _has_collapsed(self) -> bool:
        return self.watch is not None and self.watch.has_collapsed(self.state)

    def fit(self, processor: Any, is_last: bool) -> TrainingResult:
        """Run to the end, keep the best weights and save the model."""
        progress = {"total": self.total_steps, "initial": self.state.step, "disable": not self.is_main}
        self.seconds, self.cells_logged = time.perf_counter(), 0
        with self.interruption, progress_bar(desc="training", unit="step", **progress) as self.bar:
            interrupted = False
            if self.watch is not None and self.state.first_embedding is None and not self.done:
                self._log({f"eval_{name}": value for name, value in self._watch_embedding().items()})
            while not (self.done or interrupted):
                interrupted = self._run_epoch()
            self._save_checkpoint()
        if interrupted and not self.done:
            self.accelerator.end_training()
            if self.is_main:
                logger.warning("Stopped after step %d; resume with `--resume_from_checkpoint last`.", self.state.step)
            signal.raise_signal(self.interruption.signal or signal.SIGINT)
        return self._finish(processor, is_last)

    def _run_epoch(self) -> bool:
        """Train to the end of the epoch, of the run, or until the wish to stop (then True)."""
        alone = {"num_workers": 0, "rank": 0, "world_size": 1}
        filler = functools.cache(lambda: next(iter(self._loader(self.state.epoch, start=0, **alone))))
        batches = self._loader(self.state.epoch, self.state.cells)
        accumulation = self.config.gradient_accumulation_steps
        for step in steps(batches, accumulation, self.accelerator, filler, self.interruption.is_wished):
            self._take(step)
            if self._is_due(self.config.eval_steps):
                self._evaluate()
            if self._is_due(self.config.save_steps):
                self._save_checkpoint()
            if self.done or step.interrupted:
                return step.interrupted
        self.state.epoch, self.state.cells = self.state.epoch + 1, 0
        if self.config.eval_steps == 0:
            self._evaluate()
        if self.config.save_steps == 0:
            self._save_checkpoint()
        return False

    def _loader(self, epoch: int, start: int, **share: int) -> Any:
        share = share or {
            "num_workers": self.config.dataloader_num_workers,
            "rank": self.accelerator.process_index,
            "world_size": self.world_size,
        }
        size = self.config.per_device_train_batch_size
        loader = self.corpus.loader(size, collator=self.collator, epoch=epoch, start=start, **self.budget, **share)
        return narrow_batches(loader)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _take(self, step: Step) -> None:
        """One optimizer step; the loss is the sum over the batches of all processes."""
        self.model.train()
        arguments = self.collator.forward_arguments(self.state.step)
        if self.divides_by_items:
            arguments = arguments | {"num_items_in_batch": step.items}
        for i, (batch, weight) in enumerate(step.batches):
            is_last = i == len(step.batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                outputs = self.model(**on_device(batch, self.accelerator.device), **arguments)
                check_loss(outputs, self.accelerator.unwrap_model(self.model), batch)
                loss = outputs.loss * weight
                loss = loss if self.divides_by_items else loss / step.n_batches
                # distributed training averages gradients over the processes, and the loss is a sum
                self.accelerator.backward(loss * self.world_size)
            self.loss_sum += loss.detach()
        self._update()
        self.state.step += 1
        self.state.loss_steps += 1
        self.state.cells += step.cells // self.n_views
        self.cells_logged += step.cells // self.n_views
        self.bar.update()
        if self._is_due(self.config.logging_steps) or self.done:
            self._log_step()

    def _update(self) -> None:
        self.grad_norm = None
        if self.config.max_grad_norm > 0:
            self.grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()

    def _collect_loss(self) -> float:
        """Sum of the losses since the last line of the log, over all processes; from now on the main one keeps it."""
        total = self.accelerator.reduce(self.loss_sum, reduction="sum")
        if not torch.isfinite(total):
            raise self._diverged(f"The loss became {total.item()}")
        self.loss_sum = total.clone() if self.is_main else torch.zeros_like(total)
        return total.item()

    def _diverged(self, what: str) -> SclmError:
        return SclmError(
            f"{what} by step {self.state.step}: lower `learning_rate`, lengthen `warmup_steps` or use "
            "`mixed_precision=no`, and resume from an earlier checkpoint."
        )

    def _log_step(self) -> None:
        now = time.perf_counter()
        record = {
            "loss": self._collect_loss() / self.state.loss_steps,
            "learning_rate": self.schedule.get_last_lr()[0],
            "grad_norm": None if self.grad_norm is None else float(self.grad_norm),
            "cells_per_second": self.cells_logged / (now - self.seconds),
        }
        self.state.loss_steps, self.seconds, self.cells_logged = 0, now, 0
        self.loss_sum.zero_()
        self.bar.set_postfix(loss=f"{record['loss']:.4g}", **self.shown, refresh=False)
        self._log(record)

    def _log(self, values: dict[str, Any]) -> None:
        epoch = round(self.state.epoch + self.state.cells / len(self.corpus), 4)
        record = {"step": self.state.step, "epoch": epoch, **values}
        self.state.log_records += 1
        self.accelerator.log({k: v for k, v in record.items() if k != "step" and v is not None}, step=self.state.step)
        if self.is_main:
            self.log.append(record)
            if self.on_log is not None:
                self.on_log(record)

    def _evaluate(self) -> None:
        """Evaluate once per step, and keep a checkpoint when nothing was better before."""
        if self.eval_corpus is None or self.state.last_evaluation == self.state.step:
            return
        metrics = evaluate(
            self.model,
            self.eval_corpus,
            self.eval_collator,
            self.accelerator,
            batch_size=self.config.per_device_eval_batch_size,
            num_workers=self.config.dataloader_num_workers,
            compute_metrics=self.compute_metrics,
        )
        if self.watch is not None:
            metrics |= self._watch_embedding()
        self._log({f"eval_{name}": value for name, value in metrics.items()})
        if note_evaluation(self.state, metrics, self.config):
            self._save_checkpoint()

    def _watch_embedding(self) -> dict[str, float]:
        """What the cell embedding is worth now, noted in the state; the main process measures it."""
        model = self.accelerator.unwrap_model(self.model)
        [quality] = accelerate.utils.broadcast_object_list([self.watch.measure(model) if self.is_main else None])
        quality = self.watch.note(self.state, quality)
        self.shown = {name: f"{value:.3g}" for name, value in quality.metrics.items() if name in SHOWN}
        return quality.metrics

    def _save_checkpoint(self) -> None:
        """Write a checkpoint, unless this very state has been written."""
        if self.is_main and not self.state.fingerprint:
            self.state.fingerprint = self._fingerprint()
        self.state.loss_sum = self._collect_loss()
        if self.state == self.saved_state:
            return
        if self.saved_state is None or self.saved_state.step != self.state.step:
            # a finite loss can have a gradient that is not
            if not all(parameter.isfinite().all() for parameter in self.model.parameters() if parameter.requires_grad):
                raise self._diverged("Weights became infinite or NaN")
            save_checkpoint(self.accelerator, self.checkpoints, self.state)
        elif self.is_main:
            update_checkpoint(self.checkpoints, self.state)
        self.saved_state = dataclasses.replace(self.state)

    def _evaluation_chose(self, history: list[dict[str, Any]]) -> bool:
        chooses = self.config.load_best_model_at_end or self.config.early_stopping_patience > 0
        return chooses and sum("eval_loss" in record for record in history) > 1

    def _finish(self, processor: Any, is_last: bool) -> TrainingResult:
        self._evaluate()
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        best = self.state.best_step
        if best not in (None, self.state.step) and self.config.load_best_model_at_end:
            load_model(model, self.checkpoints.path(best) / WEIGHTS_FILE)
        if self.is_main:
            with explained(self.output_dir):
                save_trained(kept_model(model), self.output_dir, processor, merged=self.config.save_merged)
        # what comes next may open the folder in all of them
        self.accelerator.wait_for_everyone()
        if is_last:
            self.accelerator.end_training()
        else:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self.accelerator.free_memory()
        history = self.log.read()
        if self._has_collapsed and self.is_main:
            warn(self.watch.advice(self.state))
        kept = self.state.step if best is None or not self.config.load_best_model_at_end else best
        metrics = [record for record in history if record["step"] == kept and "eval_loss" in record]
        return TrainingResult(
            output_dir=self.output_dir,
            step=self.state.step,
            best_step=best,
            metrics={k: v for k, v in metrics[-1].items() if k.startswith("eval_")} if metrics else {},
            history=history,
            stopped_early=self.state.stopped_early or (self._has_collapsed and self.state.step < self.total_steps),
            watch_found=self.watch.finding if self._has_collapsed else None,
            evaluation_chose=self._evaluation_chose(history),
            is_main_process=self.is_main,
        )


def create_accelerator(config: TrainingConfig) -> accelerate.Accelerator:
    """The accelerator of a run; accumulation and the batches of each process are the loop's own business."""
    check_trackers(config)
    # a process may train several times, with other settings each time
    accelerate.state.AcceleratorState._reset_state()
    return accelerate.Accelerator(
        mixed_precision=_precision(config),
        cpu=config.use_cpu,
        log_with=trackers_of(config) or None,
        project_dir=config.output_dir,
        kwargs_handlers=[
            accelerate.DistributedDataParallelKwargs(find_unused_parameters=config.ddp_find_unused_parameters)
        ],
    )


def save_start(model: nn.Module, directory: Path, processor: Any, config: TrainingConfig) -> None:
    """Save a model that training will start from; the main process writes it while the others wait."""
    accelerator = create_accelerator(config)
    if accelerator.is_main_process:
        with explained(directory):
            save_trained(model, directory, processor)
    accelerator.wait_for_everyone()


def _precision(config: TrainingConfig) -> str:
    """`mixed_precision`, except bf16 on a CPU that multiplies it no faster than float32."""
    on_cpu = config.use_cpu or default_device() == "cpu"
    if config.mixed_precision != "bf16" or not on_cpu or has_fast_bfloat16():
        return config.mixed_precision
    warn(
        "This CPU multiplies bfloat16 no faster than float32: training in float32, which is more exact. Set "
        "`mixed_precision` to `no` (`--mixed_precision no`) to train without this warning."
    )
    return "no"


def accepts_num_items(model: nn.Module) -> bool:
    """Whether the model divides its loss by `num_items_in_batch`; the rule of `transformers.Trainer`."""
    inner = inner_model(model)
    declared = getattr(inner, "accepts_loss_kwargs", None)
    if declared is not None:
        return declared
    parameters = inspect.signature(inner.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
