import numpy as np
import pytest
import scipy.sparse

from sclm_hf import ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.tokenization.processing_sample import SampleProcessor

GENES = ["MS4A1", "CD3D", "LYZ", "NKG7", "GNLY"]
NAMES = ["GNLY", "no gene", "LYZ", "MS4A1"]
COUNTS = np.array([[0, 1, 2, 1], [4, 0, 0, 0], [0, 0, 5, 0]], np.float32)


def make_processor(**settings) -> SampleProcessor:
    extractor = ExpressionFeatureExtractor.for_family("cellplm", **settings)
    return SampleProcessor(extractor, GeneTokenizer.from_genes(GENES, special_tokens=()))


def encode(processor, matrix=COUNTS, **how) -> dict[str, np.ndarray]:
    gene_ids = processor.map_genes(NAMES).gene_ids
    how = {"cell_ids": np.arange(len(how.get("rows", matrix))), **how}
    return processor.encode(scipy.sparse.csr_matrix(matrix), gene_ids, **how)


def test_a_sample_is_its_cells_by_the_genes_they_express():
    sample = encode(make_processor())
    np.testing.assert_array_equal(sample["input_ids"], [0, 2, 4])
    np.testing.assert_array_equal(sample["expression_values"], [[1, 2, 0], [0, 0, 4], [0, 5, 0]])
    np.testing.assert_array_equal(sample["attention_mask"], [1, 1, 1])
    assert [sample[name].dtype for name in sample] == [np.int64, np.float32, np.int64]


def test_genes_are_those_of_the_cells_chosen():
    sample = encode(make_processor(), rows=np.array([2, 1]))
    np.testing.assert_array_equal(sample["input_ids"], [2, 4])
    np.testing.assert_array_equal(sample["expression_values"], [[5, 0], [0, 4]])


def test_all_genes_on_request():
    sample = encode(make_processor(include_zero_genes=True))
    np.testing.assert_array_equal(sample["input_ids"], np.arange(5))
    np.testing.assert_array_equal(sample["expression_values"], [[1, 0, 2, 0, 0], [0, 0, 0, 0, 4], [0, 0, 5, 0, 0]])


def test_without_zeros_it_is_the_same_sample():
    processor = make_processor()
    counts = np.random.default_rng(1).poisson(1.0, (40, 4)).astype(np.float32)
    matrix = scipy.sparse.csr_matrix(counts[counts[:, [0, 2, 3]].sum(axis=1) > 0])
    cell_ids = np.arange(matrix.shape[0])
    tokens = processor.tokens(matrix, processor.map_genes(NAMES).gene_ids, cell_ids=cell_ids)
    chosen = cell_ids[::-3]
    input_ids, values = processor.sparse(tokens, chosen)
    dense = processor.padded(tokens, chosen)
    np.testing.assert_array_equal(input_ids, dense["input_ids"])
    np.testing.assert_array_equal(values.toarray(), dense["expression_values"])
    np.testing.assert_array_equal(values.toarray(), matrix[chosen][:, [3, 2, 0]].toarray())
    assert values.has_canonical_format and values.nnz == np.count_nonzero(values.toarray())


def test_saved_and_loaded(tmp_path):
    processor = make_processor()
    processor.save_pretrained(tmp_path)
    loaded = SampleProcessor.from_pretrained(tmp_path)
    assert loaded.context == "sample" and loaded.tokenizer.gene_vocabulary.size == len(GENES)
    for name, values in encode(processor).items():
        np.testing.assert_array_equal(encode(loaded)[name], values)


def test_call_takes_a_matrix_with_names():
    sample = make_processor()(COUNTS, gene_names=NAMES, return_tensors="pt")
    assert sample["expression_values"].shape == (3, 3) and sample["input_ids"].tolist() == [0, 2, 4]


def test_a_cell_without_known_genes_is_refused():
    with pytest.raises(ExpressionError, match="1 of 2 cells have no expressed gene that the model knows"):
        encode(make_processor(), np.array([[0, 0, 1, 0], [0, 7, 0, 0]], np.float32))


@pytest.mark.parametrize("settings", [{"encoding": "bins"}, {"add_cls": True}, {"max_length": 9}])
def test_what_a_sample_does_not_have_is_refused(settings):
    with pytest.raises(ConfigurationError, match="a sample has all genes of its cells"):
        make_processor(**settings)
