"""Models beside linear baselines: weighed, scored, saved together, and annotating as was said."""

import json

import anndata as ad
import numpy as np
import pytest

import sclm_hf
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.corpora.training_manifest import CHOSEN, TRAINED, TrainingManifest, read_manifest
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression
from sclm_hf.evaluation.ensembles import choose_weights
from sclm_hf.evaluation.thinning import thin_counts
from sclm_hf.hub.card import render_card, start_facts
from sclm_hf.opening.partners import combined
from sclm_hf.opening.tiny import make_processor, make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.counts import ABSENT
from sclm_hf.training.depth import at_depth
from sclm_hf.training.finetune import finetune
from sclm_hf.training.linear import BASELINES, as_linear_model
from sclm_hf.training.partners import MOST_FOLDED, Rivals, _dealt, compared, cross_fitted, evenly, folds, knowing_all
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .h5ad_files import GENES, LABELS, write_h5ad


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(write_h5ad(tmp_path_factory.mktemp("cells") / "a.h5ad", 60))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(make_tiny_checkpoint("scgpt", tmp_path_factory.mktemp("base"), genes=GENES))


def tuned(base, file, folder, *, head="probe", **settings):
    data, eval_steps = settings.pop("data", {}), settings.pop("eval_steps", 0)
    config = TrainingConfig(
        output_dir=str(folder), use_cpu=True, max_steps=3, per_device_train_batch_size=16, eval_steps=eval_steps
    )
    return finetune(DataArguments([file], **data), FinetuneArguments(base, "cell_type", head=head, **settings), config)


@pytest.fixture(scope="module")
def probe(base, file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "out"
    return folder, tuned(base, file, folder, data={"eval_files": [file]})


def test_a_baseline_with_more_labels_than_cells_annotates_as_a_linear_model(file):
    cells = ad.read_h5ad(file)
    names = cells.obs["cell_type"].astype(str)
    baseline = PCALogisticRegression(n_components=5).fit(cells.X, names)
    whole = knowing_all(baseline, ["Absent", *sorted(LABELS)])
    model, processor = as_linear_model(whole, list(cells.var_names))
    found = sclm_hf.annotate(cells, model, processor, device="cpu").obsm["sclm_probabilities"]
    np.testing.assert_allclose(found[:, 1:], np.exp(baseline.predict_log_proba(cells.X)), atol=1e-5)
    assert model.classifier.bias[0] == ABSENT and not found[:, 0].any()


def test_annotate_gives_what_was_scored(probe, file):
    folder, result = probe
    cells = sclm_hf.annotate(ad.read_h5ad(file), str(folder), device="cpu")
    score = (cells.obs["sclm_prediction"].astype(str) == cells.obs["cell_type"].astype(str)).mean()
    told = {one.method: one.mean for one in result.comparison.table.results if one.metric == "accuracy"}
    assert score == pytest.approx(told["saved annotator"])
    assert cells.uns["sclm_hf"]["sclm_prediction"]["partners"] == result.comparison.weights | {
        "model": result.comparison.weights.get("model", 0)
    }


def test_annotate_gives_what_was_scored_also_where_files_lack_genes(base, tmp_path):
    whole, part = write_h5ad(tmp_path / "a.h5ad", 30), write_h5ad(tmp_path / "b.h5ad", 30, seed=1, genes=GENES[:25])
    corpus = CellCorpus([whole, part], make_processor("scgpt", GENES), label_column="cell_type", shuffle=False)
    rivals = Rivals(corpus, GENES)
    fitted = rivals.fit()
    expected = rivals.log_probabilities(fitted, rivals.counts, rivals.measured)
    for name, baseline in fitted.items():
        model = as_linear_model(baseline, list(rivals.genes))
        for file, rows in ((whole, slice(30)), (part, slice(30, None))):
            found = sclm_hf.annotate(ad.read_h5ad(file), *model, device="cpu").obsm["sclm_probabilities"]
            np.testing.assert_allclose(found, np.exp(expected[name][rows]), atol=1e-5)


def test_the_comparison_is_told_and_kept(probe):
    folder, result = probe
    told = result.summary()
    for words in (
        "z-scored logistic regression",
        "PCA + logistic regression",
        "scaled PCA + logistic regression",
        "model alone",
        *LABELS,
        "`annotate` uses",
    ):
        assert words in told
    kept = json.loads((folder / "partners.json").read_text())
    assert kept["weights"] == result.comparison.weights
    assert set(kept["comparison"]["per_label"]["ensemble"]) == set(LABELS)
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["comparison"]["model"]["macro_f1"] == pytest.approx(result.comparison.macro_f1("model"))


def test_the_card_shows_the_comparison(probe):
    folder, result = probe
    card = str(render_card(start_facts(folder, license="mit")))
    assert "| saved annotator |" in card and "| PCA + logistic regression |" in card
    assert result.comparison.verdict() in card and "F1 of each label" in card


@pytest.mark.slow
def test_a_lora_is_weighed_on_cells_that_were_held_out_for_it(base, file, tmp_path):
    result = tuned(base, file, tmp_path / "lora", head="lora", eval_steps=1)
    assert "12 cells held out" in result.comparison.tested_on
    assert any("eval_macro_f1" in record for record in result.history)
    assert any("The checkpoint of the model was chosen on the same cells" in one for one in result.comparison.caveats)
    # three steps make no classifier
    assert "model" not in result.comparison.weights and "is below" in result.comparison.verdict()
    for place in ("lora", "lora/adapter"):
        cells = sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / place), device="cpu")
        assert (cells.obs["sclm_prediction"].astype(str) == cells.obs["cell_type"].astype(str)).mean() > 0.9


@pytest.mark.slow
def test_a_model_without_weight_is_not_run(base, file, tmp_path, monkeypatch):
    tuned(base, file, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "partners.json").read_text())
    kept["weights"] = {next((tmp_path / "out/partners").iterdir()).name: 1.0, "model": 0.0}
    (tmp_path / "out" / "partners.json").write_text(json.dumps(kept))
    expected = sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / "out"), device="cpu")

    def refuse(*_, **__):
        raise AssertionError("the encoder ran")

    monkeypatch.setattr("sclm_hf.modeling.scgpt.modeling_scgpt.ScGPTModel.forward", refuse)
    found = sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / "out"), device="cpu")
    np.testing.assert_array_equal(found.obsm["sclm_probabilities"], expected.obsm["sclm_probabilities"])


def test_an_unknown_metric_is_refused_before_anything_is_trained(base, file, tmp_path):
    config = TrainingConfig(output_dir=str(tmp_path / "out"), use_cpu=True, metric_for_best_model="macro_f2")
    data = DataArguments([file], eval_files=[file])
    with pytest.raises(ConfigurationError, match=r"macro_f2.*accuracy.*loss.*macro_f1"):
        finetune(data, FinetuneArguments(base, "cell_type"), config)
    assert not (tmp_path / "out").exists()


def test_without_partners_a_model_stands_alone(base, file, tmp_path):
    result = tuned(base, file, tmp_path / "alone", partners=False)
    assert result.comparison is None and not (tmp_path / "alone" / "partners.json").exists()


@pytest.mark.slow
def test_a_model_that_takes_any_values_has_partners_where_these_are_counts(file, tmp_path):
    base = str(make_tiny_checkpoint("tgpt", tmp_path / "base", genes=GENES))
    result = tuned(base, file, tmp_path / "counts")
    sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / "counts"), device="cpu")
    assert result.comparison.weights.keys() - {"model"}
    cells = ad.read_h5ad(file)
    cells.X = cells.X.log1p()
    cells.write_h5ad(tmp_path / "logs.h5ad")
    assert tuned(base, str(tmp_path / "logs.h5ad"), tmp_path / "logs").comparison is None


@pytest.mark.slow
def test_partners_are_fitted_on_cells_as_shallow_as_those_to_come(base, file, tmp_path):
    deep, shallow = (
        tuned(base, file, tmp_path / str(depth), target_depth=depth).comparison.macro_f1("zscored") for depth in (0, 4)
    )
    assert shallow < deep
    with pytest.raises(ConfigurationError, match="target_depth"):
        FinetuneArguments(base, "cell_type", target_depth=-1)


@pytest.mark.slow
def test_a_probe_and_its_partners_see_the_same_thinned_cells(base, file, tmp_path):
    cells = ad.read_h5ad(file)
    cells.X = thin_counts(cells.X, depth=20, names=list(cells.obs_names)).astype(np.float32)
    cells.write_h5ad(tmp_path / "a.h5ad")
    found = tuned(base, file, tmp_path / "found", target_depth=20, data={"eval_files": [file]})
    expected = tuned(base, str(tmp_path / "a.h5ad"), tmp_path / "a", data={"eval_files": [str(tmp_path / "a.h5ad")]})
    assert found.comparison == expected.comparison
    assert found.metrics == expected.metrics
    # the manifest names the cells as they are
    original = TrainingManifest.of(CellCorpus(file, make_processor("scgpt", GENES), shuffle=False))
    np.testing.assert_array_equal(read_manifest(str(tmp_path / "found")).counts, original.counts)


def test_values_that_are_no_counts_are_not_thinned(base, file, tmp_path):
    corpus = CellCorpus(file, make_processor("tgpt", GENES), label_column="cell_type", shuffle=False)
    assert at_depth(corpus, 0, 0) is corpus and at_depth(None, 9, 0) is None
    cells = ad.read_h5ad(file)
    cells.X = cells.X.log1p()
    cells.write_h5ad(tmp_path / "logs.h5ad")
    logs = CellCorpus(tmp_path / "logs.h5ad", corpus.processor, label_column="cell_type", shuffle=False)
    with pytest.raises(ExpressionError, match=r"logs.h5ad.*--target_depth"):
        Rivals(at_depth(logs, 9, 0), GENES)


def test_more_cells_to_learn_from_are_as_if_they_had_been_there(tmp_path):
    whole, part = write_h5ad(tmp_path / "a.h5ad", 30), write_h5ad(tmp_path / "b.h5ad", 30, seed=1, genes=GENES[:25])
    processor, names = make_processor("scgpt", GENES), sorted(LABELS)
    first, second, both = (
        CellCorpus(files, processor, label_column="cell_type", label_names=names, shuffle=False)
        for files in ([whole], [part], [whole, part])
    )
    found, expected = Rivals(first, GENES).and_cells_of(second), Rivals(both, GENES)
    assert (found.counts != expected.counts).nnz == 0 and (found.labels == expected.labels).all()
    for one, other in zip(found.measured, expected.measured, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.fit(names=["pca"]).keys() == {"pca"}


@pytest.mark.slow
@pytest.mark.parametrize(("share", "n_trained"), [(0.0, 60), (0.2, 45)])
def test_partners_are_fitted_again_on_cells_that_nobody_named_to_evaluate_on(base, file, tmp_path, share, n_trained):
    result = tuned(base, file, tmp_path / "lora", head="lora", eval_steps=1, data={"eval_share": share})
    assert any("fitted again" in one for one in result.comparison.caveats) == (share == 0)
    for place in ("lora", "lora/adapter"):
        roles = read_manifest(str(tmp_path / place)).roles
        assert (roles == TRAINED).sum() == n_trained and (roles == CHOSEN).sum() == 60 - n_trained


@pytest.mark.slow
def test_it_is_told_that_the_evaluated_cells_chose_the_checkpoint(base, file, tmp_path):
    for eval_steps, chose in ((1, True), (3, False)):
        result = tuned(
            *(base, file, tmp_path / str(eval_steps)),
            head="lora",
            eval_steps=eval_steps,
            partners=False,
            data={"eval_files": [file]},
        )
        assert ("The checkpoint was chosen on the same cells" in result.summary()) == chose
        assert result.evaluation_chose == chose


def noise(n_cells, n_labels=4):
    generator = np.random.default_rng(0)
    scores = {name: generator.normal(0, 2, (n_cells, n_labels)) for name in (*BASELINES, "model")}
    logs = {name: values - np.logaddexp.reduce(values, axis=1, keepdims=True) for name, values in scores.items()}
    return logs, generator.integers(0, n_labels, n_cells)


def test_no_cell_has_a_say_in_the_weights_that_it_is_scored_with():
    logs, labels = noise(40)
    found = cross_fitted(logs, labels)
    for cell in range(8):
        changed = {name: values.copy() for name, values in logs.items()}
        changed["model"][cell] = np.where(np.arange(4) == labels[cell], 0.0, -50.0)
        same_fold = (_dealt(labels, 0) == _dealt(labels, 0)[cell]) & (np.arange(len(labels)) != cell)
        np.testing.assert_array_equal(cross_fitted(changed, labels)[same_fold], found[same_fold])


def test_saved_weights_are_of_all_cells_and_scores_of_those_left_out():
    logs, labels = noise(40)
    found = compared(logs, labels, list("abcd"), tested_on="noise", also_chosen="The checkpoint of the model was")
    assert found.weights == choose_weights(logs, labels)
    accuracy = {one.method: one.mean for one in found.table.results if one.metric == "accuracy"}
    assert accuracy["saved annotator"] == pytest.approx((cross_fitted(logs, labels).argmax(1) == labels).mean())
    for told in (found.summary(), str(found.table.notes), str(found.to_log())):
        assert "cross-fitting" in told and "The checkpoint of the model was chosen on the same cells" in told
    given = compared(logs, labels, list("abcd"), tested_on="noise", weights=found.weights)
    assert not given.caveats


def test_one_cell_is_weighed_equally_and_folds_hold_every_label():
    logs, labels = noise(1)
    expected = combined(logs, dict.fromkeys(logs, 1.0))
    np.testing.assert_array_equal(cross_fitted(logs, labels), expected)
    parts = _dealt(np.repeat([0, 1], 10), seed=3)
    assert all(np.bincount(parts[half]).tolist() == [2] * 5 for half in (slice(10), slice(10, 20)))


def test_of_many_cells_a_part_is_tested_and_of_few_each_in_turn():
    few = folds(np.arange(35) % 3)
    assert sorted(np.concatenate([test for _, test in few])) == list(range(35)) and len(few) == 5
    ((train, test),) = folds(np.arange(MOST_FOLDED + 1) % 3)
    assert not set(train) & set(test) and len(test) == pytest.approx(MOST_FOLDED / 5, abs=3)
    with pytest.raises(ConfigurationError, match="one cell"):
        folds(np.arange(5))


def test_cells_are_drawn_from_every_label():
    labels = np.repeat([0, 1, 2], [900, 99, 1])
    chosen = evenly(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [89, 10, 1] and (np.diff(chosen) > 0).all()
