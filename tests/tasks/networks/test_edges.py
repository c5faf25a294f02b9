"""Tables of edges, and the programs in them."""

import numpy as np
import pandas as pd
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.networks.edges import edge_table, gene_programs, signs_of
from sclm_hf.tasks.networks.genes import NetworkGenes


def two_cliques():
    """Genes a to d and e to g, each among themselves, and one weak edge between."""
    cliques = ["abcd", "efg"]
    pairs = [(one, other, 1.0) for names in cliques for one in names for other in names if one < other]
    return pd.DataFrame([*pairs, ("a", "e", 0.1), ("b", "f", -3)], columns=["regulator", "target", "score"])


def test_programs_are_communities_the_largest_first_and_their_strongest_genes_first():
    edges = two_cliques()
    edges.loc[0, "score"] = 2
    table = gene_programs(edges)
    assert table.groupby("program")["gene"].agg(set).tolist() == [set("abcd"), set("efg")]
    assert table["gene"].tolist()[:2] == ["a", "b"] and table["strength"][0] == pytest.approx(4)
    pd.testing.assert_frame_equal(table, gene_programs(edges))


def test_programs_of_nothing_or_of_several_networks_are_refused():
    with pytest.raises(ConfigurationError, match="No edge has a positive score"):
        gene_programs(two_cliques().tail(1))
    with pytest.raises(ConfigurationError, match="choose a condition"):
        gene_programs(two_cliques().assign(condition=list("xy" * 5 + "x")))


def test_signs_are_known_where_the_interval_of_the_correlation_leaves_out_0():
    # 1.96 / sqrt(100 - 3) is 0.199
    assert signs_of(np.array([0.19, 0.21, -0.21, 1, -1, 0]), 100).tolist() == [0, 1, -1, 1, -1, 0]


def test_of_equal_scores_the_first_comes_first_and_missing_ones_not_at_all():
    genes = NetworkGenes(np.array(list("abc"), object), np.arange(3), np.arange(2), np.arange(3))
    scores = np.array([[9, 1, 1], [1, 9, np.nan]], np.float32)
    how = {"evidence": "x", "n_edges": 9, "each_pair_once": False}
    table = edge_table(scores, np.zeros((2, 3), np.int8), genes, **how)
    assert table[["regulator", "target"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "a"]]
    assert table["sign"].isna().all()
