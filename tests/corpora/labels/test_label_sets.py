import numpy as np
import pytest

from sclm_hf import CellCorpus, mix
from sclm_hf.corpora.labels.columns import read_label_column
from sclm_hf.errors import ConfigurationError

from ..conftest import make_cells


@pytest.fixture
def files(tmp_path):
    """Two files that call the column, and the cells, by different names; one of 30 cells says nothing."""
    fine, coarse = make_cells(40, 1), make_cells(30, 2)
    fine.obs["cell_type"] = np.resize(["CD4 T", "CD8 T", "B", "NK"], 40)
    coarse.obs["label"] = np.resize(["T/NK cells", "B cells", "unassigned"], 30)
    del coarse.obs["cell_type"]
    fine.write_h5ad(tmp_path / "fine.h5ad")
    coarse.write_h5ad(tmp_path / "coarse.h5ad")
    return {"fine": tmp_path / "fine.h5ad", "coarse": tmp_path / "coarse.h5ad"}


@pytest.mark.parametrize("columns", [["cell_type", "label"], {"fine": "cell_type", "coarse.h5ad": "label"}])
def test_names_of_all_files_are_sets_of_the_same_leaves(files, processor, columns):
    corpus = CellCorpus(files, processor, label_column=columns, ontology="blood")
    assert corpus.label_names == ["B", "B cells", "CD4 T", "CD8 T", "NK", "T/NK cells", "unassigned"]
    assert corpus.label_sets.shape == (7, len(corpus.leaf_names))
    assert corpus.label_sets.sum(axis=1).tolist() == [1, 1, 3, 2, 1, 6, len(corpus.leaf_names)]
    labels = np.concatenate([batch["labels"] for batch in corpus.batches(16)])
    assert np.bincount(labels).tolist() == [10] * 7


def test_labels_without_meaning_are_refused_or_dropped(files, processor):
    cells = make_cells(20, 3)
    cells.obs["cell_type"] = np.resize(["B", "chondrocyte", ""], 20)
    cells.write_h5ad(files["fine"])
    given = {"label_column": ["cell_type", "label"], "ontology": "blood"}
    with pytest.raises(ConfigurationError, match=r"\['chondrocyte'\]"):
        CellCorpus(files, processor, unlabelled="drop", **given)
    corpus = CellCorpus(files, processor, unknown_labels="drop", **given)
    assert (len(corpus), corpus.unlabelled) == (37, {"coarse": 0, "fine": 13})


def test_mixtures_number_the_labels_of_all_parts(files, processor):
    fine = CellCorpus(files["fine"], processor, label_column="cell_type", ontology="blood")
    coarse = CellCorpus(files["coarse"], processor, label_column="label", ontology="blood")
    mixture = mix([fine, coarse])
    assert mixture.label_names == sorted(fine.label_names + coarse.label_names)
    expected = {cell: name for part in (fine, coarse) for cell, name in named_labels(part)}
    assert dict(named_labels(mixture)) == expected
    other = CellCorpus(files["coarse"], processor, label_column="label", ontology="heart")
    with pytest.raises(ConfigurationError, match="same `ontology`"):
        mix([fine, other])


def named_labels(corpus):
    for batch in corpus.batches(16):
        names = [corpus.label_names[number] for number in batch["labels"]]
        yield from zip(batch["cell_ids"].tolist(), names, strict=True)


def test_every_file_needs_a_column(files, processor):
    with pytest.raises(ConfigurationError, match=r"coarse.h5ad` has none of the columns \['cell_type', 'kind'\]"):
        CellCorpus(files, processor, label_column=["cell_type", "kind"], ontology="blood")
    with pytest.raises(ConfigurationError, match=r"no column for .*coarse.h5ad"):
        CellCorpus(files, processor, label_column={"fine": "cell_type"}, ontology="blood")
    with pytest.raises(ConfigurationError, match=r"names \['medium'\]"):
        CellCorpus(files, processor, label_column={"fine": "cell_type", "coarse": "label", "medium": "label"})
    with pytest.raises(ConfigurationError, match="`label_column` too"):
        CellCorpus(files, processor, ontology="blood")


@pytest.mark.parametrize(
    ("texts", "column"),
    [
        (None, None),
        (["cell_type"], "cell_type"),
        (["cell_type", "label"], ["cell_type", "label"]),
        (["fine=cell_type", "coarse.h5ad=label"], {"fine": "cell_type", "coarse.h5ad": "label"}),
        (['{"fine": "cell_type"}'], {"fine": "cell_type"}),
    ],
)
def test_label_columns_on_the_command_line(texts, column):
    assert read_label_column(texts) == column


def test_half_a_mapping_is_refused():
    with pytest.raises(ConfigurationError, match="FILE=COLUMN"):
        read_label_column(["fine=cell_type", "label"])
