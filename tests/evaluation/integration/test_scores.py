"""The scores of scIB, by whichever version of scib-metrics is installed.

`RECORDED` are those of version 0.5.10. Nothing here needs torch: `pytest --noconftest -m slow` runs it without.
"""

import numpy as np
import pytest

from sclm_hf.evaluation.integration.scores import integration_scores

pytestmark = pytest.mark.slow

RECORDED = {
    "nmi": 0.958349,
    "ari": 0.973468,
    "asw_label": 0.692207,
    "isolated_labels": 0.700158,
    "clisi": 0.999461,
    "asw_batch": 0.948975,
    "graph_connectivity": 0.978333,
    "ilisi": 0.724948,
    "kbet": 0.84,
    "pcr": 0.608396,
    "biology": 0.864728,
    "mixing": 0.820131,
    "total": 0.846889,
}


@pytest.fixture(scope="module")
def cells():
    """Four types, of which one is in one of three batches only; batches move the cells, and less so in `embedding`."""
    generator = np.random.default_rng(0)
    labels, batches = np.arange(600) % 4, np.arange(600) // 4 % 3
    batches[labels == 3] = 0
    types, moves = generator.normal(size=(4, 8)) * 2, generator.normal(size=(3, 8))
    noise = generator.normal(size=(600, 8))
    before = types[labels] + moves[batches] + noise
    return before, types[labels] + 0.3 * moves[batches] + noise, batches.astype(str), labels.astype(str)


def test_scores_are_those_recorded(cells):
    pytest.importorskip("scib_metrics", reason="scib-metrics is in the extra `integration`")
    before, embedding, batches, labels = cells
    found = integration_scores(embedding, batches, labels, before)
    assert found == pytest.approx(RECORDED, abs=1e-3)
