import numpy as np
import pytest
import scipy.sparse as sp
from transformers import AutoFeatureExtractor

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.next_gene import NextGeneCollator
from sclm_hf.tokenization.encodings import ENCODINGS
from sclm_hf.tokenization.encodings.encoding import Encoding, Parameter, is_number
from sclm_hf.tokenization.feature_extraction_expression import parameter_names

COUNTS = sp.csr_matrix([[3.0, 0, 1, 0], [0, 2, 5, 9]])


class Above(Encoding):
    """A 1 for genes above a threshold, a 0 for other expressed genes, then a token that tells how many are above."""

    name = "above"
    parameters = {"threshold": Parameter(2.0, is_number, "a finite number")}
    special_tokens = ("<N>",)

    def check(self, parameters):
        if parameters.add_eos:
            raise ConfigurationError("The encoding `above` ends with its own token: `add_eos` must be False.")

    def write(self, setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1):
        for cell, (start, length) in enumerate(zip(out.starts, out.lengths, strict=True)):
            of_cell = slice(genes.indptr[cell], genes.indptr[cell + 1])
            above = genes.values[of_cell] > setting.parameters.threshold
            out.ids[start : start + length] = [setting.layout.cls_id, *genes.ids[of_cell], *setting.special_ids]
            out.values[start : start + length] = [setting.layout.cls_value, *above, above.sum()]


@pytest.fixture
def above(monkeypatch):
    monkeypatch.setitem(ENCODINGS, "above", Above())


def make_processor(special=("<pad>", "<cls>", "<N>"), **parameters):
    tokenizer = GeneTokenizer.from_genes(
        {n: i for i, n in enumerate(["A", "B", "C", "D", *special])}, special_tokens=special
    )
    return CellProcessor(ExpressionFeatureExtractor(encoding="above", **parameters), tokenizer)


@pytest.mark.usefixtures("above")
def test_a_new_encoding_is_one_class_and_one_line():
    processor = make_processor(threshold=2.5)
    batch = processor(COUNTS, gene_names=list("ABCD"))
    assert batch["input_ids"].tolist() == [[5, 0, 2, 6, 4], [5, 1, 2, 3, 6]]
    assert batch["expression_values"].tolist() == [[-2, 1, 0, 1, -2], [-2, 0, 1, 1, 2]]
    assert processor.lengths(COUNTS, np.arange(4)).tolist() == [4, 5]


@pytest.mark.usefixtures("above")
def test_its_parameters_are_known_checked_and_saved(tmp_path):
    assert "threshold" in parameter_names()
    make_processor(threshold=3).feature_extractor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).changed(max_length=9).threshold == 3
    with pytest.raises(ConfigurationError, match=r"`threshold`.*a finite number; got 'much'"):
        make_processor(threshold="much")
    with pytest.raises(ConfigurationError, match="`add_eos` must be False"):
        make_processor(add_eos=True)


@pytest.mark.usefixtures("above")
def test_what_it_lacks_is_refused():
    with pytest.raises(ConfigurationError, match="encoding `above` asks for a special token `<N>`"):
        make_processor(special=("<pad>", "<cls>")).check_tokens()
    with pytest.raises(ConfigurationError, match="`totals` is for the encoding `rank` and `depth`, not for `above`"):
        make_processor().encode(COUNTS, np.arange(4), cell_ids=[0, 1], totals=np.ones(2))
    with pytest.raises(ConfigurationError, match="the encoding 'above' has none: use 'rank'"):
        NextGeneCollator.from_processor(make_processor())


def test_encodings_share_parameters_with_one_default():
    for encoding in ENCODINGS.values():
        for name, parameter in encoding.parameters.items():
            assert getattr(ExpressionFeatureExtractor(), name) == parameter.default
            assert f"`{name}`" in ExpressionFeatureExtractor.__doc__
        assert f'`"{encoding.name}"`' in ExpressionFeatureExtractor.__doc__


def test_chromosomes_need_a_processor_of_their_own():
    processor = CellProcessor(
        ExpressionFeatureExtractor(encoding="chromosomes"), GeneTokenizer.from_genes(["A", "B", "C"])
    )
    gene_ids = processor.map_genes(["A", "B", "C"]).gene_ids
    with pytest.raises(ConfigurationError, match="needs a `ChromosomeProcessor`"):
        processor.encode(COUNTS[:, :3], gene_ids, cell_ids=[0, 1])


SHORT = {"max_length": 40}


@pytest.mark.parametrize(
    "parameters",
    [
        {"encoding": "bins"},
        {"encoding": "bins", **SHORT},
        {"encoding": "bins", **SHORT, "truncation": "head"},
        {"encoding": "bins", **SHORT, "include_zero_genes": True},
        {"encoding": "continuous", **SHORT},
        # without medians half of the genes are tied
        {"encoding": "rank", "truncation": "head"},
        {"encoding": "rank", "truncation": "head", **SHORT},
    ],
    ids=str,
)
def test_the_order_of_columns_changes_nothing(parameters):
    random = np.random.default_rng(0)
    names = [f"GENE{number}" for number in range(400)]
    processor = CellProcessor(ExpressionFeatureExtractor(**parameters), GeneTokenizer.from_genes(names))
    counts, order = random.negative_binomial(0.5, 0.3, (12, 400)).astype(np.float32), random.permutation(400)
    straight = processor(counts, gene_names=names)
    shuffled = processor(counts[:, order], gene_names=[names[column] for column in order])
    for name, array in straight.items():
        np.testing.assert_array_equal(array, shuffled[name])


def test_gene_ids_that_are_changed_in_place_are_read_again():
    processor = CellProcessor(ExpressionFeatureExtractor(), GeneTokenizer.from_genes(list("ABCD")))
    mapped = processor.map_genes(list("ABCD")).gene_ids
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = -1
    gene_ids = mapped.copy()
    assert processor.lengths(COUNTS, gene_ids).tolist() == [3, 4]
    gene_ids[2] = -1
    assert processor.lengths(COUNTS, gene_ids).tolist() == [2, 3]
