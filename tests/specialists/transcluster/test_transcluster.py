"""transCluster: the numbers of the original, its ids, training, verbs, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import sclm_hf
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.specialists.transcluster.configuration_transcluster import TransClusterConfig
from sclm_hf.specialists.transcluster.modeling_transcluster import (
    TransClusterForSequenceClassification,
    TransClusterModel,
)
from sclm_hf.specialists.transcluster.processing_transcluster import TransClusterProcessor

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden


def test_numbers_of_the_original(tmp_path):
    recorded = golden_arrays("transcluster", "case_a")
    model = open_golden("transcluster", "case_a", tmp_path)
    ids = torch.from_numpy(recorded["ids"]).long()
    close(model.model(ids).last_hidden_state, recorded["transformer_out"])
    close(model(ids).logits.softmax(-1), recorded["prob"])


SIZES = TransClusterConfig(
    vocab_size=20, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, conv_filters=6, num_labels=3
)


class TestTransCluster(SpecialistTester):
    name = "transcluster"
    settings = {"label_key": "cell_type"}
    model_config = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12}
    training = {"num_train_epochs": 10, "per_device_train_batch_size": 16}

    def cells(self):
        return labelled_cells()


@pytest.mark.slow
def test_it_learns_to_name_cells(tmp_path):
    cells = labelled_cells(240)
    train, test = cells[:180].copy(), cells[180:].copy()
    training = {"num_train_epochs": 30, "use_cpu": True}
    sclm_hf.fit("transcluster", train, tmp_path / "model", label_key="cell_type", training=training)
    found = sclm_hf.annotate(test, str(tmp_path / "model"))
    assert (found.obs["sclm_prediction"].astype(str) == test.obs["cell_type"]).mean() > 0.9


@pytest.mark.parametrize("shrinkage", [None, "auto", 0.5])
def test_scores_are_those_of_linear_discriminants(shrinkage):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    cells = labelled_cells()
    processor = TransClusterProcessor.fit(cells, label_key="cell_type", shrinkage=shrinkage)
    expression = processor.expression(_counts(cells))
    given = {} if shrinkage is None else {"solver": "eigen", "shrinkage": shrinkage}
    fitted = LinearDiscriminantAnalysis(**given).fit(expression, cells.obs["cell_type"])
    found, expected = processor.scores(expression), fitted.transform(expression)
    assert np.allclose(found - found.mean(axis=0), expected - expected.mean(axis=0), atol=1e-8)


def _counts(cells):
    from sclm_hf.specialists.cells import read_counts

    return read_counts(cells)


def test_ids_are_rounded_scores_above_the_lowest():
    cells = labelled_cells()
    processor = TransClusterProcessor.fit(cells, label_key="cell_type")
    scores = processor.scores(processor.expression(_counts(cells)))
    ids = processor(cells)["input_ids"]
    assert np.array_equal(ids, np.clip(np.round(scores - scores.min()) + 1, 1, 199))
    assert ids.min() == 1 and ids.shape == (60, 2)


def test_no_cell_to_be_named_changes_the_ids_of_others():
    cells = labelled_cells()
    processor = TransClusterProcessor.fit(cells[:40].copy(), label_key="cell_type")
    assert np.array_equal(processor(cells)["input_ids"][40:50], processor(cells[40:50].copy())["input_ids"])


def test_a_vocabulary_that_is_too_small_is_told():
    with pytest.warns(SclmWarning, match="set `vocab_size` to"):
        processor = TransClusterProcessor.fit(labelled_cells(), label_key="cell_type", vocab_size=4)
    with pytest.warns(SclmWarning, match=r"of 120 scores of these cells \(.*%\) are outside the 4 ids"):
        assert processor(labelled_cells())["input_ids"].max() == 3


def test_counts_as_they_are_of_all_genes():
    cells = labelled_cells()
    processor = TransClusterProcessor.fit(cells, label_key="cell_type", n_top_genes=None, target_sum=None)
    assert processor.genes == list(cells.var_names)
    assert np.array_equal(processor.expression(_counts(cells)), cells.X.toarray())


def test_a_type_of_one_cell_and_genes_of_no_other_are_taken():
    cells = labelled_cells()
    counts = cells.X.toarray()
    counts[:, :2] = 0
    counts[0, 1] = 5
    cells.X = csr_matrix(counts)
    cells.obs["cell_type"] = ["rare", *cells.obs["cell_type"][1:]]
    processor = TransClusterProcessor.fit(cells, label_key="cell_type", n_top_genes=None)
    assert processor(cells)["input_ids"].shape == (60, 3) and np.isfinite(processor.projection).all()


def test_dropout_may_stay_on():
    ids = torch.ones(2, 5, dtype=torch.long)
    for stays in (False, True):
        config = TransClusterConfig(**SIZES.to_diff_dict() | {"dropout_at_prediction": stays})
        model = TransClusterForSequenceClassification(config).eval()
        assert torch.equal(model(ids).logits, model(ids).logits) != stays


def test_loss_holds_the_penalty_once():
    model = TransClusterForSequenceClassification(SIZES).eval()
    ids, labels = torch.randint(1, 20, (4, 5)), torch.tensor([0, 1, 2, 0])
    output = model(ids, labels=labels)
    weights = [1e-3 * model.model.conv.weight.square().sum(), 1e-2 * model.classifier.weight.square().sum()]
    expected = torch.nn.functional.cross_entropy(output.logits, labels) + sum(weights)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.accepts_loss_kwargs is False


def test_padding_counts_as_nothing_to_the_encoder():
    model = TransClusterModel(SIZES).eval()
    ids = torch.tensor([[3, 4, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0]])
    assert torch.equal(model(ids).cell_embedding, model(ids, mask).cell_embedding)


def test_what_does_not_fit_is_refused(tmp_path):
    cells, folder = labelled_cells(), tmp_path / "x"
    with pytest.raises(ConfigurationError, match="`n_components` must be 1 to 2"):
        sclm_hf.fit("transcluster", cells, folder, label_key="cell_type", n_components=3)
    with pytest.raises(ConfigurationError, match="`shrinkage` must be 0 to 1, 'auto' or None, got 2"):
        sclm_hf.fit("transcluster", cells, folder, label_key="cell_type", shrinkage=2)
    with pytest.raises(ConfigurationError, match="covariance of 40 genes cannot be inverted"):
        sclm_hf.fit("transcluster", cells[:20].copy(), folder, label_key="cell_type", shrinkage=0)
    few = cells[:8].copy()
    few.obs["cell_type"] = list("aabbcdef")
    with pytest.raises(ConfigurationError, match="cannot be inverted: give more cells of each label"):
        TransClusterProcessor.fit(few, label_key="cell_type")
    with pytest.raises(ConfigurationError, match="5 cells of 5 labels are too few"):
        TransClusterProcessor.fit(few[[0, 2, 4, 5, 6]].copy(), label_key="cell_type")
    with pytest.raises(ConfigurationError, match="`vocab_size` must be at least 3"):
        sclm_hf.fit("transcluster", cells, folder, label_key="cell_type", vocab_size=2)
    with pytest.raises(ConfigurationError, match=r"`hidden_size` \(41\) must be a multiple"):
        sclm_hf.fit("transcluster", cells, folder, label_key="cell_type", model_config={"hidden_size": 41})
    with pytest.raises(ConfigurationError, match="must be rows of the gene table, 0 to 19"):
        TransClusterModel(SIZES)(torch.tensor([[3, 20]]))
    sized = TransClusterConfig(**SIZES.to_diff_dict() | {"num_components": 3})
    with pytest.raises(ConfigurationError, match=r"must be \(cells, 3 scores\)"):
        TransClusterModel(sized)(torch.tensor([[3, 2]]))
