"""Chromosome sentences: genes drawn by their expression, in genomic order, chromosome after chromosome.

Source: Rosen et al., "Universal Cell Embeddings: a foundation model for cell biology", bioRxiv 2023,
doi:10.1101/2023.11.28.568918, Methods. Genes are drawn with replacement, each draw with a probability proportional to
log(1 + count). The sentence is `<cls>`, then for each chromosome drawn from, in random order: the chromosome's token,
its drawn genes by their start (each as often as it was drawn), and a closing token.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ...errors import ConfigurationError
from .cells import CellGenes, CellTokens, run, widest
from .encoding import Encoding, Parameter, Setting, is_whole
from .kernels import kernel, part
from .keys import Stream, draw, substream, uniform
from .sorting import sort_scratch, stable_sort


class Genome(NamedTuple):
    """Where genes lie, by token id.

    Attributes:
        chromosomes: (tokens,) int32, token id of the gene's chromosome; -1 = not known.
        places: (tokens,) int64, rank of the gene by (chromosome, start); different for different genes.
    """

    chromosomes: np.ndarray
    places: np.ndarray


class Draws(NamedTuple):
    """What is random about sentences, recorded instead of keyed.

    Attributes:
        uniforms: (cells, draws) float64 in [0, 1).
        order: (cells, chromosomes) int64, for each chromosome drawn from, by ascending token id, its place in the
            sentence.
    """

    uniforms: np.ndarray
    order: np.ndarray


class Sentence(NamedTuple):
    """How a sentence looks.

    Attributes:
        n_draws: how many genes are drawn.
        cls_id, close_id: ids of the first token and of the one that closes a chromosome.
        whole_counts: cut values down to whole numbers first.
    """

    n_draws: int
    cls_id: int
    close_id: int
    whole_counts: bool


@kernel
def _shares(values, whole_counts):
    """(genes,) float64, running sum of the probabilities of genes; empty where no gene can be drawn."""
    weights = np.empty(values.size, np.float32)
    total = 0.0
    for j in range(values.size):
        value = np.floor(values[j]) if whole_counts else values[j]
        weights[j] = np.log1p(np.float32(value))
        total += weights[j]
    if total == 0:
        return np.empty(0, np.float64)
    # the original normalises twice in single precision, and its draws are compared bit by bit
    for _ in range(2):
        scale, total = np.float32(total), 0.0
        for j in range(values.size):
            weights[j] = weights[j] / scale
            total += weights[j]
    shares, running = np.empty(values.size, np.float64), 0.0
    for j in range(values.size):
        running += np.float64(weights[j])
        shares[j] = running
    return shares / running


@kernel
def _draw_genes(shares, uniforms):
    """(genes,) how often each gene is drawn: the first whose share lies above the number."""
    n = shares.size
    # where to begin looking: at the first share above the number, rounded down to a multiple of 1 / n
    begin, j = np.empty(n, np.int64), 0
    for step in range(n):
        while shares[j] <= step / n:
            j += 1
        begin[step] = j
    counts = np.zeros(n, np.int32)
    for number in uniforms:
        j = begin[int(number * n)]
        # the product may be rounded up
        while j > 0 and shares[j - 1] > number:
            j -= 1
        while shares[j] <= number:
            j += 1
        counts[j] += 1
    return counts


@part
def _order_of(keys, scratch):
    """(keys,) int32, where the uint64 keys, at least one, stand from the smallest up."""
    order = np.empty(keys.size, np.int32)
    stable_sort(keys, keys.size, np.empty(keys.size, np.uint64), order, scratch)
    return order


@part
def _in_genomic_order(ids, counts, places, scratch):
    """The genes that were drawn, as places in `ids`, by their place in the genome."""
    drawn, keys, n = np.empty(counts.size, np.int64), np.empty(counts.size, np.uint64), 0
    for j in range(counts.size):
        if counts[j]:
            drawn[n], keys[n] = j, places[ids[j]]
            n += 1
    order = _order_of(keys[:n], scratch)
    ordered = np.empty(n, np.int64)
    for j in range(n):
        ordered[j] = drawn[order[j]]
    return ordered


@part
def _runs(ids, drawn, chromosomes):
    """Where each chromosome begins among the drawn genes, and the number of these at the end."""
    bounds = np.empty(drawn.size + 1, np.int64)
    n, last = 0, -1
    for j in range(drawn.size):
        chromosome = chromosomes[ids[drawn[j]]]
        if chromosome != last:
            bounds[n] = j
            n += 1
            last = chromosome
    bounds[n] = drawn.size
    return bounds[: n + 1]


@part
def _keyed_order(key, ids, drawn, bounds, chromosomes, scratch):
    words = np.empty(bounds.size - 1, np.uint64)
    for run_number in range(words.size):
        words[run_number] = draw(key, chromosomes[ids[drawn[bounds[run_number]]]])
    return _order_of(words, scratch)


@part
def _write_sentence(ids, counts, drawn, bounds, order, genome, sentence, out):
    """Write the tokens; returns how many."""
    out[0] = sentence.cls_id
    at = 1
    for run_number in order:
        first, last = bounds[run_number], bounds[run_number + 1]
        out[at] = genome.chromosomes[ids[drawn[first]]]
        at += 1
        for j in range(first, last):
            for _ in range(counts[drawn[j]]):
                out[at] = ids[drawn[j]]
                at += 1
        out[at] = sentence.close_id
        at += 1
    return at


@kernel
def _encode(genes, keys, genome, sentence, draws, scratch, out, start, stop):
    is_keyed = draws.uniforms.size == 0
    for i in range(start, stop):
        first, last = genes.indptr[i], genes.indptr[i + 1]
        ids = genes.ids[first:last]
        shares = _shares(genes.values[first:last], sentence.whole_counts)
        if shares.size == 0:
            out.lengths[i] = 0
            continue
        if is_keyed:
            key = substream(keys[i], Stream.TIES)
            uniforms = np.empty(sentence.n_draws, np.float64)
            for j in range(sentence.n_draws):
                uniforms[j] = uniform(key, j)
        else:
            uniforms = draws.uniforms[i]
        counts = _draw_genes(shares, uniforms)
        drawn = _in_genomic_order(ids, counts, genome.places, scratch)
        bounds = _runs(ids, drawn, genome.chromosomes)
        if is_keyed:
            order = _keyed_order(substream(keys[i], Stream.SUBSET), ids, drawn, bounds, genome.chromosomes, scratch)
        else:
            order = _order_of(draws.order[i, : bounds.size - 1].view(np.uint64), scratch)
        row = out.ids[out.starts[i] : out.starts[i] + out.lengths[i]]
        out.lengths[i] = _write_sentence(ids, counts, drawn, bounds, order, genome, sentence, row)


def encode_chromosomes(
    genes: CellGenes,
    keys: np.ndarray,
    genome: Genome,
    sentence: Sentence,
    out: CellTokens,
    *,
    draws: Draws | None = None,
    num_threads: int = 1,
) -> None:
    """Write cells as sentences.

    Args:
        genes: the genes of sound cells (see [`take_genes`]), all of them with a place in the genome.
        keys: (cells,) keys from [`cell_keys`].
        genome: where genes lie.
        sentence: how a sentence looks.
        out: where each cell's tokens go, and room for how many there is; [`most_tokens`] are enough. The lengths
            become those of the sentences, 0 for a cell of which no gene can be drawn.
        draws: recorded draws, from [`published_draws`]; None for those keyed by the cell.
        num_threads: how many threads share the cells; the result does not depend on it.
    """
    if draws is None:
        draws = Draws(np.empty((0, 0)), np.empty((0, 0), np.int64))

    def piece(start: int, stop: int) -> None:
        scratch = sort_scratch(widest(genes, start, stop))
        _encode(genes, keys, genome, sentence, draws, scratch, out, start, stop)

    run(piece, keys.size, num_threads)


def most_tokens(n_genes: np.ndarray, n_draws: int, n_chromosomes: int) -> np.ndarray:
    """(cells,) int64, tokens that sentences have at most.

    Args:
        n_genes: (cells,) expressed genes that the vocabulary knows.
        n_draws: how many genes are drawn.
        n_chromosomes: on how many chromosomes the genes lie.
    """
    return 1 + n_draws + 2 * np.minimum(n_genes, min(n_draws, n_chromosomes)).astype(np.int64)


def published_draws(
    genes: CellGenes, genome: Genome, sentence: Sentence, random_state: np.random.RandomState
) -> Draws:
    """The draws of the published procedure, which goes from cell to cell with numpy's legacy generator.

    For each cell it takes `n_draws` uniforms (`choice`), then shuffles the chromosomes drawn from (`shuffle`).

    Args:
        genes, genome, sentence: as for [`encode_chromosomes`].
        random_state: the generator, for example `np.random.RandomState(seed)`; left where the last cell leaves it.
    """
    n_cells = genes.indptr.size - 1
    uniforms, orders = np.zeros((n_cells, sentence.n_draws)), []
    for i in range(n_cells):
        cell = slice(genes.indptr[i], genes.indptr[i + 1])
        shares = _shares(genes.values[cell], sentence.whole_counts)
        if shares.size:
            uniforms[i] = random_state.random_sample(sentence.n_draws)
            drawn = np.flatnonzero(_draw_genes(shares, uniforms[i]))
            shuffled = np.arange(np.unique(genome.chromosomes[genes.ids[cell][drawn]]).size)
            random_state.shuffle(shuffled)
            orders.append(np.argsort(shuffled))
        else:
            orders.append(np.empty(0, np.int64))
    order = np.zeros((n_cells, max(map(len, orders), default=0)), np.int64)
    for row, places in zip(order, orders, strict=True):
        row[: places.size] = places
    return Draws(uniforms, order)


@kernel
def _compact(ids, starts, lengths):
    at = 0
    for i in range(starts.size):
        for j in range(lengths[i]):
            ids[at + j] = ids[starts[i] + j]
        starts[i] = at
        at += lengths[i]
    return at


def compact(tokens: CellTokens) -> CellTokens:
    """The same cells, one directly after the other; the room between them is given up."""
    n = _compact(tokens.ids, tokens.starts, tokens.lengths)
    return tokens._replace(ids=tokens.ids[:n])


def _are_places(value) -> bool:
    """Whether it is species -> gene -> (chromosome, start)."""
    if not isinstance(value, dict) or not all(isinstance(genes, Mapping) for genes in value.values()):
        return value is None
    return all(
        isinstance(place, (list, tuple)) and len(place) == 2 and isinstance(place[0], str) and is_whole(place[1])
        for genes in value.values()
        for place in genes.values()
    )


class Chromosomes(Encoding):
    """Genes drawn by their expression, in genomic order; written by `ChromosomeProcessor`, which knows the genome."""

    name = "chromosomes"
    parameters = {
        "n_draws": Parameter(1024, lambda value: is_whole(value, 1), "a whole number, at least 1"),
        "whole_counts": Parameter(False, lambda value: isinstance(value, bool), "one of True, False"),
        "gene_places": Parameter(None, _are_places, "None, or species with genes, each with [chromosome, start]"),
    }
    has_values = False

    def check(self, parameters) -> None:
        if parameters.truncation == "zscore":
            raise ConfigurationError("The encoding `chromosomes` draws genes: `truncation` must not be 'zscore'.")

    def write(self, setting: Setting, genes, keys, out, *, uniforms=None, totals=None, num_threads=1) -> None:
        raise ConfigurationError(
            "The encoding `chromosomes` needs a `ChromosomeProcessor`, which knows where genes lie: take the "
            "processor of the model's family."
        )


CHROMOSOMES = Chromosomes()
