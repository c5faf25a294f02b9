import numpy as np

from sclm_hf.tokenization.encodings.cells import CellGenes, CellTokens
from sclm_hf.tokenization.encodings.chromosomes import (
    Draws,
    Genome,
    Sentence,
    compact,
    encode_chromosomes,
    most_tokens,
    published_draws,
)
from sclm_hf.tokenization.encodings.keys import cell_keys

CLS, CLOSE = 0, 1
# genes 2…6; chromosome 10 holds 4 and 2 in this order, chromosome 11 the others
GENOME = Genome(
    np.array([-1, -1, 10, 11, 10, 11, 11, *[-1] * 5], np.int32), np.array([0, 1, 8, 9, 7, 11, 10, 2, 3, 4, 5, 6])
)


def cell(ids, values) -> CellGenes:
    return CellGenes(
        np.array([0, len(ids)]), np.array(ids, np.int32), np.array(values, np.float32), np.array([1.0]), np.empty(0)
    )


def encode(genes, sentence, draws=None):
    room = most_tokens(np.diff(genes.indptr), sentence.n_draws, 2)
    out = CellTokens(np.empty(room.sum(), np.int32), np.empty(0, np.float32), np.cumsum(room) - room, room)
    encode_chromosomes(genes, cell_keys(np.arange(room.size), 0, 0), GENOME, sentence, out, draws=draws)
    return compact(out)


def test_recorded_draws():
    # log1p is 1, 2 and 1: bounds at 0.25 and 0.75
    genes = cell([2, 3, 4], np.exp([1, 2, 1]) - 1)
    draws = Draws(np.array([[0.9, 0.1, 0.26, 0.8, 0.74]]), np.array([[1, 0]]))
    assert encode(genes, Sentence(5, CLS, CLOSE, False), draws).ids.tolist() == [
        *[CLS, 11, 3, 3, CLOSE],
        *[10, 4, 4, 2, CLOSE],
    ]


def test_published_draws_are_numpys():
    values = np.array([3, 1, 7, 2, 5])
    genes, sentence = cell([2, 3, 4, 5, 6], values), Sentence(30, CLS, CLOSE, True)
    ours, theirs = np.random.RandomState(7), np.random.RandomState(7)
    tokens = encode(genes, sentence, published_draws(genes, GENOME, sentence, ours)).ids
    weights = np.log1p(values)
    chosen = theirs.choice(genes.ids, 30, p=weights / weights.sum())
    chromosomes = np.unique(GENOME.chromosomes[chosen])
    theirs.shuffle(chromosomes)
    expected = [CLS]
    for chromosome in chromosomes:
        of_it = chosen[GENOME.chromosomes[chosen] == chromosome]
        expected += [chromosome, *of_it[np.argsort(GENOME.places[of_it], kind="stable")], CLOSE]
    assert tokens.tolist() == expected
    assert ours.random_sample() == theirs.random_sample()


def test_cells_that_nothing_can_be_drawn_from():
    assert encode(cell([2, 3], [0.5, 0.9]), Sentence(5, CLS, CLOSE, True)).lengths.tolist() == [0]
    assert encode(cell([2, 3], [0.5, 0.9]), Sentence(5, CLS, CLOSE, False)).lengths[0] >= 8


def test_compact():
    tokens = CellTokens(
        np.arange(10, dtype=np.int32), np.empty(0, np.float32), np.array([0, 4, 7]), np.array([2, 3, 1])
    )
    packed = compact(tokens)
    assert packed.ids.tolist() == [0, 1, 4, 5, 6, 7]
    assert packed.starts.tolist() == [0, 2, 5]
