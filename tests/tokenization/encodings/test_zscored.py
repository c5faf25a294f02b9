"""Z-scores of log-normalised counts, one token for every measured gene."""

import numpy as np
import pytest

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.tokenization.processing_sample import SampleProcessor

GENES = ["MS4A1", "CD3D", "LYZ", "NKG7", "GNLY"]
NAMES = ["GNLY", "no gene", "LYZ", "MS4A1"]
COUNTS = np.array([[0, 1, 2, 1], [4, 0, 0, 0], [0, 3, 5, 20]], np.float32)
MEANS = dict(zip(GENES, [0.5, 1.0, 2.0, 0.0, 3.0], strict=True))
DEVIATIONS = dict(zip(GENES, [1.0, 0.5, 2.0, 0.0, 0.01], strict=True))


def make_processor(kind=CellProcessor, special_tokens=("<pad>", "<cls>"), **settings):
    how = {"encoding": "zscored", "add_cls": False, "gene_means": MEANS, "gene_deviations": DEVIATIONS}
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=special_tokens)
    return kind(ExpressionFeatureExtractor(**(how | settings)), tokenizer)


def encode(processor, matrix=COUNTS, names=NAMES, **how):
    gene_ids = processor.map_genes(names).gene_ids
    return processor.encode(matrix, gene_ids, cell_ids=np.arange(len(matrix)), **how)


def expected(counts, genes, clip=10.0):
    """The same in numpy; `counts` are those of known genes."""
    logarithms = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    means, deviations = (np.array([table[gene] for gene in genes]) for table in (MEANS, DEVIATIONS))
    return np.clip((logarithms - means) / np.maximum(deviations, 0.1), -clip, clip)


def test_values_are_z_scores_within_the_genes_that_are_measured_and_known():
    batch = encode(make_processor())
    order = [3, 2, 0]
    np.testing.assert_allclose(
        batch["expression_values"], expected(COUNTS[:, order], ["MS4A1", "LYZ", "GNLY"]), rtol=1e-6
    )
    vocabulary = make_processor().tokenizer.gene_vocabulary
    assert batch["input_ids"].tolist() == [[vocabulary[gene] for gene in ("MS4A1", "LYZ", "GNLY")]] * 3
    assert batch["expression_values"].min() == -10 and batch["attention_mask"].all()


def test_the_order_of_columns_and_threads_change_nothing():
    one = encode(make_processor())
    two = encode(make_processor(), COUNTS[:, ::-1].copy(), NAMES[::-1], num_threads=2)
    np.testing.assert_array_equal(one["expression_values"], two["expression_values"])


def test_counts_of_columns_of_one_gene_are_added_up():
    one = encode(make_processor(), np.array([[3.0, 5.0]]), ["LYZ", "GNLY"])
    processor = make_processor()
    gene_ids = processor.map_genes(["LYZ", "GNLY"]).gene_ids
    split = processor.encode(np.array([[1.0, 5.0, 2.0]]), np.array([*gene_ids, -2]), cell_ids=np.arange(1))
    np.testing.assert_array_equal(one["expression_values"], split["expression_values"])


def test_logarithms_are_taken_as_they_are():
    logarithms = np.log1p(COUNTS[:, 2:] / COUNTS[:, 2:].sum(1, keepdims=True).clip(1) * 1e4)[[0, 2]]
    of = make_processor(expects="any")
    np.testing.assert_allclose(
        encode(of, logarithms, NAMES[2:])["expression_values"],
        encode(make_processor(), COUNTS[[0, 2], 2:], NAMES[2:])["expression_values"],
        rtol=1e-5,
    )


def test_special_tokens_and_length_are_those_of_any_encoding():
    processor = make_processor(add_cls=True, cls_value=-2.0, max_length=3, truncation="head")
    batch = encode(processor)
    assert batch["input_ids"].shape == (3, 3) and (batch["expression_values"][:, 0] == -2).all()
    lengths = make_processor().lengths(COUNTS, make_processor().map_genes(NAMES).gene_ids)
    assert lengths.tolist() == [3, 3, 3]


def test_saved_and_loaded(tmp_path):
    processor = make_processor(z_clip=4.0)
    processor.save_pretrained(tmp_path)
    loaded = CellProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.gene_means == MEANS and loaded.feature_extractor.z_clip == 4.0
    np.testing.assert_array_equal(encode(loaded)["expression_values"], encode(processor)["expression_values"])


def test_a_sample_has_the_measured_genes_of_its_cells():
    sample = encode(make_processor(SampleProcessor, ()))
    assert sample["input_ids"].tolist() == [0, 2, 4]
    np.testing.assert_array_equal(sample["expression_values"], encode(make_processor())["expression_values"])
    every = encode(make_processor(SampleProcessor, (), include_zero_genes=True))
    assert (every["expression_values"][:, [1, 3]] == 0).all()


def test_statistics_are_asked_for_where_they_are_missing():
    with pytest.raises(ConfigurationError, match="needs `gene_means`"):
        encode(make_processor(gene_means=None, gene_deviations=None))
    with pytest.raises(ConfigurationError, match="lacks 4 of the tokenizer"):
        encode(make_processor(gene_deviations={"MS4A1": 1.0}))
    with pytest.raises(ConfigurationError, match="give both, or neither"):
        make_processor(gene_means=None)


@pytest.mark.parametrize(
    "settings", [{"gene_deviations": {"LYZ": -1.0}}, {"gene_means": {"LYZ": np.nan}}, {"z_clip": 0.0}]
)
def test_unsound_statistics_are_refused(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        make_processor(**settings)
