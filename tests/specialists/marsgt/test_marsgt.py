"""MarsGT: the numbers of the original, training, verbs, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from sclm_hf.specialists.marsgt.losses_marsgt import distribution_loss, pair_weights

from ..common import close, golden_arrays, open_golden


@pytest.fixture(scope="module")
def recorded():
    return {name: torch.from_numpy(values) for name, values in golden_arrays("marsgt", "case_a").items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return open_golden("marsgt", "case_a", tmp_path_factory.mktemp("golden"))


def run(model, recorded, graph, **labels):
    return model(
        cell_inputs=recorded["rna"].T,
        gene_inputs=recorded["rna"],
        peak_inputs=recorded["atac"],
        edge_index=recorded[f"edge_index_{graph}"],
        edge_type=recorded[f"edge_type_{graph}"],
        **labels,
    )


@pytest.mark.parametrize("graph", ["train", "pred"])
def test_states_of_the_original(graph, original, recorded):
    output = run(original, recorded, graph)
    found = torch.cat([output.cell_embedding, output.gene_embedding, output.peak_embedding])
    close(found, recorded[f"node_rep_{graph}"])
    for number, logits in enumerate(output.attentions):
        close(logits, recorded[f"layer{number}_att_logits_{graph}"])


def test_losses_of_the_original(original, recorded):
    output = run(original, recorded, "train")
    cells, genes, peaks = output.cell_embedding, output.gene_embedding, output.peak_embedding
    rna, atac, potential = (recorded[name] for name in ("rna", "atac", "rp"))
    smoothed = F.cross_entropy(cells, recorded["labels"], label_smoothing=0.1)
    of_rna, of_atac = distribution_loss(genes @ cells.T, rna), distribution_loss(peaks @ cells.T, atac)
    of_pairs = original.pair_loss(cells, genes, peaks, rna, atac, potential)
    parts = {"label_smoothing_ce": smoothed, "kl_rna": of_rna, "kl_atac": of_atac, "kl_pair_misaligned": of_pairs}
    for name, found in parts.items():
        assert found.item() == pytest.approx(recorded[name].item(), rel=5e-5), name
    given = {"expression": rna, "accessibility": atac, "potential": potential}
    whole = run(original, recorded, "train", labels=recorded["labels"], **given).loss
    assert whole.item() == pytest.approx(sum(recorded[name].item() for name in parts), rel=5e-5)


def test_pairs_of_the_original(original, recorded):
    output = run(original, recorded, "train")
    rna, atac, potential = (recorded[name] for name in ("rna", "atac", "rp"))
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(8)).T.flip(0)
    close(original.pair_states(output.gene_embedding, output.peak_embedding, pairs), recorded["pair_net_out"])
    close(pair_weights(rna, atac, torch.ones_like(potential), pairs), recorded["gene_times_peak_pairs"])
    for name in ("aligned", "misaligned"):
        weights = pair_weights(rna, atac, potential, pairs, aligned=name == "aligned")
        close(weights @ output.cell_embedding, recorded[f"pair_target_{name}"])
