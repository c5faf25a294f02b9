"""Pages that several experiments have."""

import pytest

from sclm_hf.experiments.tables import annotation_page, scores_page

TRUE = ["a", "b"] * 20


def labelled(*, wrong):
    return ["b" if place < wrong else name for place, name in enumerate(TRUE)]


def test_the_reference_comes_first_and_differences_are_paired_with_it():
    one = {"cells": list(range(40)), "true": TRUE, "predicted": {"model": TRUE, "PCA": labelled(wrong=20)}}
    page = annotation_page({"cells": {0: one, 1: one}}, "PCA")
    (table,) = page.tables
    assert [row[0] for row in table.rows] == ["PCA", "model", "model minus PCA"]
    assert table.rows[1][2] == "1.000 (1.000 to 1.000)" and table.rows[2][2].startswith("+0.250")
    assert page.answers == ["cells, macro-F1: better than PCA: model (+0.27)."]
    assert list(page.figures) == ["macro_f1"]


@pytest.mark.parametrize(("wrong", "told"), [(0, "better than"), (10, "not told apart from"), (40, "worse than")])
def test_a_difference_is_told_by_its_interval(wrong, told):
    predicted = {"PCA": labelled(wrong=10), "model": labelled(wrong=wrong)}
    one = {"cells": list(range(40)), "true": TRUE, "predicted": predicted}
    assert f": {told} PCA: model (" in annotation_page({"cells": {0: one}}, "PCA").answers[0]


def test_scores_are_means_over_seeds_with_the_range_of_the_difference():
    def scores(**totals):
        others = ("biology", "mixing", "ari", "asw_label", "ilisi", "kbet")
        return {"scores": {name: {"total": one, **dict.fromkeys(others, 0.5)} for name, one in totals.items()}}

    page = scores_page({"cells": {0: scores(PCA=0.4, model=0.5), 1: scores(PCA=0.4, model=0.7)}}, "PCA")
    assert page.tables[0].rows[1][:3] == ["model", "+0.200 (+0.100 to +0.300)", "0.600"]
    assert page.answers == ["cells, total score, with all seeds: better than PCA: model (+0.20)."]
