import numpy as np
import pytest

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.corpora.augmentation import Augmentation
from sclm_hf.errors import ConfigurationError
from sclm_hf.tokenization.processing_sample import SampleProcessor

from .conftest import GENES, make_cells

NOTHING = {"thin_share": 0.0, "panel_share": 0.0, "drop_genes": (0.0, 0.0)}


@pytest.fixture(scope="module")
def panel(tmp_path_factory, folder):
    """The three files, and one that measures half of the genes."""
    panel = tmp_path_factory.mktemp("panel")
    for file in folder.iterdir():
        (panel / file.name).symlink_to(file)
    make_cells(40, 4, GENES[:20]).write_h5ad(panel / "four.h5ad")
    return panel


def make_processor(encoding="continuous", kind=CellProcessor, **settings):
    special = () if kind is SampleProcessor else ("<pad>",)
    if encoding == "zscored":
        settings |= {"gene_means": dict.fromkeys(GENES, 0.0), "gene_deviations": dict.fromkeys(GENES, 1.0)}
    extractor = ExpressionFeatureExtractor(encoding=encoding, add_cls=False, z_clip=100.0, **settings)
    return kind(extractor, GeneTokenizer.from_genes(GENES, special_tokens=special))


def cells_of(corpus, *, batch_size=16, num_workers=0, epoch=0) -> dict[int, dict[int, float]]:
    """Cell -> gene -> value."""
    cells = {}
    for batch in corpus.loader(batch_size, num_workers=num_workers, epoch=epoch):
        for row, cell in enumerate(batch["cell_ids"].tolist()):
            real = batch["attention_mask"][row] == 1
            ids, values = batch["input_ids"][row][real].tolist(), batch["expression_values"][row][real].tolist()
            cells[cell] = dict(zip(ids, values, strict=True))
    return cells


@pytest.mark.slow
def test_batches_workers_and_windows_change_nothing(panel):
    one = cells_of(CellCorpus(panel, make_processor("zscored"), augment=Augmentation()))
    corpus = CellCorpus(panel, make_processor("zscored"), augment=Augmentation(), window_size=48, block_size=7)
    assert cells_of(corpus, batch_size=5, num_workers=2) == one
    assert cells_of(corpus, epoch=1) != one
    assert cells_of(CellCorpus(panel, make_processor("zscored"), augment=Augmentation(), seed=1)) != one


def test_nothing_asked_for_changes_nothing(panel):
    plain = CellCorpus(panel, make_processor("bins"))
    same = CellCorpus(panel, make_processor("bins"), augment=Augmentation(**NOTHING))
    assert cells_of(same) == cells_of(plain)
    assert plain.order_id(16) == CellCorpus(panel, make_processor("bins")).order_id(16) != same.order_id(16)


def test_reads_are_kept_with_one_probability(folder):
    whole = cells_of(CellCorpus(folder, make_processor()))
    settings = NOTHING | {"thin_share": 0.5, "thin": (0.3, 0.3)}
    thinned = cells_of(CellCorpus(folder, make_processor(), augment=Augmentation(**settings)))
    changed = [cell for cell in whole if thinned[cell] != whole[cell]]
    assert 0.35 < len(changed) / len(whole) < 0.65
    kept, total = (sum(sum(of[cell].values()) for cell in changed) for of in (thinned, whole))
    assert abs(kept / total - 0.3) < 0.02
    assert all(value <= whole[cell][gene] for cell in changed for gene, value in thinned[cell].items())


def test_cells_are_cut_to_the_genes_of_another_source(panel):
    whole = cells_of(CellCorpus(panel, make_processor()))
    cut = cells_of(CellCorpus(panel, make_processor(), augment=Augmentation(**NOTHING | {"panel_share": 1.0})))
    numbers = make_processor().tokenizer.gene_vocabulary
    half = {numbers[gene] for gene in GENES[:20]}
    for cell, genes in whole.items():
        on_panel = {gene: value for gene, value in genes.items() if gene in half}
        assert cut[cell] == (on_panel or genes)


def test_genes_left_out_have_no_token_and_are_not_in_the_total(folder):
    augment = Augmentation(**NOTHING | {"drop_genes": (0.25, 0.25)})
    cells = cells_of(CellCorpus(folder, make_processor("zscored"), augment=augment))
    sizes = np.array([len(genes) for genes in cells.values()])
    assert abs(sizes.mean() - 30) < 1 and sizes.std() > 1
    totals = [np.expm1(list(genes.values())).sum() for genes in cells.values()]
    np.testing.assert_allclose(totals, 10_000, rtol=1e-5)


def test_a_sample_loses_the_same_genes_in_all_its_cells(folder):
    augment = Augmentation(**NOTHING | {"drop_genes": (0.25, 0.25)})
    corpus = CellCorpus(folder, make_processor("zscored", SampleProcessor), batch_column="donor", augment=augment)
    genes = [tuple(batch["input_ids"].tolist()) for batch in corpus.loader(100)]
    assert all(20 < len(found) < 40 for found in genes) and len(set(genes)) == len(genes)
    again = [tuple(batch["input_ids"].tolist()) for batch in corpus.loader(100, num_workers=2)]
    assert again == genes != [tuple(batch["input_ids"].tolist()) for batch in corpus.loader(100, epoch=1)]


def test_views_of_a_cell_differ_and_share_its_id_and_label(folder):
    corpus = CellCorpus(folder, make_processor(), label_column="cell_type", augment=Augmentation(views=2))
    one = cells_of(CellCorpus(folder, make_processor(), augment=Augmentation()))
    for batch in corpus.loader(16):
        n = len(batch["cell_ids"]) // 2
        for name in ("cell_ids", "labels"):
            assert batch[name][:n].tolist() == batch[name][n:].tolist()
        values = batch["expression_values"]
        assert (values[:n] != values[n:]).any()
        first = batch["cell_ids"][0].item()
        assert sorted(values[0][batch["attention_mask"][0] == 1].tolist()) == sorted(one[first].values())


def test_a_cell_is_never_left_without_genes(tmp_path):
    cells = make_cells(60, 1)
    cells.X.data[:] = 1
    cells.write_h5ad(tmp_path / "ones.h5ad")
    augment = Augmentation(1.0, (0.01, 0.01), 0.0, (0.95, 0.95))
    for encoding in ("bins", "continuous", "zscored"):
        assert all(cells_of(CellCorpus(tmp_path, make_processor(encoding), augment=augment)).values())


@pytest.mark.parametrize(
    "settings",
    [{"thin_share": 2}, {"thin": [0.0, 1.0]}, {"thin": 0.3}, {"drop_genes": (0.4, 0.1)}, {"views": 0}, {"thinn": 1}],
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=f"`{next(iter(settings))}`"):
        Augmentation.from_mapping(settings)


def test_only_counts_can_be_thinned(folder):
    with pytest.raises(ConfigurationError, match=r"Only counts can be thinned.*--augment .*thin_share.: 0"):
        CellCorpus(folder, make_processor(expects="any"), augment=Augmentation())
