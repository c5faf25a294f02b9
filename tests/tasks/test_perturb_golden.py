"""In-silico perturbation against what Geneformer's own code wrote (`isp.json`), through the public door.

Cells come as counts that the rank encoding turns into the recorded token lists. Of effects on single genes our result
holds means and numbers of cells, and these are compared. Of one run nothing is recorded: in `over_absent` of V1 the
original stops with an error of shapes; ours gives the numbers that the definition gives.
"""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneformerModel, GeneTokenizer, perturb
from sclm_hf.modeling.common.legacy import read_pickle
from sclm_hf.tasks.perturb import States

GOLDEN = Path(__file__).parents[1] / "golden" / "geneformer"
SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


class Case:
    """A recorded case: cells, model, processor and the runs of the original."""

    def __init__(self, name):
        folder = GOLDEN / name
        self.tokens = read_pickle(folder / "token_dictionary.pkl")
        self.gene_of = {token: gene for gene, token in self.tokens.items()}
        self.runs = json.loads((folder / "isp.json").read_text())
        recorded = json.loads((folder / "cells.json").read_text())
        self.special = "<cls>" in self.tokens
        self.ids = recorded["input_ids"]
        self.states = recorded["state"]
        self.model = GeneformerModel.from_pretrained(folder / "model", has_special_tokens=self.special)
        with np.load(folder / "io.npz") as arrays:
            self.state_embeddings = {f"s{number}": arrays[f"state_emb_s{number}"] for number in range(3)}
        tokenizer = GeneTokenizer.from_genes(self.tokens, special_tokens=[t for t in SPECIAL if t in self.tokens])
        length = self.model.config.max_position_embeddings
        settings = {"max_length": length, "add_cls": self.special, "add_eos": self.special}
        self.processor = CellProcessor(ExpressionFeatureExtractor.for_family("geneformer", **settings), tokenizer)

    def cells(self):
        genes = [gene for gene in self.tokens if gene not in SPECIAL]
        counts = np.zeros((len(self.ids), len(genes)), np.float32)
        for row, ids in zip(counts, self.ids, strict=True):
            ranked = [genes.index(self.gene_of[token]) for token in ids if self.gene_of[token] not in SPECIAL]
            row[ranked] = np.arange(len(ranked), 0, -1)
        obs = pd.DataFrame({"state": self.states}, index=[str(number) for number in range(len(self.ids))])
        return anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))

    def run(self, name):
        """Our result for a recorded run."""
        arguments = dict(self.runs[name]["args"])
        settings = {"mode": arguments["perturb_type"], "gene_effects": arguments["emb_mode"].endswith("_and_gene")}
        if "max_ncells" in arguments:
            settings |= {"max_cells": arguments["max_ncells"], "seed": 42}
        genes = arguments["genes_to_perturb"]
        settings["genes"] = genes if genes == "all" else {"together": genes}
        settings["anchor"] = arguments.get("anchor_gene")
        if modelled := arguments.get("cell_states_to_model"):
            ends = modelled["start_state"], modelled["goal_state"], tuple(modelled["alt_states"])
            settings["states"] = States(modelled["state_key"], *ends, embeddings=self.state_embeddings)
        self.model.config.cell_embedding_layer = arguments["emb_layer"] - 1
        return perturb(self.cells(), self.model, self.processor, **settings)

    def recorded(self, name, kind, state=None):
        """(tokens, what was measured) -> values of the cells, the longest cell first."""
        merged = {}
        for file, content in self.runs[name]["files"].items():
            if kind in file:
                for (perturbed, measured), values in content if state is None else content[state]:
                    key = (tuple(np.atleast_1d(perturbed).tolist()), measured)
                    merged.setdefault(key, []).extend(values)
        return merged


@pytest.fixture(scope="module")
def cases():
    return {name: Case(name) for name in ("case_a", "case_b")}


def run_names():
    return [
        pytest.param(case, name, id=f"{case}-{name}")
        for case in ("case_a", "case_b")
        for name, run in json.loads((GOLDEN / case / "isp.json").read_text()).items()
        if "raises" not in run
    ]


def by_tokens(case, result, matrix, anchor):
    """Tokens of the perturbation (the anchor left out, as the original does) -> values, the longest cell first."""
    order = np.argsort([-len(case.ids[int(name)]) for name in result.obs_names], kind="stable")
    values = {}
    for number, genes in enumerate(result.var["genes"]):
        tokens = tuple(case.tokens[gene] for gene in genes.split("; ") if gene != anchor)
        column = np.asarray(matrix)[order, number]
        values[tokens] = column[~np.isnan(column)]
    return values


@pytest.mark.parametrize(("case", "name"), run_names())
def test_recorded_runs(cases, case, name):
    case = cases[case]
    result = case.run(name)
    anchor = case.runs[name]["args"].get("anchor_gene")
    with_states = "cell_states_to_model" in case.runs[name]["args"]
    for state in ("s0", "s1", "s2") if with_states else (None,):
        theirs = case.recorded(name, "cell_embs", state)
        ours = by_tokens(case, result, result.layers[f"shift_{state}"] if with_states else result.X, anchor)
        assert ours.keys() == {tokens for tokens, _ in theirs}
        for (tokens, measured), values in theirs.items():
            assert measured == "cell_emb"
            np.testing.assert_allclose(ours[tokens], values, atol=1e-5, rtol=0)
    if "gene_effects" in result.uns:
        theirs = case.recorded(name, "gene_embs")
        effects = result.uns["gene_effects"]
        tokens_of = dict(result.var["genes"])
        ours = {
            (tuple(case.tokens[one] for one in tokens_of[row.perturbation].split("; ")), case.tokens[row.gene]): row
            for row in effects.itertuples()
        }
        assert ours.keys() == theirs.keys()
        for key, values in theirs.items():
            assert ours[key].n_cells == len(values)
            np.testing.assert_allclose(ours[key].similarity, np.mean(values), atol=1e-5, rtol=0)


def test_the_run_that_the_original_stops_in(cases):
    """A gene that some cells lack and a full cell has: the mean similarity of the other genes."""
    case = cases["case_a"]
    assert "must match the size" in case.runs["over_absent"]["raises"]
    stopped = [name for one in cases.values() for name, run in one.runs.items() if "raises" in run]
    assert stopped == ["over_absent"]
    result = case.run("over_absent")
    gene = case.tokens[case.runs["over_absent"]["args"]["genes_to_perturb"][0]]
    length = case.model.config.max_position_embeddings
    cells = {cell: case.ids[int(cell)] for cell in result.obs_names}
    assert len(cells) == 6 and {gene in ids for ids in cells.values()} == {True, False}
    assert max(map(len, cells.values())) == length
    for (cell, ids), similarity in zip(cells.items(), result.X[:, 0], strict=True):
        others = [token for token in ids if token != gene]
        assert len(others) < length, f"cell {cell} would lose genes"
        after, before = (
            case.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-2][0]
            for tokens in ([gene, *others], ids)
        )
        before = before[torch.tensor(ids) != gene]
        assert similarity == pytest.approx(torch.cosine_similarity(after[1:], before, dim=-1).mean().item(), abs=1e-5)
