"""Cell sentences: a cell is the names of its expressed genes, from the most to the least expressed, and back.

Source: Levine et al., "Cell2Sentence: Teaching Large Language Models the Language of Biology", ICML 2024. There,
counts are scaled to a common total, `log10(1 + x)` is taken, names are written in upper case, ties stand in random
order, and expression comes back from the place of a gene by a line fitted to `log10(1 + rank)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ..errors import ConfigurationError, ExpressionError
from ..tokenization.encodings.cells import CellGenes, columns_of, run, widest
from ..tokenization.encodings.kernels import kernel, part
from ..tokenization.encodings.keys import Stream, cell_keys, draw, hash_names, substream
from ..tokenization.encodings.sorting import sort_scratch, stable_sort
from ..tokenization.expression_matrix import as_csr, match_length, read_genes

NOT_A_GENE = "NOT_A_GENE"
"""What stands for a word of a parsed sentence that is not a gene."""

CASES = ("upper", "keep")
TIE_RULES = ("hash", "c2s", "stable")


def gene_words(names: Sequence[str], *, case: str = "upper") -> list[str]:
    """The words that stand for genes in sentences.

    Args:
        names: names of the columns.
        case: `"upper"`, as published, or `"keep"`, which keeps mouse genes apart from human ones.

    Raises:
        ExpressionError: a name is empty or holds white space, or two names become the same word.
        ConfigurationError: `case` is something else.
    """
    _check_choice("case", case, CASES)
    words = [str(name).upper() if case == "upper" else str(name) for name in names]
    # the rule, for there are often tens of thousands
    if " ".join(words).split() == words and len(set(words)) == len(words):
        return words
    first: dict[str, int] = {}
    for column, word in enumerate(words):
        if word.split() != [word]:
            raise ExpressionError(f"The gene {names[column]!r} cannot be a word, being empty or with white space.")
        if first.setdefault(word, column) != column:
            raise ExpressionError(
                f"The genes {names[first[word]]!r} and {names[column]!r} are both written {word!r}: leave one out, "
                "rename it" + (", or say `case='keep'`." if names[first[word]] != names[column] else ".")
            )
    return words


def count_cells(matrix, names: Sequence[str], *, case: str = "upper") -> dict[str, int]:
    """In how many cells each gene is expressed, by word, in the order of the columns.

    Args:
        matrix: (cells, genes) CSR or dense.
        names, case: as for [`gene_words`].
    """
    words = gene_words(names, case=case)
    genes, _ = _genes_of(matrix, len(words))
    return dict(zip(words, np.bincount(genes.ids, minlength=len(words)).tolist(), strict=True))


def log10_normalize(matrix, target_sum: float | str = 10_000.0) -> scipy.sparse.csr_matrix:
    """`log10(1 + count / total × target_sum)`, (cells, genes) float32; a cell without counts stays empty.

    Args:
        matrix: (cells, genes) counts, CSR or dense.
        target_sum: what each cell's counts are scaled to. `"median"`, the default of the original, is the median total
            of these cells, empty ones included, so that a cell then depends on the others.

    Raises:
        ConfigurationError: `target_sum` is neither positive nor `"median"`.
    """
    counts = scipy.sparse.csr_matrix(as_csr(matrix), dtype=np.float64, copy=True)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.median(totals) if target_sum == "median" else target_sum
    if isinstance(scale, str) or not scale > 0:
        raise ConfigurationError(f"`target_sum` must be positive or 'median', got {scale!r}.")
    counts.data = np.log10(1 + counts.data / np.repeat(totals, np.diff(counts.indptr)) * scale)
    return counts.astype(np.float32)


_SMALL_RUN = 24
_MOST_BITS, _U1 = np.uint64(10), np.uint32(1)
_MOST_COUNT = 1 << 10


@part
def _insertion_sort(draws, genes, n):
    """Put the first `n` genes in the order of their draws."""
    for i in range(1, n):
        gene, drawn, j = genes[i], draws[i], i
        while j > 0 and draws[j - 1] > drawn:
            genes[j], draws[j] = genes[j - 1], draws[j - 1]
            j -= 1
        genes[j], draws[j] = gene, drawn


@part
def _sort_run(stream_key, draws_of, genes, wanted, draws, sorted_draws, sorted_genes, starts):
    """Put genes of one value in the order of their draws, as far as the first `wanted` depend on it.

    Draws are spread evenly, so that buckets by their leading bits, about as many as genes, leave little to be moved.
    """
    n = genes.size
    for i in range(n):
        draws[i] = draw(stream_key, draws_of[genes[i]])
    if n <= _SMALL_RUN:
        _insertion_sort(draws, genes, n)
        return
    bits = np.uint64(5)
    while bits < _MOST_BITS and (1 << bits) < n:
        bits += np.uint64(1)
    shift = np.uint64(64) - bits
    starts[: 1 << bits] = 0
    for i in range(n):
        starts[draws[i] >> shift] += _U1
    place = bucket = np.uint32(0)
    while place < wanted:
        place, starts[bucket] = place + starts[bucket], place
        bucket += _U1
    for i in range(n):
        if draws[i] >> shift < bucket:
            at = starts[draws[i] >> shift]
            starts[draws[i] >> shift] = at + _U1
            sorted_draws[at], sorted_genes[at] = draws[i], genes[i]
    _insertion_sort(sorted_draws, sorted_genes, place)
    for i in range(wanted):
        genes[i] = sorted_genes[i]


@part
def _by_count(ids, values, wanted, starts, genes, keys):
    """Put the genes of the highest values first, at least `wanted`, and their values into `keys`; returns how many.

    Only of whole numbers below `_MOST_COUNT`, as counts mostly are; 0 where there are others.
    """
    starts[:] = 0
    highest = np.uint32(0)
    for j in range(ids.size):
        value = np.uint32(values[j]) if values[j] < _MOST_COUNT else np.uint32(0)
        if value != values[j]:
            return np.uint32(0)
        starts[value] += _U1
        highest = max(highest, value)
    place, least = np.uint32(0), highest + _U1
    while place < wanted:
        least -= _U1
        place, starts[least] = place + starts[least], place
    for j in range(ids.size):
        value = np.uint32(values[j])
        if value >= least:
            at = starts[value]
            starts[value] = at + _U1
            genes[at], keys[at] = ids[j], value
    return place


@part
def _by_value(ids, values, keys, scaled, order, genes, scratch):
    """Put all genes in the order of their values, from high to low, and what is equal where values are into `keys`."""
    value_keys = scaled.view(np.uint64)
    for j in range(ids.size):
        scaled[j] = values[j]
        value_keys[j] = ~value_keys[j]
    stable_sort(value_keys, ids.size, keys, order, scratch)
    for j in range(ids.size):
        genes[j] = ids[order[j]]


@kernel
def _order(genes, cell_keys, draws_of, hashed, starts, size, scratch, out, start, stop):
    keys, draws, scaled = np.empty(size, np.uint64), np.empty(size, np.uint64), np.empty(size, np.float64)
    order, ids, buckets = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(_MOST_COUNT, np.uint32)
    for i in range(start, stop):
        wanted = starts[i + 1] - starts[i]
        if wanted == 0:
            continue
        its = genes.ids[genes.indptr[i] : genes.indptr[i + 1]]
        values = genes.values[genes.indptr[i] : genes.indptr[i + 1]]
        n = np.int64(_by_count(its, values, wanted, buckets, ids, keys))
        if n == 0:
            n = its.size
            _by_value(its, values, keys, scaled, order, ids, scratch)
        stream_key, first = substream(cell_keys[i], Stream.TIES), 0
        while hashed and first < wanted:
            last = first + 1
            while last < n and keys[last] == keys[first]:
                last += 1
            if last - first > 1:
                needed = min(last, wanted) - first
                _sort_run(stream_key, draws_of, ids[first:last], needed, draws, scaled.view(np.uint64), order, buckets)
            first = last
        for j in range(wanted):
            out[starts[i] + j] = ids[j]


def order_genes(
    matrix,
    words: Sequence[str],
    *,
    n_genes: int | None = None,
    ties: str = "hash",
    cell_ids=None,
    seed: int = 0,
    epoch: int = 0,
    num_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the expressed genes of each cell, from the highest value down.

    Args:
        matrix: (cells, genes) CSR or dense, not negative; zeros that are stored count as not expressed.
        words: (genes,) from [`gene_words`].
        n_genes: keep at most so many genes per cell; None keeps all.
        ties: the order of equal values: `"hash"`, random by (cell, gene, seed, epoch), so that a cell's sentence does
            not depend on the cells around it; `"c2s"`, drawn as Cell2Sentence does from
            `numpy.random.RandomState(seed)` one row after the other, so that it depends on the rows before; or
            `"stable"`, the order of the columns.
        cell_ids: (cells,) integers that key the draws; row numbers unless given.
        seed: seed of what is drawn.
        epoch: varies what is drawn; not for `"c2s"`.
        num_threads: how many threads share the cells.

    Returns:
        indptr (cells + 1,) int64 and columns (genes kept,) int32, one cell after the other.

    Raises:
        ExpressionError: lengths do not match, or values are negative or not finite.
        ConfigurationError: `ties` is none of these, or `n_genes` is below 1.
    """
    _check_choice("ties", ties, TIE_RULES)
    if n_genes is not None and n_genes < 1:
        raise ConfigurationError(f"`n_genes` must be at least 1, or None for all genes, got {n_genes}.")
    genes, n_cells = _genes_of(matrix, len(words))
    lengths = np.diff(genes.indptr)
    starts = np.cumsum(np.r_[0, lengths if n_genes is None else np.minimum(lengths, n_genes)])
    if ties == "c2s":
        places = np.arange(starts[-1]) + np.repeat(genes.indptr[:-1] - starts[:-1], np.diff(starts))
        return starts, _c2s_order(genes, seed)[places]
    cell_ids = np.arange(n_cells) if cell_ids is None else cell_ids
    match_length("cell ids", cell_ids, n_cells, "row")
    columns = np.empty(starts[-1], np.int32)
    keys = cell_keys(cell_ids, seed, epoch)
    draws_of, hashed = hash_names(words), ties == "hash"

    def piece(start: int, stop: int) -> None:
        size = widest(genes, start, stop)
        _order(genes, keys, draws_of, hashed, starts, size, sort_scratch(size), columns, start, stop)

    run(piece, n_cells, num_threads)
    return starts, columns


def _c2s_order(genes: CellGenes, seed: int) -> np.ndarray:
    random, columns = np.random.RandomState(seed), np.empty(genes.indptr[-1], np.int32)
    for first, stop in zip(genes.indptr[:-1], genes.indptr[1:], strict=True):
        shuffled = np.arange(stop - first)
        random.shuffle(shuffled)
        order = shuffled[np.argsort(-genes.values[first:stop][shuffled], kind="stable")]
        columns[first:stop] = genes.ids[first:stop][order]
    return columns


def cell_sentences(
    matrix,
    names: Sequence[str],
    *,
    n_genes: int | None = None,
    case: str = "upper",
    ties: str = "hash",
    cell_ids=None,
    seed: int = 0,
    epoch: int = 0,
    num_threads: int = 1,
) -> list[str]:
    """One sentence per cell: words between single spaces; a cell without expressed genes is the empty string.

    Args:
        matrix: (cells, genes) CSR or dense. The original takes [`log10_normalize`] of counts; counts themselves give
            the same order except where rounding makes ties.
        names: (genes,) names of the columns.
        case: as for [`gene_words`].
        n_genes, ties, cell_ids, seed, epoch, num_threads: as for [`order_genes`]. The published models took 100, 200
            or more genes.

    Raises:
        ExpressionError: as [`gene_words`] and [`order_genes`].
        ConfigurationError: an option is not one of its choices.
    """
    words = gene_words(names, case=case)
    starts, columns = order_genes(
        matrix,
        words,
        n_genes=n_genes,
        ties=ties,
        cell_ids=cell_ids,
        seed=seed,
        epoch=epoch,
        num_threads=num_threads,
    )
    return _spelled(words, starts, columns, num_threads)


_BLOCK = 64
"""Cells that are spelled together, so that what they are written to stays small."""


@kernel
def _write(columns, starts, text, word_ends, out, ends):
    """Write the words of cells, a space after each, and where each cell ends."""
    # unsigned places are not looked at for being negative, which takes half of the time
    place = np.uint64(0)
    for i in range(starts.size - 1):
        for j in range(starts[i], starts[i + 1]):
            word = np.uint32(columns[j])
            for k in range(word_ends[word], word_ends[word + _U1]):
                out[place] = text[np.uint32(k)]
                place += np.uint64(1)
        ends[i] = place


def _spelled(words: Sequence[str], starts: np.ndarray, columns: np.ndarray, num_threads: int) -> list[str]:
    """The words of each cell between single spaces. Joining them in Python would take most of the time."""
    text = np.frombuffer("".join(f"{word} " for word in words).encode(), np.uint8)
    word_ends = np.r_[0, np.flatnonzero(text == ord(" ")) + 1].astype(np.uint32)
    longest, sentences = np.diff(word_ends).max(initial=0), [""] * (len(starts) - 1)

    def piece(start: int, stop: int) -> None:
        blocks = range(start, stop, _BLOCK)
        most = max((starts[min(first + _BLOCK, stop)] - starts[first] for first in blocks), default=0)
        written, ends = np.empty(most * longest, np.uint8), np.empty(_BLOCK, np.int64)
        for first in blocks:
            last = min(first + _BLOCK, stop)
            _write(columns, starts[first : last + 1], text, word_ends, written, ends)
            ended = ends[: last - first].tolist()
            for cell, begin, end in zip(range(first, last), [0, *ended[:-1]], ended, strict=True):
                # without the last space
                sentences[cell] = str(written[begin : max(end - 1, begin)], "utf-8")

    run(piece, len(sentences), num_threads)
    return sentences


@dataclass(frozen=True)
class RankFit:
    """The line `expression = intercept + slope × log10(1 + rank)`, ranks from 0, and how well it fits.

    Attributes:
        slope, intercept: of the line, by ordinary least squares.
        r_squared, pearson_r, spearman_r: of expression with what the line says, over all expressed genes, those left
            out of the fit included.
    """

    slope: float
    intercept: float
    r_squared: float
    pearson_r: float
    spearman_r: float


def fit_ranks(ranks: np.ndarray, values: np.ndarray, *, below: float = 3.0) -> RankFit:
    """Fit expression to the logarithm of ranks.

    Args:
        ranks: (expressed genes,) ranks within their cells, from 0, for example from [`rank_pairs`].
        values: (expressed genes,) normalised expression.
        below: fit only where `log10(1 + rank)` is below it; 3 leaves out ranks from 999 on, as published.

    Raises:
        ExpressionError: lengths do not match, or there are fewer than two different ranks to fit.
    """
    from scipy.stats import linregress, pearsonr, spearmanr

    match_length("values", values, len(ranks), "rank")
    x, y = np.log10(1 + np.asarray(ranks, np.float64)), np.asarray(values, np.float64)
    fitted = x < below
    if np.unique(x[fitted]).size < 2:
        raise ExpressionError("A line needs genes of at least two different ranks: give cells with more genes.")
    line = linregress(x[fitted], y[fitted])
    predicted = line.intercept + line.slope * x
    r_squared = 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    correlations = float(pearsonr(predicted, y).statistic), float(spearmanr(predicted, y).statistic)
    return RankFit(float(line.slope), float(line.intercept), float(r_squared), *correlations)


def rank_pairs(
    matrix,
    names: Sequence[str],
    *,
    case: str = "upper",
    ties: str = "hash",
    cell_ids=None,
    seed: int = 0,
    epoch: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 0 and values of all expressed genes, one cell after the other: what [`fit_ranks`] takes.

    Args:
        matrix: (cells, genes) normalised expression, for example from [`log10_normalize`].
        names, case: as for [`gene_words`].
        ties, cell_ids, seed, epoch: as for [`order_genes`].
    """
    words = gene_words(names, case=case)
    indptr, columns = order_genes(matrix, words, ties=ties, cell_ids=cell_ids, seed=seed, epoch=epoch)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    values = np.asarray(scipy.sparse.csr_matrix(as_csr(matrix))[rows, columns]).ravel()
    return np.arange(len(columns)) - indptr[rows], values


def expression_from_sentences(
    sentences: Sequence[str | Sequence[str]],
    words: Sequence[str],
    *,
    slope: float,
    intercept: float,
    rank_offset: int = 0,
) -> scipy.sparse.csr_matrix:
    """The inverse: `intercept + slope × log10(1 + rank)` for each gene of a sentence, zero for all others.

    Words that are not genes keep their places; the last place of a gene that occurs twice counts; nothing is clipped,
    so late genes of long sentences may come out negative. Case matters: see [`parse_sentence`].

    Args:
        sentences: sentences, or lists of their words.
        words: (genes,) the genes in the order of the columns wanted, from [`gene_words`].
        slope, intercept: from [`fit_ranks`].
        rank_offset: rank of the first word; 0 as published, 1 in scMMGPT.

    Returns:
        (cells, genes) float32.
    """
    column_of = {word: column for column, word in enumerate(words)}
    listed = [sentence.split(" ") if isinstance(sentence, str) else sentence for sentence in sentences]
    rows, columns, ranks = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for row, sentence in enumerate(listed):
        found = np.fromiter((column_of.get(word, -1) for word in reversed(sentence)), np.int64, len(sentence))
        genes, from_the_end = np.unique(found, return_index=True)
        columns.append(genes[genes >= 0])
        ranks.append(len(sentence) - 1.0 - from_the_end[genes >= 0])
        rows.append(np.full(columns[-1].size, row))
    values = (intercept + slope * np.log10(1 + rank_offset + np.concatenate(ranks))).astype(np.float32)
    places = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_matrix((values, places), shape=(len(listed), len(column_of)))


def parse_sentence(sentence: str, words: Sequence[str], *, case: str = "upper") -> tuple[list[str], int]:
    """The genes of a sentence that a model wrote, each once.

    Words are what stands between single spaces, punctuation included; a word that is not a gene becomes `NOT_A_GENE`
    and keeps its place. A gene that occurs more than once moves to the mean of its places, rounded down; one gene
    after the other, in the order in which they first occur, as published.

    Args:
        sentence: the text.
        words: the genes, from [`gene_words`].
        case: `"upper"` writes the sentence in upper case first; `"keep"` takes it as it is.

    Returns:
        The words, and how many words of the sentence were not genes.
    """
    _check_choice("case", case, CASES)
    known = frozenset(words)
    listed = (sentence.upper() if case == "upper" else sentence).split(" ")
    listed = [word if word in known else NOT_A_GENE for word in listed]
    n_unknown = listed.count(NOT_A_GENE)
    for gene in dict.fromkeys(listed):
        places = [place for place, word in enumerate(listed) if word == gene]
        if gene != NOT_A_GENE and len(places) > 1:
            listed = [word for word in listed if word != gene]
            listed.insert(sum(places) // len(places), gene)
    return listed, n_unknown


def _genes_of(matrix, n_genes: int) -> tuple[CellGenes, int]:
    matrix = as_csr(matrix)
    match_length("gene names", range(n_genes), matrix.shape[1], "column")
    genes, _, _ = read_genes(matrix, columns_of(np.arange(n_genes, dtype=np.int32)))
    return genes, matrix.shape[0]


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ConfigurationError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {given!r}.")
