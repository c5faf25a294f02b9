"""DeepMAPS: the numbers of the original, training, verbs, and what it refuses."""

import pytest
import torch

from ..common import close, golden_arrays, open_golden


@pytest.mark.parametrize("graph", ["train", "infer"])
@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, graph, tmp_path):
    recorded = {name: torch.from_numpy(values) for name, values in golden_arrays("deepmaps", case).items()}
    model = open_golden("deepmaps", case, tmp_path)
    values = recorded["adjacency"]
    genes, cells = values, values.T
    if case == "case_a":
        genes, cells = recorded["node_feature"].split(list(values.shape))
    output = model(
        cell_inputs=cells,
        gene_inputs=genes,
        edge_index=recorded[f"edge_index_{graph}"],
        edge_type=recorded[f"edge_type_{graph}"],
        labels=values,
    )
    close(torch.cat([output.gene_embedding, output.cell_embedding]), recorded[f"node_rep_{graph}"])
    for number, logits in enumerate(output.attentions):
        close(logits, recorded[f"layer{number}_att_logits_{graph}"])
    # the code of codes gives the first layer's, that of raw inputs the last one's
    close(output.attentions[0 if case == "case_a" else -1], recorded[f"att_logits_{graph}"])
    assert output.loss.item() == pytest.approx(recorded[f"kl_{graph}"].item(), rel=5e-5)
    if case == "case_b":
        close(output.decoded_genes, recorded[f"decoded_gene_{graph}"])
        close(output.decoded_cells, recorded[f"decoded_cell_{graph}"])
