import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import sclm_hf
from sclm_hf import (
    FAMILIES,
    CellProcessor,
    ExpressionFeatureExtractor,
    GeneformerConfig,
    GeneformerModel,
    GeneTokenizer,
    embed,
    perturb,
)
from sclm_hf.errors import ConfigurationError, GeneCoverageError, SclmWarning
from sclm_hf.opening.loading import load_model
from sclm_hf.tasks.perturb import States
from sclm_hf.tasks.perturbation.cells import TokenCells
from sclm_hf.tasks.perturbation.shift_tests import compare_shifts
from sclm_hf.tasks.perturbation.tokens import TokenCell, perturb_cell
from sclm_hf.tasks.running.prepared_cells import prepare_cells

from .tiny import GENES, make_cells, make_model, make_processor

SPECIAL = np.array([0, 1, 2, 3])


def edited(ids, tokens, mode, max_length=99, values=None):
    values = None if values is None else np.array(values, np.float32)
    return perturb_cell(TokenCell(np.array(ids), values), tokens, mode, SPECIAL, max_length)


@pytest.mark.parametrize(
    ("ids", "tokens", "mode", "max_length", "expected", "reference"),
    [
        ([2, 7, 8, 9, 3], (8,), "delete", 5, [2, 7, 9, 3], [2, 7, 8, 9, 3]),
        ([7, 8, 9], (9, 7), "delete", 3, [8], [7, 8, 9]),
        ([2, 7, 8, 9, 3], (9,), "overexpress", 5, [2, 9, 7, 8, 3], [2, 7, 8, 9, 3]),
        ([7, 8, 9], (9, 5), "overexpress", 9, [9, 5, 7, 8], [7, 8, 9]),
        ([7, 8, 9], (5,), "overexpress", 3, [5, 7, 8], [7, 8]),
        ([2, 7, 8, 9, 3], (5, 6), "overexpress", 5, [2, 5, 6, 7, 3], [2, 7, 3]),
        ([2, 7, 8, 9, 3], (9, 5), "overexpress", 5, [2, 9, 5, 7, 3], [2, 7, 9, 3]),
    ],
)
def test_token_lists(ids, tokens, mode, max_length, expected, reference):
    one = edited(ids, tokens, mode, max_length)
    assert one.cell.ids.tolist() == expected
    assert one.reference.ids.tolist() == reference
    compared = one.cell.ids[one.positions]
    assert compared.tolist() == one.reference.ids[one.reference_positions].tolist()
    assert set(compared.tolist()) == set(expected) - set(tokens) - set(SPECIAL.tolist())


def test_values_of_over_expressed_genes_are_the_highest():
    one = edited([2, 7, 8, 9], (9, 5), "overexpress", values=[-2, 4, 1, 2])
    assert dict(zip(one.cell.ids.tolist(), one.cell.values.tolist(), strict=True)) == {2: -2, 9: 4, 5: 4, 7: 4, 8: 1}
    one = edited([2, 7, 8], (7,), "delete", values=[-2, 4, 1])
    assert (one.cell.ids.tolist(), one.cell.values.tolist()) == ([2, 8], [-2, 1])


def geneformer():
    torch.manual_seed(0)
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"))
    sizes = {"vocab_size": tokenizer.gene_vocabulary.size, "max_position_embeddings": 48, **BERT}
    config = GeneformerConfig(initializer_range=0.3, **sizes)
    extractor = ExpressionFeatureExtractor.for_family("geneformer", max_length=48)
    return GeneformerModel(config), CellProcessor(extractor, tokenizer)


def ranked(family, **sizes):
    """A model and a processor of a family that reads ranks, as published but for the sizes."""
    torch.manual_seed(0)
    known = FAMILIES[family]
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=known.special_tokens)
    sizes |= {"vocab_size": tokenizer.gene_vocabulary.size, "initializer_range": 0.3}
    model_class, config_class = (getattr(sclm_hf, name) for name in (known.auto_classes["AutoModel"], known.config))
    extractor = ExpressionFeatureExtractor.for_family(family)
    return model_class(config_class(**sizes)), CellProcessor(extractor, tokenizer)


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
MODELS = {
    "geneformer": geneformer,
    "iseeek": lambda: ranked("iseeek", **BERT, max_position_embeddings=128),
    "scgpt": lambda: (make_model(), make_processor()),
    "tgpt": lambda: ranked("tgpt", n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=64),
}


@pytest.mark.filterwarnings("ignore:.*perturbations were not run")
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("mode", ["delete", "overexpress"])
def test_result_does_not_depend_on_batches_and_other_cells(family, mode):
    cells, (model, processor) = make_cells(), MODELS[family]()
    how = {"genes": GENES[:3], "mode": mode, "gene_effects": True}
    result = perturb(cells, model, processor, batch_size=64, **how)
    assert result.var_names.tolist() == GENES[:3] == result.var["genes"].tolist()
    np.testing.assert_allclose(
        result.X, perturb(cells, model, processor, batch_size=2, **how)[result.obs_names].X, atol=1e-5
    )
    alone = perturb(cells[result.obs_names[:2]], model, processor, **how)
    np.testing.assert_allclose(alone.X, result[alone.obs_names, alone.var_names].X, atol=1e-5)
    assert result.uns["sclm_hf"]["perturb"]["settings"]["mode"] == mode
    n_run = (~np.isnan(result.X)).sum(axis=0)
    assert result.var["n_cells"].tolist() == n_run.tolist()
    if mode == "overexpress":
        assert n_run.tolist() == [cells.n_obs] * 3
    effects = result.uns["gene_effects"]
    assert not (effects["perturbation"] == effects["gene"]).any()
    assert effects["n_cells"].max() <= n_run.max()


def test_deletion_equals_embedding_a_cell_without_the_gene():
    cells, (model, processor) = make_cells(), geneformer()
    # short cells, of which nothing is cut off
    cells = cells[np.asarray((cells.X > 0).sum(axis=1)).ravel() < 30].copy()
    result = perturb(cells, model, processor, genes=["GENE0"])
    without = cells[result.obs_names].copy()
    dense = without.X.toarray()
    dense[:, without.var_names.get_loc("GENE0")] = 0
    without.X = dense
    before = embed(cells[result.obs_names], model, processor).obsm["X_geneformer"]
    after = embed(without, model, processor).obsm["X_geneformer"]
    expected = torch.cosine_similarity(torch.tensor(before), torch.tensor(after))
    np.testing.assert_allclose(result.X[:, 0], expected, atol=1e-5)


def test_a_model_trained_with_batches_is_told_the_batch_of_each_cell():
    model, processor = make_model(domain_norm="dsbn", num_batch_labels=2), make_processor()
    model.domain_norm.running_mean.normal_()
    cells = make_cells()
    with pytest.raises(ConfigurationError, match=r"`batch_key` \(`--batch-key`\)"):
        perturb(cells, model, processor, genes=["GENE0"])
    result = perturb(cells, model, processor, genes=["GENE0"], batch_key="batch")
    assert result.uns["sclm_hf"]["perturb"]["settings"]["batch_key"] == "batch"
    for batch in (0, 1):
        alone = perturb(cells[cells.obs["batch"] == batch], model, processor, genes=["GENE0"], batch_key="batch")
        np.testing.assert_allclose(alone.X, result[alone.obs_names].X, atol=1e-5)
    swapped = cells.copy()
    swapped.obs["batch"] = 1 - swapped.obs["batch"]
    other = perturb(swapped, model, processor, genes=["GENE0"], batch_key="batch")
    assert np.abs(other.X - result.X).max() > 1e-4


def test_all_genes_combinations_groups_and_anchors():
    cells, (model, processor) = make_cells(6), geneformer()
    everything = perturb(cells, model, processor, max_cells=2)
    assert everything.n_obs == 2
    held = (cells[everything.obs_names, everything.var_names].X > 0).toarray()
    assert not (~np.isnan(everything.X) & ~held).any()
    assert everything.n_vars == len([g for g in GENES if g in everything.var_names]) > 10

    pairs = perturb(cells, model, processor, genes=GENES[:3], combine=2, mode="overexpress")
    assert pairs.var_names.tolist() == ["GENE0+GENE1", "GENE0+GENE2", "GENE1+GENE2"]
    groups = perturb(cells, model, processor, genes={"a pair": ["GENE1", "GENE0"]}, mode="delete")
    assert groups.var.loc["a pair", "genes"] == "GENE1; GENE0"
    anchored = perturb(cells, model, processor, anchor="GENE0", genes=["GENE1"], mode="delete")
    np.testing.assert_allclose(anchored[groups.obs_names].X, groups.X, atol=1e-6)
    assert anchored.var_names.tolist() == ["GENE0+GENE1"]
    with_all = perturb(cells, model, processor, anchor="GENE0", mode="delete")
    assert "GENE0+GENE0" not in with_all.var_names
    # of all genes, only those among a cell's tokens are perturbed
    some = with_all[anchored.obs_names, "GENE0+GENE1"].X
    np.testing.assert_allclose(some[~np.isnan(some)], anchored.X[~np.isnan(some)], atol=1e-6)
    assert with_all.var.loc["GENE0+GENE1", ["n_cells", "n_expressing"]].tolist() == [3, 4]


ZSCORE = {
    "truncation": "zscore",
    "gene_means": {name: number % 7 / 4 for number, name in enumerate(GENES)},
    "gene_deviations": {name: 0.05 + number % 5 / 3 for number, name in enumerate(GENES)},
}


def short_reader(family, max_length, **parameters):
    """A model, and a processor that reads few genes of a cell."""
    model, processor = MODELS[family]()
    extractor = ExpressionFeatureExtractor.for_family(family, max_length=max_length, **parameters)
    return model, CellProcessor(extractor, processor.tokenizer)


def token_cells(cells, model, processor):
    loaded = load_model(model, "AutoModel", processor=processor)
    return TokenCells(loaded, prepare_cells(cells, loaded), 0, None)


def stated_cells():
    cells = make_cells()
    cells.obs["state"] = pd.Categorical(["ill", "well", "other"] * 7 + ["ill", "well"])
    return cells


def test_shifts_towards_states(tmp_path):
    cells, (model, processor) = stated_cells(), geneformer()
    states = States("state", "ill", "well", ("other",))
    result = perturb(cells, model, processor, genes=GENES[:11], mode="overexpress", states=states)
    assert (result.obs["state"] == "ill").all() and result.n_obs == 8
    embedding = embed(cells, model, processor).obsm["X_geneformer"]
    means = {name: embedding[(cells.obs["state"] == name).to_numpy()].mean(0) for name in states.names}
    given = States("state", "ill", "well", ("other",), embeddings=means)
    again = perturb(cells, model, processor, genes=GENES[:11], mode="overexpress", states=given)
    for name in ("shift_ill", "shift_well", "shift_other"):
        np.testing.assert_allclose(result.layers[name], again.layers[name], atol=1e-6)
        np.testing.assert_allclose(result.var[name], result.layers[name].mean(axis=0), atol=1e-6)
    assert ((result.var["p_value"] >= 0) & (result.var["p_value"] <= result.var["fdr"])).all()
    few = perturb(cells, model, processor, genes=GENES[:10], mode="overexpress", states=given)
    assert few.var["p_value"].isna().all() and few.uns["sclm_hf"]["perturb"]["test"]["n_tested"] == 0
    np.testing.assert_allclose(few.var["shift_well"], result.var["shift_well"].iloc[:10], atol=1e-6)
    result.write_h5ad(tmp_path / "result.h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "result.h5ad").X, result.X)


def test_shifts_of_donors_are_tested_by_the_donor():
    cells, (model, processor) = stated_cells(), geneformer()
    cells.obs["donor"] = [f"donor {number % 4}" for number in range(cells.n_obs)]
    how = {"genes": GENES[:12], "mode": "overexpress", "states": States("state", "ill", "well")}
    result = perturb(cells, model, processor, donor_key="donor", **how)
    assert (result.var["n_cells"] == 8).all() and (result.var["n_units"] == 4).all()
    means = result.to_df("shift_well").groupby(result.obs["donor"].to_numpy()).mean().to_numpy()
    np.testing.assert_allclose(result.var["p_value"], compare_shifts(means).p_values, rtol=1e-5)
    assert "obs['donor']" in result.uns["sclm_hf"]["perturb"]["test"]["unit"]


@pytest.mark.parametrize(("family", "parameters"), [("scgpt", {}), ("scgpt", ZSCORE), ("geneformer", {})])
def test_a_named_gene_is_deleted_in_all_cells_that_express_it(family, parameters):
    cells, (model, short) = make_cells(), short_reader(family, 12, **parameters)
    for names in (["GENE7"], ["GENE7", "GENE3", "GENE50"]):
        result = perturb(cells, model, short, genes=names)
        expressing = (cells[:, names].X > 0).toarray().sum(axis=0)
        assert result.var["n_cells"].tolist() == result.var["n_expressing"].tolist() == expressing.tolist()
    alone = perturb(cells[result.obs_names[:3]], model, short, genes=["GENE7"], batch_size=1)
    np.testing.assert_allclose(alone.X, result[alone.obs_names, "GENE7"].X, atol=1e-5)
    everything = perturb(cells, model, short)
    assert (everything.var["n_cells"] <= everything.var["n_expressing"]).all()
    expressing = (cells[:, everything.var_names].X > 0).toarray().sum(axis=0)
    assert everything.var["n_expressing"].tolist() == expressing.tolist() != everything.var["n_cells"].tolist()
    names = [name for name in names if name in everything.var_names]
    held = ~np.isnan(everything[result.obs_names, names].X)
    np.testing.assert_allclose(everything[result.obs_names, names].X[held], result[:, names].X[held], atol=1e-5)


def test_named_perturbations_that_no_cell_allows_are_told():
    cells, (model, processor) = make_cells(), MODELS["scgpt"]()
    cells.X = cells.X.toarray() * (np.arange(91) != 8)
    with pytest.warns(SclmWarning, match="1 of 2 perturbations were not run.*GENE8"):
        result = perturb(cells, model, processor, genes=["GENE7", "GENE8"])
    assert result.var_names.tolist() == ["GENE7"]


@pytest.mark.parametrize(("family", "parameters"), [("scgpt", {}), ("scgpt", ZSCORE), ("geneformer", {})])
def test_a_gene_that_is_put_back_takes_the_place_of_the_next_to_be_left_out(family, parameters):
    cells, (model, processor) = make_cells(), short_reader(family, 12, **parameters)
    _, shorter = short_reader(family, 11, **parameters)
    tokens, fewer = (token_cells(cells, model, one) for one in (processor, shorter))
    gene = processor.tokenizer.gene_vocabulary["GENE7"]
    put_back = [number for number in tokens.kept if tokens.lacks(number, (gene,))]
    assert put_back
    for number in put_back:
        held, expected = tokens.holding(number, (gene,)), {*fewer.kept[number].ids.tolist(), gene}
        assert set(held.ids.tolist()) == expected and held.ids.size == 12
        assert not np.isin(held.ids[-1], SPECIAL) or held.ids[-2] == gene


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mode": "inhibit"}, ConfigurationError, "delete, overexpress"),
        ({"genes": "GENE1"}, ConfigurationError, r"\['GENE1'\]"),
        ({"genes": []}, ConfigurationError, "empty"),
        ({"genes": ["GENE1"], "combine": 2}, ConfigurationError, "combine=2"),
        ({"combine": 2}, ConfigurationError, "combine=2"),
        ({"similarity": "euclid"}, ConfigurationError, "similarity"),
        (
            {"genes": ["NOGENE"]},
            GeneCoverageError,
            "`--gene`.* 'NOGENE' is neither in the data nor known to the model",
        ),
        ({"genes": ["UNKNOWN1"]}, GeneCoverageError, "'UNKNOWN1' is in the data but not read by the model"),
        ({"genes": ["GENE1"], "anchor": "GENE1"}, ConfigurationError, "twice"),
        ({"genes": {"all of them": GENES}}, ConfigurationError, r"nothing can be run\. Name genes .*`--gene`"),
        ({"states": States("stat", "ill", "well")}, ConfigurationError, "no column 'stat'"),
        ({"states": States("state", "ill", "cured")}, ConfigurationError, "no cell of the state 'cured'"),
        ({"states": States("state", "ill", "ill")}, ConfigurationError, "must differ"),
        ({"donor_key": "donr"}, ConfigurationError, "no column 'donr'"),
        ({"states": States("state", "ill", "well"), "donor_key": "donr"}, ConfigurationError, "no column 'donr'"),
        ({"states": States("state", "ill", "well"), "donor_key": "gap"}, ConfigurationError, "1 of 23 cells have no"),
        (
            {"states": States("state", "ill", "well", embeddings={"ill": np.ones(32)})},
            ConfigurationError,
            "lacks well",
        ),
        (
            {"genes": ["GENE1", "GENE2", "GENE1"]},
            ConfigurationError,
            "names one gene twice",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        cells = stated_cells()
        cells.obs["gap"] = [None, *"a" * 22]
        perturb(cells, *geneformer(), **settings)


def test_a_gene_that_the_model_knows_and_the_data_lack_is_told():
    cells = stated_cells()
    cells = cells[:, cells.var_names != "GENE1"].copy()
    with pytest.raises(ConfigurationError, match=r"nothing can be run\. 'GENE1' is not in the data\..*overexpress"):
        perturb(cells, *geneformer(), genes=["GENE1"])


def test_families_that_cannot_serve_it_are_named(monkeypatch):
    unable = dataclasses.replace(FAMILIES["scgpt"], special_verbs=())
    monkeypatch.setitem(FAMILIES, "scgpt", unable)
    with pytest.raises(ConfigurationError, match=r"scGPT cannot be perturbed.*geneformer"):
        perturb(make_cells(), make_model(), make_processor())
