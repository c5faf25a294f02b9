import anndata
import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.order.splits import in_validation
from sclm_hf.errors import ConfigurationError, CorpusError

from ..conftest import make_cells


@pytest.fixture
def donors(tmp_path):
    for number in range(3):
        cells = make_cells(60, number)
        cells.obs["donor"] = [f"d{(row + 20 * number) // 4}" for row in range(60)]
        cells.write_h5ad(tmp_path / f"s{number}.h5ad")
    return tmp_path


def names_in(corpus):
    return {
        source.column("donor").categories[code]
        for index, source in enumerate(corpus.sources)
        for code in source.column("donor").codes[corpus.rows_at(index, np.arange(corpus.sizes[index]))]
    }


def test_a_side_is_a_pure_function_of_the_name():
    """These sides are forever: a model must not meet in training what another version validated on."""
    names = [f"donor_{number}" for number in range(20)]
    assert np.flatnonzero(in_validation(names, 0.2)).tolist() == [2, 13]
    assert in_validation(names[::-1], 0.2)[::-1].tolist() == in_validation(names, 0.2).tolist()
    many = [f"name {number}" for number in range(20000)]
    small, large = in_validation(many, 0.1), in_validation(many, 0.3)
    assert small.mean() == pytest.approx(0.1, abs=0.01)
    assert large.mean() == pytest.approx(0.3, abs=0.01)
    assert (large[small]).all()


def test_donors_stay_on_their_side_whatever_else_is_there(donors, processor):
    how = {"split_by": "donor", "validation_share": 0.4}
    train = CellCorpus(donors, processor, split="train", **how)
    validation = CellCorpus(donors, processor, split="validation", **how)
    assert len(train) + len(validation) == 180
    assert not names_in(train) & names_in(validation)
    assert all(in_validation(sorted(names_in(validation)), 0.4)) and not any(
        in_validation(sorted(names_in(train)), 0.4)
    )
    alone = CellCorpus(donors / "s1.h5ad", processor, split="validation", **how)
    assert names_in(alone) <= names_in(validation)


def test_data_sets_are_split_by_name(donors, processor):
    how = {"split_by": "dataset", "validation_share": 0.5}
    sides = dict(zip(["s0", "s1", "s2"], in_validation(["s0", "s1", "s2"], 0.5).tolist(), strict=True))
    assert len(set(sides.values())) == 2
    for split, wanted in (("train", False), ("validation", True)):
        corpus = CellCorpus(donors, processor, split=split, **how)
        used = {source.name for source, size in zip(corpus.sources, corpus.sizes, strict=True) if size}
        assert used == {name for name, side in sides.items() if side == wanted}
        assert sum(len(batch["cell_ids"]) for batch in corpus.batches(12)) == len(corpus)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"split": "test", "split_by": "donor"}, "'train' or 'validation'"),
        ({"split": "train"}, "needs `split_by`"),
        ({"split_by": "donor"}, "needs `split='train'`"),
        ({"split": "train", "split_by": "donor", "validation_share": 1.5}, "between 0 and 1"),
    ],
)
def test_impossible_splits_are_refused(donors, processor, how, message):
    with pytest.raises(ConfigurationError, match=message):
        CellCorpus(donors, processor, **how)


def test_cells_without_a_donor_are_on_no_side(donors, processor):
    cells = anndata.read_h5ad(donors / "s0.h5ad")
    cells.obs["donor"] = cells.obs["donor"].astype(object).where(np.arange(60) > 2).astype("category")
    cells.write_h5ad(donors / "s0.h5ad")
    with pytest.raises(CorpusError, match=r"s0\.h5ad`: 3 of the cells used have no value in `obs\['donor'\]`"):
        CellCorpus(donors, processor, split="train", split_by="donor")
    assert len(CellCorpus(donors, processor, split="train", split_by="donor", where={"donor": {"not": []}}))
