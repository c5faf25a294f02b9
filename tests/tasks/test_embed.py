import anndata
import numpy as np
import pytest
import torch

from sclm_hf import ScGPTForSequenceClassification, annotate, embed
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError, SclmWarning
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.perturb import perturb

from .tiny import GENES, collapsed, make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


def test_embedding_is_the_normalised_cell_embedding_of_the_model(checkpoint):
    cells, model, processor = make_cells(), make_model(), make_processor()
    result = embed(cells, checkpoint, device="cpu")
    with torch.no_grad():
        batch = processor(cells, return_tensors="pt")
        expected = torch.nn.functional.normalize(model(**batch).cell_embedding, dim=-1).numpy()
    assert result.obsm["X_scgpt"].dtype == np.float32
    np.testing.assert_allclose(result.obsm["X_scgpt"], expected, atol=1e-5)
    assert "X_scgpt" not in cells.obsm and "sclm_hf" not in cells.uns


def test_embedding_is_left_as_it_is_where_the_config_says_so(tmp_path):
    result = embed(make_cells(), save_checkpoint(tmp_path, normalize_cell_embedding=False), device="cpu")
    assert not np.allclose(np.linalg.norm(result.obsm["X_scgpt"], axis=1), 1, atol=1e-2)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"pooling": "avg-pool"},
        {"pooling": "w-pool"},
        {"domain_norm": "dsbn", "num_batch_labels": 2},
    ],
    ids=["cls", "avg-pool", "w-pool", "dsbn"],
)
def test_a_cell_does_not_depend_on_batch_size_order_or_company(overrides):
    cells = make_cells()
    model, processor = make_model(**overrides), make_processor()
    if overrides.get("domain_norm"):
        model.domain_norm.running_mean.normal_()
    before = model.config.to_dict()
    settings = {"batch_key": "batch"} if "domain_norm" in overrides else {}

    def run(chosen, batch_size):
        return embed(cells[chosen], model, processor, batch_size=batch_size, **settings).obsm["X_scgpt"]

    everyone = np.arange(cells.n_obs)
    reference = run(everyone, 64)
    shuffled = np.random.default_rng(1).permutation(everyone)
    np.testing.assert_allclose(run(everyone, 1), reference, atol=1e-5)
    np.testing.assert_allclose(run(shuffled, 5), reference[shuffled], atol=1e-5)
    np.testing.assert_allclose(run(everyone[7:12], 3), reference[7:12], atol=1e-5)
    assert model.config.to_dict() == before
    assert np.abs(reference - reference[0]).max() > 1e-3


def test_provenance_says_how_and_survives_the_file(checkpoint, tmp_path):
    result = embed(make_cells(), checkpoint, key_added="X_one", batch_size=7, seed=3)
    result = embed(result, checkpoint, key_added="X_two", copy=False)
    result.write_h5ad(tmp_path / "cells.h5ad")
    records = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["sclm_hf"]
    assert set(records) == {"X_one", "X_two"}
    record = records["X_one"]
    assert (record["model"], record["family"], record["dtype"], record["data"]) == (
        checkpoint,
        "scgpt",
        "float32",
        "X",
    )
    assert record["settings"]["seed"] == 3 and record["settings"]["layer"] == ""
    assert record["coverage"]["n_missing"] == 1 and record["coverage"]["examples"]["missing"] == "UNKNOWN1"
    assert {"sclm_hf", "torch", "transformers", "anndata"} <= set(record["versions"])


def test_how_alike_the_embeddings_are_is_recorded_and_does_not_depend_on_batches(checkpoint):
    alike = [
        embed(make_cells(), checkpoint, batch_size=size).uns["sclm_hf"]["X_scgpt"]["collapse"] for size in (3, 64)
    ]
    assert alike[0]["n_cells"] == 23 and 0 < alike[0]["top_variance_share"] < 1
    assert alike[0] == pytest.approx(alike[1], abs=1e-5)


def test_embeddings_of_a_collapsed_model_are_told():
    message = r'`obsm\["X_scgpt"\]` hardly tell cells apart .*cosine between cells 1.000'
    with pytest.warns(SclmWarning, match=message):
        embed(make_cells(60), collapsed(make_model()), make_processor())


def test_copy_false_adds_to_the_cells_themselves(checkpoint):
    cells = make_cells()
    assert embed(cells, checkpoint, copy=False) is cells and "X_scgpt" in cells.obsm


def test_some_genes_can_be_read_of_cells_that_stay_whole(checkpoint, tmp_path):
    cells, names = make_cells(), [*GENES[:40], "UNKNOWN1"]
    expected = embed(cells[:, names].copy(), checkpoint).obsm["X_scgpt"]
    found = embed(cells, checkpoint, genes=names)
    np.testing.assert_allclose(found.obsm["X_scgpt"], expected, atol=1e-5)
    assert found.n_vars == 91 and found.uns["sclm_hf"]["X_scgpt"]["coverage"]["n_genes"] == 41
    cells.write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "genes.txt").write_text("\n".join(names))
    for number, given in enumerate((", ".join(names), str(tmp_path / "genes.txt"))):
        run_files("embed", tmp_path / "in.h5ad", tmp_path / f"{number}.h5ad", checkpoint, genes=given)
        written = anndata.read_h5ad(tmp_path / f"{number}.h5ad")
        np.testing.assert_allclose(written.obsm["X_scgpt"], expected, atol=1e-5)
        assert written.uns["sclm_hf"]["X_scgpt"]["settings"]["genes"] == "; ".join(names)
    with pytest.raises(ConfigurationError, match=r"`genes` \(`--genes`\): 1 of 2 genes are not in `AnnData`"):
        embed(cells, checkpoint, genes=["GENE1", "nowhere"])


def test_training_mode_is_restored(checkpoint):
    model = make_model(hidden_dropout_prob=0.5).train()
    result = embed(make_cells(), model, make_processor())
    assert model.training
    np.testing.assert_array_equal(result.obsm["X_scgpt"], embed(make_cells(), model, make_processor()).obsm["X_scgpt"])


def test_a_fine_tuned_model_embeds_too(tmp_path):
    folder = save_checkpoint(tmp_path, ScGPTForSequenceClassification)
    from_head = embed(make_cells(), make_model(ScGPTForSequenceClassification), make_processor())
    np.testing.assert_allclose(embed(make_cells(), folder).obsm["X_scgpt"], from_head.obsm["X_scgpt"], atol=1e-5)


def test_bfloat16_is_close(checkpoint):
    full, half = (embed(make_cells(), checkpoint, dtype=dtype).obsm["X_scgpt"] for dtype in ("float32", "bfloat16"))
    assert half.dtype == np.float32 and 0 < np.abs(full - half).max() < 0.1


def test_what_is_random_about_a_cell_follows_the_seed():
    model, processor = make_model(), make_processor(max_length=10)
    first, again, other = (embed(make_cells(), model, processor, seed=seed).obsm["X_scgpt"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_bad_cells_are_refused_before_the_model_runs(checkpoint):
    model, processor = make_model(), make_processor()
    model.forward = None
    silent = make_cells()
    silent.X = silent.X.toarray()
    silent.X[3] = 0
    with pytest.raises(ExpressionError, match="no expressed gene"):
        embed(silent, model, processor)
    fractional = make_cells()
    fractional.X = fractional.X * 0.37
    with pytest.raises(ExpressionError, match="expects counts"):
        embed(fractional, model, processor)
    strangers = make_cells()
    strangers.var_names = [f"STRANGE{number}" for number in range(91)]
    with pytest.raises(GeneCoverageError):
        embed(strangers, model, processor)
    with pytest.raises(ExpressionError, match="no cells"):
        embed(make_cells()[:0], model, processor)


def test_batch_labels_are_asked_for_and_checked():
    model, processor = make_model(domain_norm="dsbn", num_batch_labels=2), make_processor()
    cells = make_cells()
    with pytest.raises(ConfigurationError, match="trained with 2 batch labels"):
        embed(cells, model, processor)
    cells.obs["donor"] = ["a", "b"] * 11 + ["a"]
    with pytest.raises(ConfigurationError, match="whole numbers from 0 to 1"):
        embed(cells, model, processor, batch_key="donor")
    with pytest.raises(ConfigurationError, match="without batch labels"):
        embed(cells, make_model(), processor, batch_key="batch")


@pytest.mark.parametrize("run", [embed, annotate])
def test_a_foreign_record_is_refused_before_a_model_is_loaded(run):
    cells = make_cells()
    cells.uns["sclm_hf"] = "mine"
    with pytest.raises(ConfigurationError, match=r'`uns\["sclm_hf"\]` must be a mapping of records, got str'):
        run(cells, "never looked at")


def test_batches_are_named_where_the_model_knows_their_names():
    model, processor = make_model(domain_norm="dsbn", num_batch_labels=2), make_processor()
    model.domain_norm.running_mean.normal_()
    cells = make_cells()
    by_number = embed(cells, model, processor, batch_key="batch").obsm["X_scgpt"]
    model.config.batch_names = ["left", "right"]
    cells.obs["donor"] = [("left", "right")[number] for number in cells.obs["batch"]]
    for kind in ("object", "category"):
        cells.obs["donor"] = cells.obs["donor"].astype(kind)
        np.testing.assert_array_equal(embed(cells, model, processor, batch_key="donor").obsm["X_scgpt"], by_number)
    with pytest.raises(ConfigurationError, match=r"column of `obs` that holds their names, got None"):
        embed(cells, model, processor)
    with pytest.raises(
        ConfigurationError, match=r"holds \['0', '1'\]: expected names of the 2 batches .*'left', 'rig"
    ):
        embed(cells, model, processor, batch_key="batch")
    with pytest.raises(ExpressionError, match="no cells"):
        embed(cells[:0], model, processor, batch_key="donor")


@pytest.mark.parametrize("key", ["", ".", "X/scgpt", 5])
def test_a_key_that_no_file_can_hold_is_refused_before_anything_is_read(key):
    with pytest.raises(ConfigurationError, match=r"`key_added` \(`--key`\) must be a name without `/`"):
        embed(make_cells(), "no folder", key_added=key)


@pytest.mark.parametrize("task", [embed, annotate, perturb])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"`batch_size` \(`--batch-size`\) must be at least 1 and a whole number, got 0"),
        ({"batch_size": 2.5}, r"`batch_size` \(`--batch-size`\) must be at least 1 and a whole number, got 2.5"),
        ({"batch_size": "64"}, r"`batch_size` \(`--batch-size`\) must be at least 1 and a whole number, got '64'"),
        ({"seed": None}, r"`seed` \(`--seed`\) must be a whole number, got None"),
    ],
)
def test_settings_are_checked_before_a_model_is_loaded(task, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        task(make_cells(), "no folder", **settings)


@pytest.mark.parametrize("task", [embed, annotate, perturb])
@pytest.mark.parametrize("cells", ["cells.h5ad", make_cells().to_df(), make_cells().X])
def test_what_is_no_anndata_is_refused_before_a_model_is_loaded(task, cells):
    with pytest.raises(ConfigurationError, match=rf"must be an AnnData, got {type(cells).__name__}.*read_h5ad"):
        task(cells, "no folder")
