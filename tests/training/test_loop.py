import contextlib
import json

import pytest
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.adapters.lora import add_lora
from sclm_hf.errors import CheckpointError, ConfigurationError, SclmError, SclmWarning
from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTForMaskedExpression, ScGPTForSequenceClassification
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.objectives.collation import CellCollator
from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.integration import IntegrationWatch
from sclm_hf.training.loop import TrainingResult, train
from sclm_hf.training.validation import classification_metrics

from .training_cells import CLS, PAD, CellsInMemory, classifier, masked_model

SPECIAL = {"pad_token_id": PAD, "special_token_ids": (CLS, PAD)}


def config(tmp_path, **settings):
    defaults = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 1000,
        "use_cpu": True,
    }
    return TrainingConfig(**(defaults | settings))


def losses(result):
    return [record["loss"] for record in result.history if "loss" in record]


def test_masked_pretraining_lowers_the_loss_and_saves_the_model(tmp_path):
    model = masked_model()
    result = train(
        model, CellsInMemory(), MaskedExpressionCollator(**SPECIAL), config(tmp_path, max_steps=40, warmup_steps=0.1)
    )
    assert sum(losses(result)[-5:]) < 0.6 * sum(losses(result)[:5])
    rates = [record["learning_rate"] for record in result.history]
    assert rates.index(max(rates)) == 3 and rates[-1] == 0
    reloaded = ScGPTForMaskedExpression.from_pretrained(tmp_path / "out")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), reloaded.state_dict().values(), strict=True)
    )


def test_generative_pretraining_runs_through_its_second_pass(tmp_path):
    collator = GenerativeExpressionCollator(**SPECIAL, second_pass_after=2)
    model = masked_model(mvc_style="inner product")
    result = train(model, CellsInMemory(), collator, config(tmp_path, max_steps=30))
    assert sum(losses(result)[-5:]) < sum(losses(result)[2:7])


def test_classification_keeps_the_best_weights(tmp_path):
    settings = config(
        tmp_path,
        max_steps=80,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        eval_steps=10,
        metric_for_best_model="macro_f1",
    )
    result = train(
        classifier(hidden_dropout_prob=0.0),
        CellsInMemory(200),
        CellClassificationCollator(**SPECIAL, num_labels=3),
        settings,
        eval_corpus=CellsInMemory(20, seed=1),
        compute_metrics=classification_metrics,
    )
    scores = {r["step"]: r["eval_macro_f1"] for r in result.history if "eval_macro_f1" in r}
    assert len(scores) == 8
    assert result.metrics["eval_macro_f1"] == max(scores.values()) == scores[result.best_step] > 1 / 3
    reloaded = ScGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert reloaded.config.id2label == {0: "B", 1: "NK", 2: "T"}
    batch = next(CellsInMemory(20, seed=1).loader(20, collator=CellClassificationCollator(**SPECIAL)))
    logits = reloaded(**batch).logits.detach().numpy()
    assert classification_metrics(logits, batch["labels"].numpy())["macro_f1"] == pytest.approx(max(scores.values()))


def test_early_stopping_ends_the_run(tmp_path):
    result = train(
        masked_model(),
        CellsInMemory(),
        MaskedExpressionCollator(**SPECIAL),
        config(tmp_path, max_steps=50, eval_steps=1, early_stopping_patience=3, early_stopping_threshold=1e6),
        eval_corpus=CellsInMemory(6, seed=1),
    )
    assert result.stopped_early and result.step == 4 and result.best_step == 1


def test_accumulation_does_not_change_the_run(tmp_path):
    collator = MaskedExpressionCollator(**SPECIAL, mask_ratio=(0.2, 0.8), ratio_per="cell")
    runs = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        settings = config(
            tmp_path / str(accumulation),
            max_steps=10,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-3,
            # key biases have no gradient but rounding, which Adam would blow up to whole steps
            adam_epsilon=1e-3,
        )
        model = masked_model(hidden_dropout_prob=0.0)
        runs.append((losses(train(model, CellsInMemory(), collator, settings)), model))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-6, abs=1e-6)
    for a, b in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_bfloat16_and_checkpointed_activations_train(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.training.loop.has_fast_bfloat16", lambda: True)
    settings = config(tmp_path, max_steps=30, mixed_precision="bf16", gradient_checkpointing=True)
    model = masked_model()
    result = train(model, CellsInMemory(), MaskedExpressionCollator(**SPECIAL), settings)
    assert sum(losses(result)[-5:]) < 0.7 * sum(losses(result)[:5])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    batch = next(CellsInMemory().loader(4, collator=MaskedExpressionCollator(**SPECIAL)))
    assert model(**batch).expression_prediction.dtype == torch.float32


def test_a_lora_trains_in_bfloat16_with_checkpointed_activations(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.training.loop.has_fast_bfloat16", lambda: True)
    classifier().save_pretrained(tmp_path / "base")
    model = add_lora(ScGPTForSequenceClassification.from_pretrained(tmp_path / "base"), lora_dropout=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = config(tmp_path, max_steps=30, mixed_precision="bf16", gradient_checkpointing=True)
    result = train(model, CellsInMemory(), CellClassificationCollator(**SPECIAL), settings)
    assert sum(losses(result)[-5:]) < sum(losses(result)[:5])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == trained and any("lora_B" in name for name in moved)
    assert all(record["grad_norm"] > 0 for record in result.history)


def test_bfloat16_is_float32_on_a_processor_that_lacks_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.training.loop.has_fast_bfloat16", lambda: False)
    runs = []
    for precision, warning in (
        ("no", contextlib.nullcontext()),
        ("bf16", pytest.warns(SclmWarning, match="bfloat16")),
    ):
        settings = config(tmp_path / precision, max_steps=3, mixed_precision=precision, use_cpu=True)
        with warning:
            result = train(masked_model(), CellsInMemory(), MaskedExpressionCollator(**SPECIAL), settings)
        runs.append(losses(result))
    assert runs[0] == runs[1]


def test_gradients_are_clipped(tmp_path):
    weights = [masked_model().state_dict(), {}]
    settings = config(tmp_path, max_steps=1, max_grad_norm=1e-12, adam_epsilon=1.0, learning_rate=1.0)
    model = masked_model()
    train(model, CellsInMemory(), MaskedExpressionCollator(**SPECIAL), settings)
    weights[1] = model.state_dict()
    for name, before in weights[0].items():
        torch.testing.assert_close(before, weights[1][name], rtol=0, atol=1e-9)


def test_the_log_can_be_plotted(tmp_path):
    seen = []
    result = train(
        masked_model(),
        CellsInMemory(),
        MaskedExpressionCollator(**SPECIAL),
        config(tmp_path, logging_steps=3),
        on_log=seen.append,
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()]
    assert lines == seen == result.history
    assert [line["step"] for line in lines] == [3, 6, 8]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = masked_model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(SclmError, match="learning_rate"):
        train(model, CellsInMemory(), MaskedExpressionCollator(**SPECIAL), config(tmp_path))


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    model = masked_model()
    steps = []

    def explode(gradient):
        steps.append(1)
        return gradient * (torch.inf if len(steps) == 3 else 1)

    model.get_input_embeddings().weight.register_hook(explode)
    settings = config(tmp_path, max_grad_norm=0, save_steps=1)
    with pytest.raises(SclmError, match="by step 3"):
        train(model, CellsInMemory(), MaskedExpressionCollator(**SPECIAL), settings)
    saved = sorted((tmp_path / "out" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000001", "step-00000002"]


def test_a_model_without_loss_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ScGPTModel` returned no loss .*with a head"):
        train(masked_model().model, CellsInMemory(), Plain(**SPECIAL), config(tmp_path))
    with pytest.raises(ConfigurationError, match=r"ScGPTForMaskedExpression` returned no loss .*labels"):
        train(masked_model(), CellsInMemory(), Plain(**SPECIAL), config(tmp_path))


class Plain(CellCollator):
    """Gives what a model without head takes."""

    def collate(self, batch, epoch):
        return {name: batch[name] for name in ("input_ids", "expression_values", "attention_mask")}


def test_a_vocabulary_that_does_not_fit_the_weights_is_refused(tmp_path):
    genes = GeneTokenizer.from_genes([f"GENE{i}" for i in range(30)])
    processor = CellProcessor(ExpressionFeatureExtractor(n_bins=6), genes)
    with pytest.raises(CheckpointError, match="ids up to 32, and the model has 20 gene embeddings"):
        train(masked_model(), CellsInMemory(), Plain(**SPECIAL), config(tmp_path), processor=processor)
    assert not (tmp_path / "out").exists()


def test_what_would_fail_in_the_end_is_refused_at_once(tmp_path):
    cells, collator = CellsInMemory(), CellClassificationCollator(**SPECIAL, num_labels=3)
    with pytest.raises(ConfigurationError, match="never saved"):
        train(add_lora(classifier()), cells, collator, config(tmp_path))
    with pytest.raises(ConfigurationError, match="early_stopping_patience"):
        train(classifier(), cells, collator, config(tmp_path, early_stopping_patience=1))
    assert not (tmp_path / "out").exists()


def test_an_unknown_metric_is_refused(tmp_path):
    settings = config(tmp_path, metric_for_best_model="auroc", eval_steps=1)
    with pytest.raises(ConfigurationError, match=r"auroc.*loss"):
        train(
            masked_model(),
            CellsInMemory(),
            MaskedExpressionCollator(**SPECIAL),
            settings,
            eval_corpus=CellsInMemory(6, seed=1),
        )


def test_a_summary_says_what_ended_the_run(tmp_path):
    result = TrainingResult(tmp_path, 3, 1, {}, [], stopped_early=True, watch_found=IntegrationWatch.finding)
    assert result.summary().startswith("Training stopped early because biology was being lost after 3 steps")
