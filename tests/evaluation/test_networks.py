"""Networks beside known ones."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.evaluation.networks import known_pairs, read_network, score_network, score_with_intervals

REGULATORS, TARGETS = ["A", "B", "C"], ["A", "B", "D", "E", "F"]


def network(*pairs):
    return pd.DataFrame([(*pair, np.nan) for pair in pairs], columns=["regulator", "target", "sign"])


def some_known(seed=0, n=30):
    genes = [f"G{number}" for number in range(n)]
    drawn = np.random.default_rng(seed).integers(0, n, (90, 2))
    pairs = [(genes[one], genes[other]) for one, other in drawn.tolist()]
    return known_pairs(network(*pairs), genes, genes, "drawn"), np.random.default_rng(seed + 1)


def test_compared_are_regulators_that_the_network_has_with_other_genes_that_it_has():
    known = known_pairs(
        network(("A", "B"), ("A", "E"), ("B", "D"), ("X", "F"), ("B", "B")), REGULATORS, TARGETS, "one"
    )
    assert known.n_edges == 5
    np.testing.assert_array_equal(known.tested, [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    assert np.argwhere(known.edges).tolist() == [[0, 1], [0, 3], [1, 2]]


@pytest.mark.parametrize("decimals", [9, 1])
def test_scores_are_those_of_scikit_learn_over_chance(decimals):
    known, rng = some_known()
    scores = rng.random(known.edges.shape).round(decimals)
    edges, values = known.edges[known.tested], scores[known.tested]
    auprc, _, auroc = score_network(scores, known)
    assert auprc == pytest.approx(sklearn.metrics.average_precision_score(edges, values) / edges.mean())
    assert auroc == pytest.approx(sklearn.metrics.roc_auc_score(edges, values))


def test_early_precision_is_that_of_as_many_pairs_as_there_are_edges():
    known, rng = some_known()
    scores = rng.random(known.edges.shape)
    edges, values = known.edges[known.tested], scores[known.tested]
    best = np.argsort(-values)[: edges.sum()]
    assert score_network(scores, known)[1] == pytest.approx(edges[best].mean() / edges.mean())
    assert score_network(known.edges.astype(float), known) == pytest.approx([1 / edges.mean()] * 2 + [1])


def test_scores_that_tell_nothing_are_chance_and_missing_ones_come_last():
    known, rng = some_known()
    assert score_network(np.zeros(known.edges.shape), known) == pytest.approx([1, 1, 0.5])
    scores = rng.random(known.edges.shape)
    lowest = np.where(scores < 0.5, -1, scores)
    missing = np.where(scores < 0.5, np.nan, scores)
    assert score_network(missing, known) == pytest.approx(score_network(lowest, known))


def test_regulators_drawn_twice_count_twice():
    known, rng = some_known()
    scores, weights = rng.random(known.edges.shape), rng.integers(0, 3, 30).astype(float)
    repeated = np.repeat(np.arange(30), weights.astype(int))
    drawn = known._replace(tested=known.tested[repeated], edges=known.edges[repeated])
    assert score_network(scores, known, weights) == pytest.approx(score_network(scores[repeated], drawn))
    found, draws = score_with_intervals(scores, known, n_resamples=9)
    assert draws.shape == (9, 3) and found == pytest.approx(score_network(scores, known))
    np.testing.assert_array_equal(draws, score_with_intervals(scores, known, n_resamples=9)[1])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dorothea.csv", '"tf","confidence","target","mor"\n"A","C","B",-1\n"A","C","D",1\n"A","D","B",1\n'),
        ("edges.tsv", "source\ttarget\tsign\nA\tB\t-1\nA\tD\t1\n"),
        ("omnipath.csv", "source,target,consensus_stimulation,consensus_inhibition\nA,B,False,True\nA,D,True,False\n"),
        ("chip.json", json.dumps({"A GM12878": ["B", "D"], "A K562": ["B"]})),
    ],
)
def test_networks_are_read_from_tables_and_lists(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_network(tmp_path / name)
    assert table[["regulator", "target"]].to_numpy().tolist() == [["A", "B"], ["A", "D"]]
    assert table["sign"].tolist() == [-1, 1] or table["sign"].isna().all()


def test_edges_with_both_of_the_signs_of_omnipath_have_none(tmp_path):
    text = "source,target,consensus_stimulation,consensus_inhibition\nA,B,True,True\nA,C,False,False\nA,D,True,False\n"
    (tmp_path / "omnipath.csv").write_text(text)
    np.testing.assert_array_equal(read_network(tmp_path / "omnipath.csv")["sign"], [np.nan, np.nan, 1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("edges.csv", "a,b\n1,2\n", r"needs a column of regulators \(regulator, tf, .*got \['a', 'b'\]"),
        ("edges.csv", "tf,target\n", "has no edges"),
        ("edges.parquet", "no parquet", "cannot be read as a table"),
        ("edges.json", '{"A": "B"}', "lists of targets"),
        ("edges.json", "[1]", "must hold a JSON object"),
        ("absent.csv", None, "There is no network"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_network(tmp_path / name)


def test_a_network_of_other_names_is_refused():
    with pytest.raises(ConfigurationError, match=r"0 edges between the genes scored, of which it knows 0 of 5"):
        known_pairs(network(("ENSG1", "ENSG2")), REGULATORS, TARGETS, "other.csv")
    with pytest.raises(ConfigurationError, match="nothing can be compared"):
        known_pairs(network(("A", "B")), ["A"], ["A", "B"], "all.csv")


def test_few_regulators_or_edges_are_told_and_one_has_no_interval():
    genes = [f"G{number}" for number in range(40)]
    for n_regulators, n_each, told in [
        (1, 25, "nothing to draw"),
        (4, 10, "of 4 regulators"),
        (6, 3, "18 edges of 6"),
    ]:
        pairs = [(genes[one], genes[one + 2 + other]) for one in range(n_regulators) for other in range(n_each)]
        known = known_pairs(network(*pairs, ("X", "G39")), genes, genes, "few.csv")
        with pytest.warns(SclmWarning, match=rf"`few\.csv` .*{told}.*`--n-genes`"):
            known.warn_of_few("few.csv")
        found, draws = score_with_intervals(np.random.default_rng(0).random((40, 40)), known)
        assert np.isfinite(found).all() and np.isnan(draws).all() == (n_regulators == 1)
    known, _ = some_known()
    known.warn_of_few("enough")
