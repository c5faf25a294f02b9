import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

from sclm_hf.errors import CheckpointError, MissingFileError
from sclm_hf.modeling.cellplm.convert_cellplm import convert_checkpoint

from .golden_cellplm import ANNOTATION, CASES, PRETRAINED, case_folder, case_settings, golden_names

WEIGHTS, SETTINGS = "model.best.ckpt", "model.config.json"


@pytest.fixture
def release(tmp_path):
    """A release that may be altered."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in (WEIGHTS, SETTINGS):
        shutil.copy(case_folder("case_b") / name, folder)
    return folder


def alter_settings(folder, **changes) -> None:
    settings = json.loads((folder / SETTINGS).read_text()) | changes
    (folder / SETTINGS).write_text(json.dumps(settings))


def alter_weights(folder, change) -> None:
    content = torch.load(folder / WEIGHTS, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, folder / WEIGHTS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prefix", [PRETRAINED, ANNOTATION])
def test_every_tensor_is_accounted_for(case, prefix, tmp_path):
    report = convert_checkpoint(case_folder(case) / f"{prefix}.config.json", tmp_path / "out")
    original = torch.load(case_folder(case) / f"{prefix}.best.ckpt", weights_only=True)["model_state_dict"]
    assert report.renamed.keys() | report.dropped.keys() == original.keys()
    assert all(name.startswith(("embedder.norm0.", "embedder.pe_enc.")) for name in report.dropped)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as saved:
        kept = sum(saved.get_tensor(name).numel() for name in saved.keys() if "warm_up" not in name)  # noqa: SIM118
    assert kept == sum(tensor.numel() for name, tensor in original.items() if name not in report.dropped)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    settings = case_settings(case, prefix)
    assert config.latent_type == settings["latent_mod"] and config.vocab_size == len(settings["gene_list"])
    assert AutoModel.from_pretrained(tmp_path / "out").config.cell_embedding_size == settings["post_latent_dim"]


def test_a_folder_with_one_release_and_its_genes(release, tmp_path):
    convert_checkpoint(release, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.convert_ids_to_tokens(range(250)) == case_settings("case_b")["gene_list"]
    assert set(golden_names("case_b", "subset_genes")) <= set(processor.tokenizer.gene_vocabulary)
    assert processor.context == "sample"


def test_a_model_for_imputation(release, tmp_path):
    alter_settings(release, objective="imputation")
    report = convert_checkpoint(release, tmp_path / "out")
    assert report.architecture == "CellPLMForImputation"
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "out").config.decoder_type == "nbmlp"


@pytest.mark.parametrize("setting", ["cat_pe", "input_covariate", "dsbn", "dar", "ecs"])
def test_what_no_release_has_is_refused(release, tmp_path, setting):
    alter_settings(release, **{setting: True})
    with pytest.raises(CheckpointError, match=setting):
        convert_checkpoint(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_type": "clairvoyance"}, "head `clairvoyance`"),
        ({"enc_mod": "mamba"}, "mamba"),
        ({"enc_hid": "wide"}, "damaged or of another kind"),
        ({"gene_list": ["A", "B"]}, "wrongly shaped"),
        ({"enc_layers": 2}, "left over"),
    ],
)
def test_settings_that_do_not_fit_are_refused(release, tmp_path, changes, message):
    alter_settings(release, **changes)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(release, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("decoder.out_layer.dec_disp"), "missing: decoder.dispersion"),
        (lambda tensors: tensors.update(surprise=torch.ones(1)), "surprise"),
        (lambda tensors: tensors.update({"pre_latent_norm.norm.bias": torch.ones(2)}), "wrongly shaped: model.norm"),
    ],
)
def test_weights_that_do_not_fit_are_refused(release, tmp_path, change, message):
    alter_weights(release, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(release, tmp_path / "out")
    assert WEIGHTS in str(caught.value)


def test_missing_files_are_named(release, tmp_path):
    (release / WEIGHTS).rename(release / "elsewhere")
    with pytest.raises(CheckpointError, match=WEIGHTS):
        convert_checkpoint(release, tmp_path / "out")
    with pytest.raises(MissingFileError, match=r"<prefix>.config.json"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "out")
    shutil.copy(release / SETTINGS, release / "other.config.json")
    with pytest.raises(MissingFileError, match=r"found: model.config.json, other.config.json"):
        convert_checkpoint(release, tmp_path / "out")


def test_a_flat_state_dict_is_no_release(release, tmp_path):
    torch.save({"a": torch.ones(1)}, release / WEIGHTS)
    with pytest.raises(CheckpointError, match="model_state_dict"):
        convert_checkpoint(release, tmp_path / "out")
