"""scMVP: the numbers of the original, training, the verb of two modalities, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.adapters.lora import save_adapter
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError, SclmWarning
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.opening.weights import open_model
from sclm_hf.specialists.scmvp.configuration_scmvp import ScMVPConfig
from sclm_hf.specialists.scmvp.losses_scmvp import unclear_components
from sclm_hf.specialists.scmvp.modeling_scmvp import Mixture
from sclm_hf.specialists.scmvp.processing_scmvp import ScMVPProcessor

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden, paired_cells


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("scmvp", case)
    model = open_golden("scmvp", case, tmp_path)
    rna, atac = torch.from_numpy(recorded["rna"]), torch.from_numpy(recorded["atac"])
    of_rna, of_atac, of_both = model.single_posteriors(rna.log1p(), atac.log1p())
    posteriors = {"q_rna": of_rna, "q_atac": of_atac, "joint2": of_both}
    posteriors["q_library"] = model.library_encoder(rna.log1p())
    for name, posterior in posteriors.items():
        close(posterior.mean, recorded[f"{name}_mean"])
        close(posterior.variance, recorded[f"{name}_var"])
    output = model(rna, atac, return_loss=True)
    close(output.cell_embedding, recorded["q_joint_mean"])
    close(output.variance, recorded["q_joint_var"])
    close(output.components, recorded["gamma_at_mean"])
    close(output.rna_mean, recorded["rna_rate"])
    close(output.atac_mean, recorded["atac_mean"])
    close(output.atac_dropout, recorded["atac_dropout"])
    recorded_losses = np.stack([recorded["full_reconst_loss_no_noise"], recorded["full_kl_no_noise"]], axis=1)
    np.testing.assert_allclose(output.cell_losses.detach(), recorded_losses, rtol=5e-5)
    assert output.loss.item() == pytest.approx(recorded_losses.sum(axis=1).mean(), rel=5e-5)


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_parts_of_the_original(case, tmp_path):
    recorded = golden_arrays("scmvp", case)
    model = open_golden("scmvp", case, tmp_path)
    rna, atac = torch.from_numpy(recorded["rna"]), torch.from_numpy(recorded["atac"])
    latent = torch.from_numpy(recorded["q_joint_mean"])
    components = model.mixture(latent)
    decoder = model.decoder
    decoded = decoder(latent, components, rna.sum(1, keepdim=True), atac.sum(1, keepdim=True))
    close(model.mixture.mean.T[components.argmax(1)], recorded["z_c"])
    close(decoded.rna_scale, recorded["rna_scale"])
    close(decoded.atac_scale, recorded["atac_scale"])
    close(decoder.rna_dispersion(decoded.rna_hidden), recorded["rna_r_from_decoder"])
    close(decoder.rna_dropout(decoded.rna_hidden), recorded["rna_dropout"])
    close(decoder.atac_dispersion(decoded.atac_hidden), recorded["atac_r_from_decoder"])
    np.testing.assert_allclose(model.rna_loss(rna, decoded).detach(), recorded["rec_rna"], rtol=5e-5)
    np.testing.assert_allclose(model.atac_loss(atac, decoded).detach(), recorded["rec_atac"], rtol=5e-5)


class TestScMVP(SpecialistTester):
    name = "scmvp"
    settings = {"most_open": 0.5, "warmup_epochs": 0}
    model_config = {"hidden_size": 16, "latent_size": 4, "num_attention_heads": 4, "num_components": 3}
    training = {"num_train_epochs": 10, "per_device_train_batch_size": 16}

    def cells(self):
        return paired_cells()


def test_an_adapter_that_leaves_out_running_statistics_says_so(folder, tmp_path):
    adapted = peft.get_peft_model(open_model(str(folder), "AutoModel"), peft.LoraConfig(r=2))
    with pytest.warns(SclmWarning, match=r"running statistics of \d+ modules .*`add_lora`, which brings them along"):
        save_adapter(adapted, tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scmvp") / "model"
    TestScMVP().fit(folder)
    return str(folder)


def test_what_the_verb_adds(folder):
    cells = paired_cells()
    found = sclm_hf.multimodal(cells["rna"], cells["atac"], folder, kind="atac")
    record = found.uns["sclm_hf"]["sclm_multimodal"]
    assert found.obsm["sclm_multimodal_joint"].shape == (60, 4)
    assert found.obsm["sclm_multimodal_predicted"].shape == (60, len(record["features"]))
    assert found.obsm["sclm_multimodal_rna"].shape == (60, len(record["genes"]))
    assert np.allclose(found.obsm["sclm_multimodal_components"].sum(axis=1), 1, atol=1e-5)
    assert list(found.obs["sclm_multimodal_component"].cat.categories) == ["0", "1", "2"]
    assert record["method"] == "scMVP" and record["kind"] == "atac"
    assert "sclm_multimodal_joint" not in cells["rna"].obsm


def test_results_depend_on_neither_order_nor_batch(folder):
    cells = paired_cells()
    whole = sclm_hf.multimodal(cells["rna"], cells["atac"], folder).obsm["sclm_multimodal_joint"]
    order = np.random.default_rng(0).permutation(60)
    found = sclm_hf.multimodal(cells["rna"][order[:7]].copy(), cells["atac"][np.sort(order[:7])].copy(), folder)
    np.testing.assert_allclose(found.obsm["sclm_multimodal_joint"], whole[order[:7]], atol=1e-5)


def test_a_mudata_gets_the_same(folder):
    cells = paired_cells()
    # mudata may not be installed
    both = SimpleNamespace(mod=paired_cells(), is_view=False, copy=lambda: SimpleNamespace(mod=paired_cells()))
    found = sclm_hf.multimodal(both, model=folder)
    expected = sclm_hf.multimodal(cells["rna"], cells["atac"], folder)
    assert np.array_equal(found.mod["rna"].obsm["sclm_multimodal_joint"], expected.obsm["sclm_multimodal_joint"])


def test_files(folder, tmp_path):
    from sclm_hf.tasks.files.file_to_file import run_files

    for name, cells in paired_cells().items():
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    run_files("multimodal", tmp_path / "rna.h5ad", tmp_path / "out.h5ad", folder, other=tmp_path / "atac.h5ad")
    import anndata

    cells = paired_cells()
    expected = sclm_hf.multimodal(cells["rna"], cells["atac"], folder)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.array_equal(found.obsm["sclm_multimodal_joint"], expected.obsm["sclm_multimodal_joint"])


def test_commands(tmp_path):
    files = {name: str(tmp_path / f"{name}.h5ad") for name in ("rna", "atac")}
    for name, cells in paired_cells().items():
        cells.write_h5ad(files[name])
    model, out = str(tmp_path / "model"), str(tmp_path / "out.h5ad")
    sizes = [f"{name}={value}" for name, value in TestScMVP.model_config.items()]
    options = [part for size in sizes for part in ("--model-config", size)]
    pair = [f"{name}={file}" for name, file in files.items()]
    more = ["--set", "most_open=0.5", "--epochs", "1", "--training", "use_cpu=true"]
    fitted = CliRunner().invoke(app, ["fit", "scmvp", *pair, "--output", model, *options, *more])
    assert fitted.exit_code == 0, fitted.output
    found = CliRunner().invoke(app, ["multimodal", files["rna"], files["atac"], out, "--model", model])
    assert found.exit_code == 0, found.output
    assert "features with scMVP" in found.output


def test_draws_are_those_of_the_generator(folder):
    loaded = load_specialist(folder)
    batch = loaded.processor(paired_cells(), return_tensors="pt")
    one, two, other = (
        loaded.model(**batch, sample=True, generator=torch.Generator().manual_seed(seed)).rna_mean
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_warm_up_is_there_unless_it_is_switched_off():
    cells = paired_cells()
    for epochs, expected in ((4, [0.25, 0.5, 1.0]), (0, [1.0, 1.0, 1.0])):
        processor = ScMVPProcessor.fit(cells, most_open=0.5, warmup_epochs=epochs)
        make = processor.examples(cells, 0).make
        assert [float(make(np.arange(2), epoch)["kl_weight"]) for epoch in (0, 1, 9)] == expected


def test_components_differ_in_a_wide_latent_but_for_the_published_floor():
    centres = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    latent = centres.T + 0.7
    for has_floor, least in ((False, 0.9), (True, None)):
        mixture = Mixture(ScMVPConfig(num_components=3, has_density_floor=has_floor))
        mixture.mean.data.copy_(centres)
        components = mixture(latent)
        assert torch.isfinite(components.log()).all()
        if least is None:
            assert components.diagonal().max() < 0.5
        else:
            assert components.diagonal().min() > least


def test_cells_that_crowd_are_preferred_only_on_request():
    crowded = torch.tensor([[0.98, 0.02], [0.98, 0.02]])
    spread = torch.tensor([[0.98, 0.02], [0.02, 0.98]])
    sane, published = (
        [float(unclear_components(one, prefer_few=few).mean()) for one in (crowded, spread)] for few in (False, True)
    )
    assert sane[0] > sane[1] and published[0] < published[1]


def test_other_modalities_and_settings_are_refused(folder):
    cells = paired_cells()
    with pytest.raises(ConfigurationError, match="was trained on rna and atac"):
        sclm_hf.multimodal(cells["rna"], cells["atac"], folder, kind="protein")
    with pytest.raises(ConfigurationError, match=r"reads 'atac', and there is 'rna': .*`multimodal RNA ATAC OUTPUT`"):
        sclm_hf.multimodal(cells["rna"], model=folder)
    with pytest.raises(ConfigurationError, match="`n_folds` means nothing for scMVP"):
        sclm_hf.multimodal(cells["rna"], cells["atac"], folder, n_folds=3)
    with pytest.raises(ConfigurationError, match=r"give a MuData.*`rna=FILE atac=FILE`.*`\.h5mu`.*second file"):
        sclm_hf.fit("scmvp", labelled_cells(), "nowhere")
    with pytest.raises(ConfigurationError, match="`warmup_epochs` must be 0 or more, got -1"):
        sclm_hf.fit("scmvp", cells, "nowhere", warmup_epochs=-1)


def test_modalities_of_other_cells_are_refused(folder, tmp_path):
    cells = paired_cells()
    fewer = cells | {"atac": cells["atac"][:50].copy()}
    with pytest.raises(ConfigurationError, match="10 cells of 'rna' and 0 of 'atac' are not in both"):
        sclm_hf.fit("scmvp", fewer, tmp_path / "x")
    renamed = cells["atac"].copy()
    renamed.obs_names = [f"other{number}" for number in range(60)]
    with pytest.raises(ConfigurationError, match="no cell in common"):
        sclm_hf.multimodal(cells["rna"], renamed, folder)
    renamed.obs_names = ["same"] * 60
    with pytest.raises(ConfigurationError, match="have the same name"):
        sclm_hf.multimodal(cells["rna"], renamed, folder)


def test_other_peaks_and_closed_cells_are_refused(folder, tmp_path):
    cells = paired_cells()
    others = cells["atac"].copy()
    others.var_names = [f"chr2-{number}" for number in range(60)]
    with pytest.raises(GeneCoverageError, match="peaks of this model"):
        sclm_hf.multimodal(cells["rna"], others, folder)
    closed = cells["atac"].copy()
    closed.X = closed.X.toarray()
    closed.X[0] = 0
    with pytest.raises(ExpressionError, match="1 of 60 cells have no counts"):
        sclm_hf.multimodal(cells["rna"], closed, folder)
    with pytest.raises(ConfigurationError, match="set `least_open` and `most_open`"):
        sclm_hf.fit("scmvp", cells, tmp_path / "x", most_open=0.001)


def test_a_modality_without_cells_is_refused(tmp_path):
    cells = paired_cells()
    for name in cells:
        with pytest.raises(ConfigurationError, match=f"no cells in '{name}'"):
            sclm_hf.fit("scmvp", cells | {name: cells[name][:0].copy()}, tmp_path / "x")
    assert not (tmp_path / "x").exists()
