"""scTransSort: the numbers of the original, its images, training, verbs, and what it refuses."""

import pytest
import torch

import sclm_hf
from sclm_hf.errors import ConfigurationError
from sclm_hf.specialists.sctranssort.configuration_sctranssort import ScTransSortConfig
from sclm_hf.specialists.sctranssort.modeling_sctranssort import ScTransSortForSequenceClassification, ScTransSortModel

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden

SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("sctranssort", case)
    model = open_golden("sctranssort", case, tmp_path)
    expression = torch.from_numpy(recorded["expression"])
    image = model.model.image(expression).permute(0, 2, 3, 1)
    assert torch.equal(image, torch.from_numpy(recorded["pixels"]))
    close(model(expression).logits, recorded["logits"])


class TestScTransSort(SpecialistTester):
    name = "sctranssort"
    settings = {"label_key": "cell_type"}
    model_config = SIZES
    training = {"num_train_epochs": 10, "per_device_train_batch_size": 16}

    def cells(self):
        return labelled_cells()


@pytest.mark.slow
def test_it_learns_to_name_cells(tmp_path):
    cells = labelled_cells(120)
    train, test = cells[:60].copy(), cells[60:].copy()
    sclm_hf.fit(
        "sctranssort",
        train,
        tmp_path / "model",
        label_key="cell_type",
        model_config=SIZES,
        training={"use_cpu": True},
    )
    found = sclm_hf.annotate(test, str(tmp_path / "model"))
    assert (found.obs["sclm_prediction"].astype(str) == test.obs["cell_type"]).mean() > 0.9


def test_genes_stand_in_the_middle_of_the_image():
    model = ScTransSortModel(ScTransSortConfig(**SIZES | {"image_size": 8, "patch_size": 4}))
    image = model.image(torch.arange(1.0, 10.0)[None])
    assert image.shape == (1, 3, 8, 8)
    # square numbers get a row and a column more than they need
    assert image[0, 0, 2:6, 2:6].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 0, 0, 0], [0, 0, 0, 0]]
    assert image.sum() == 3 * 45


def test_classifier_starts_at_zero_and_may_leave_pixels_out():
    model = ScTransSortForSequenceClassification(ScTransSortConfig(**SIZES, num_labels=3))
    assert not model.classifier.weight.any() and model.classifier.in_features == 16 + 3 * 16 * 16
    without = ScTransSortForSequenceClassification(ScTransSortConfig(**SIZES, num_labels=3, raw_skip=False))
    assert without.classifier.in_features == 16


def test_counts_may_be_read_as_they_are():
    from sclm_hf.specialists.sctranssort.processing_sctranssort import ScTransSortProcessor

    cells = labelled_cells()
    processor = ScTransSortProcessor.fit(cells, label_key="cell_type", target_sum=None)
    assert (processor(cells)["expression_values"] == cells.X.toarray()).all()


def test_what_does_not_fit_is_refused(tmp_path):
    cells, folder = labelled_cells(), tmp_path / "x"
    for settings, message in (
        ({"image_size": 4, "patch_size": 2}, r"40 genes make a square of 7 pixels.*take 8 or more"),
        ({"image_size": 20}, r"`image_size` \(20\) must be a multiple of `patch_size` \(8\)"),
        ({"num_attention_heads": 3}, r"`hidden_size` \(16\) must be a multiple"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            sclm_hf.fit("sctranssort", cells, folder, label_key="cell_type", model_config=SIZES | settings)
    model = ScTransSortModel(ScTransSortConfig(**SIZES))
    with pytest.raises(ConfigurationError, match="300 genes make a square of 18 pixels, and the image has 16"):
        model(torch.rand(2, 300))
