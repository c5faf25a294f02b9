import numpy as np
import pytest
import scipy.sparse
from transformers import AutoFeatureExtractor, AutoProcessor

from sclm_hf import ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError, ExpressionError, GeneCoverageError
from sclm_hf.modeling.uce.processing_uce import (
    SPECIAL_TOKENS,
    ChromosomeProcessor,
    chromosome_token,
    gene_token,
    published_filter,
)

PLACES = {
    "human": {
        "TP53": ("17", 7_668_421),
        "MYC": ("8", 127_735_434),
        "NAT2": ("8", 18_391_282),
        "XIST": ("X", 73_820_651),
    },
    "mouse": {"TRP53": ("11", 69_471_185), "MYC": ("15", 61_985_922)},
}


def make_processor(places=PLACES, **settings) -> ChromosomeProcessor:
    genes = [gene_token(species, gene) for species, of_species in places.items() for gene in of_species]
    chromosomes = sorted(
        {chromosome_token(species, place[0]) for species, genes in places.items() for place in genes.values()}
    )
    tokens = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *genes, *chromosomes])}
    tokenizer = GeneTokenizer.from_genes(tokens, special_tokens=[*SPECIAL_TOKENS, *chromosomes])
    extractor = ExpressionFeatureExtractor.for_family("uce", gene_places=places, **{"n_draws": 40, **settings})
    return ChromosomeProcessor(extractor, tokenizer)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


GENES = ["XIST", "MYC", "TP53", "NAT2"]
COUNTS = np.random.default_rng(0).poisson(1.0, (9, 4)) + np.eye(9, 4)
COUNTS = COUNTS.astype(np.float32)


def sentences(processor, matrix=COUNTS, cell_ids=None, **how) -> list[list[str]]:
    cell_ids = np.arange(len(matrix)) if cell_ids is None else cell_ids
    gene_ids = processor.map_genes(GENES).gene_ids
    encoded = processor.encode(scipy.sparse.csr_matrix(matrix, dtype=np.float32), gene_ids, cell_ids=cell_ids, **how)
    return [
        processor.tokenizer.convert_ids_to_tokens(ids[mask == 1])
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]


def test_sentences_are_chromosomes_of_ordered_genes(processor):
    for counts, sentence in zip(COUNTS, sentences(processor), strict=True):
        assert sentence[0] == "<cls>"
        drawn = []
        for chromosome in " ".join(sentence[1:]).split(" </chromosome>")[:-1]:
            opening, *genes = chromosome.split()
            assert all(chromosome_token("human", PLACES["human"][gene][0]) == opening for gene in genes)
            assert genes == sorted(genes, key=lambda gene: PLACES["human"][gene][1])
            drawn += genes
        assert len(drawn) == 40
        assert set(drawn) <= {gene for gene, count in zip(GENES, counts, strict=True) if count}


def test_draws_follow_log_counts():
    processor = make_processor(n_draws=1000)
    (sentence,) = sentences(processor, np.array([[0, 3, 1, 100]]))
    shares = np.log1p([3, 1, 100]) / np.log1p([3, 1, 100]).sum()
    counts = np.array([sentence.count(gene) for gene in ("MYC", "TP53", "NAT2")])
    np.testing.assert_allclose(counts / 1000, shares, atol=0.05)


def test_sentence_belongs_to_the_cell(processor):
    whole = sentences(processor)
    assert sentences(processor, num_threads=3) == whole
    order = np.array([5, 0, 8])
    assert sentences(processor, COUNTS[order], cell_ids=order) == [whole[row] for row in order]
    assert sentences(processor, seed=1) != whole
    assert sentences(processor, epoch=1) != whole


def test_order_of_columns_and_chromosomes_is_random_by_cell(processor):
    firsts = {sentence[1] for sentence in sentences(processor, np.ones((30, 4), int))}
    assert firsts == {"<human:17>", "<human:8>", "<human:X>"}


def test_lengths_are_bounds(processor):
    gene_ids = processor.map_genes(GENES).gene_ids
    lengths = processor.lengths(COUNTS, gene_ids)
    real = processor.tokens(COUNTS, gene_ids, cell_ids=np.arange(9)).lengths
    assert (real <= lengths).all()
    assert (lengths <= 40 + 1 + 2 * 4).all()
    assert processor.lengths(np.zeros((1, 4)), gene_ids) == [0]


def test_tokens_lie_side_by_side(processor):
    tokens = processor.tokens(COUNTS, processor.map_genes(GENES).gene_ids, cell_ids=np.arange(9))
    np.testing.assert_array_equal(tokens.starts, np.cumsum(tokens.lengths) - tokens.lengths)
    assert tokens.ids.size == tokens.lengths.sum()


def test_genes_of_a_species(processor):
    ids = processor.tokenizer.get_vocab()
    assert processor.species == ("human", "mouse")
    human = processor.map_genes(["Myc", "p53", "Trp53"])
    assert human.gene_ids.tolist() == [ids["MYC"], ids["TP53"], -1]
    assert human.coverage.renamed == (("Myc", "MYC"), ("p53", "TP53"))
    mouse = processor.map_genes(["Myc", "p53", "Trp53"], species="mouse")
    assert mouse.gene_ids.tolist() == [ids["mouse:MYC"], -1, ids["mouse:TRP53"]]
    assert (mouse.coverage.species, mouse.coverage.missing) == ("mouse", ("p53",))
    with pytest.raises(ConfigurationError, match="`frog`: expected one of human, mouse"):
        processor.map_genes(GENES, species="frog")


def test_ensembl_ids_name_the_species(processor):
    names, ids = ["Trp53", "Myc"], ["ENSMUSG00000059552", "ENSMUSG00000022346"]
    found, asked = processor.map_genes(names, ensembl_ids=ids), processor.map_genes(names, species="mouse")
    assert found.gene_ids.tolist() == asked.gene_ids.tolist() and found.coverage.species == "mouse"
    assert processor.map_genes(["TP53", "MYC"]).coverage.species == "human"


def test_mouse_cells(processor):
    gene_ids = processor.map_genes(["Trp53", "Myc"], species="mouse").gene_ids
    encoded = processor.encode(np.array([[5, 1]], np.float32), gene_ids, cell_ids=[0])
    tokens = set(processor.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]))
    assert tokens == {"<cls>", "</chromosome>", "<mouse:11>", "<mouse:15>", "mouse:TRP53", "mouse:MYC"}


def test_fractions(processor):
    assert "XIST" not in sentences(processor, np.array([[0.9, 2.9, 1.0, 3.0]]), check=False)[0]
    assert "XIST" in sentences(make_processor(whole_counts=False), np.array([[0.9, 2.9, 1.0, 3.0]]), check=False)[0]
    with pytest.raises(ExpressionError, match="fractional"):
        sentences(processor, np.array([[0.9, 2.9, 1.0, 3.0]]))
    with pytest.raises(ExpressionError, match="count of 1 or more"):
        sentences(processor, np.array([[0.9, 0.5, 0.0, 0.0]]), check=False)


def test_cells_without_genes_and_sentences_without_room(processor):
    with pytest.raises(ExpressionError, match="no expressed gene"):
        sentences(processor, np.zeros((1, 4)))
    with pytest.raises(ExpressionError, match="more than `max_length` 45"):
        sentences(make_processor(max_length=45), np.ones((2, 4)))


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(reloaded) is ChromosomeProcessor
    assert AutoFeatureExtractor.from_pretrained(tmp_path).n_draws == 40
    assert sentences(reloaded) == sentences(processor)


def test_example():
    processor = ChromosomeProcessor.example(["Myc", "TP53", "C1orf112"], n_draws=4)
    gene_ids = processor.map_genes(["C1orf112", "MYC"]).gene_ids
    encoded = processor.encode(np.array([[1, 1]], np.float32), gene_ids, cell_ids=[0])
    tokens = processor.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    assert tokens[:3] == ["<cls>", "<human:1>", "MYC"]
    assert len(tokens) == 7


def test_call(processor):
    batch = processor(COUNTS, gene_names=GENES, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][0, 0] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_draws": 0}, "n_draws"),
        ({"gene_places": {"human": {"TP53": "17"}}}, "gene_places"),
        ({"gene_places": ["human"]}, "gene_places"),
        ({"encoding": "bins", "gene_places": PLACES}, "is for the encoding `chromosomes`"),
    ],
)
def test_wrong_parameters_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        ExpressionFeatureExtractor.for_family("uce", **settings)


def test_processor_needs_places(processor):
    with pytest.raises(ConfigurationError, match="gene_places"):
        ChromosomeProcessor(ExpressionFeatureExtractor.for_family("uce"), processor.tokenizer)


def test_genes_of_another_species_are_refused_with_those_it_knows(processor):
    with pytest.raises(GeneCoverageError, match="chicken genes, not human ones: the model takes genes of human"):
        processor.map_genes([f"ENSGALG{number:011d}" for number in range(9)]).coverage.check()
    with pytest.raises(GeneCoverageError, match='pass `species="mouse"`'):
        processor.map_genes(["Trp53", "Actb", "Gapdh", "Ly6c2"]).coverage.check()


@pytest.mark.parametrize("lacking", ["<human:8>", "MYC"])
def test_places_of_tokens_that_the_tokenizer_lacks_are_refused(processor, lacking):
    tokens = {token: number for token, number in processor.tokenizer.get_vocab().items() if token != lacking}
    special = [token for token in tokens if token.startswith("<")]
    lame = ChromosomeProcessor(processor.feature_extractor, GeneTokenizer.from_genes(tokens, special_tokens=special))
    with pytest.raises(ConfigurationError, match=f"names `{lacking}`, which the tokenizer lacks"):
        lame.check_tokens()


def test_filter_takes_genes_first():
    # the last cell is large enough only with the gene that no other cell has
    matrix = np.array([[1, 2, 0], [3, 1, 0], [0, 1, 5]])
    kept = published_filter(matrix, min_cells=2, min_genes=2)
    assert kept.genes.tolist() == [True, True, False]
    assert kept.cells.tolist() == [True, True, False]
    assert kept.summary() == (
        "1 of 3 genes left out, expressed in fewer than 2 cells; then 1 of 3 cells, with fewer than 2 such genes"
    )


def test_filter_takes_stored_zeros_for_zeros():
    matrix = scipy.sparse.csr_matrix((np.array([0.0, 1.0, 1.0]), [0, 1, 1], [0, 2, 3]), (2, 2))
    assert published_filter(matrix, min_cells=1, min_genes=1).genes.tolist() == [False, True]


@pytest.mark.parametrize(("limits", "what"), [({"min_cells": 4}, "gene"), ({"min_cells": 1, "min_genes": 4}, "cell")])
def test_filter_that_leaves_nothing_is_refused(limits, what):
    with pytest.raises(ExpressionError, match=f"No {what} is left"):
        published_filter(np.ones((3, 3)), **limits)
