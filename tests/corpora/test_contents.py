"""Parts of a corpus."""

import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.opening.tiny import make_processor as make_processor_of

from .conftest import GENES, make_cells


def arrays(corpus, batch_size=7):
    batches = list(corpus.batches(batch_size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in ("cell_ids", "labels")}


def test_a_draw_has_cells_of_all_sources_in_their_order_and_with_their_labels(folder, processor):
    everything = CellCorpus(folder, processor, label_column="cell_type", shuffle=False)
    drawn = CellCorpus(folder, processor, label_column="cell_type").drawn(60)
    whole, some = arrays(everything), arrays(drawn, batch_size=13)
    places = np.flatnonzero(np.isin(whole["cell_ids"], some["cell_ids"]))
    assert len(drawn) == 60 and min(drawn.sizes) > 0
    assert all(np.array_equal(whole[name][places], some[name]) for name in whole)


def test_a_draw_depends_on_the_seed_and_has_no_more_cells_than_there_are(folder, processor):
    one, again, other = (CellCorpus(folder, processor, seed=seed).drawn(20).cells_id for seed in (0, 0, 1))
    assert one == again != other
    assert len(CellCorpus(folder, processor).drawn(1000)) == 154


def test_of_samples_whole_ones_are_drawn(tmp_path):
    cells = make_cells(60)
    cells.obs["batch"] = np.random.default_rng(0).choice(["a", "b", "c", "d"], 60)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = CellCorpus(tmp_path, make_processor_of("cellplm", GENES))
    drawn = corpus.drawn(20)
    whole = {frozenset(batch["cell_ids"].tolist()) for batch in corpus.batches(60)}
    some = {frozenset(batch["cell_ids"].tolist()) for batch in drawn.batches(60)}
    assert some < whole and len(drawn) == sum(map(len, some)) >= 20


def test_cells_get_the_labels_of_another_column_where_they_have_one(tmp_path, processor):
    cells = make_cells(40)
    cells.obs["state"] = np.where(np.arange(40) % 3 == 0, None, cells.obs["donor"])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = CellCorpus(tmp_path, processor, label_column="cell_type").labelled_by(["absent", "state"])
    assert corpus.label_names == ["d1", "d2"] and len(corpus) == 26
    names = np.array(corpus.label_names)[arrays(corpus)["labels"]]
    assert names.tolist() == cells.obs["state"].dropna().tolist()


def test_another_column_that_is_not_there_or_is_empty_is_named(tmp_path, processor):
    cells = make_cells(9)
    cells.obs["state"] = ""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = CellCorpus(tmp_path, processor)
    with pytest.raises(ConfigurationError, match=r"none of the columns \['absent'\]"):
        corpus.labelled_by(["absent"])
    with pytest.raises(CorpusError, match="No cell has a value in `obs` 'state'"):
        corpus.labelled_by("state")
