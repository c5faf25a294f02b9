"""Of a cell longer than the model takes, the genes that stand out: those with the largest z-scores."""

import numpy as np

from .cells import CellGenes, CellTokens
from .depth import known_totals
from .encoding import Setting
from .kernels import kernel, part
from .masks import at_rank
from .zscored import zscore


@part
def _scores(genes, i, scale, means, deviations, scores):
    """Fill in the z-score of each gene that cell `i` may have, by token id."""
    for token in genes.columns:
        scores[token] = zscore(0.0, 0.0, means[token], deviations[token], np.inf)
    for j in range(genes.indptr[i], genes.indptr[i + 1]):
        token = genes.ids[j]
        scores[token] = zscore(genes.values[j], scale, means[token], deviations[token], np.inf)


@part
def _bound(ids, special, scores, n, max_genes):
    """The smallest score that is kept of `n` genes, and how many that equal it are."""
    words, place = np.empty(n), 0
    for token in ids:
        if not special[token]:
            words[place] = -scores[token]
            place += 1
    bound = -at_rank(words, max_genes - 1)
    above = 0
    for token in ids:
        above += not special[token] and scores[token] > bound
    return bound, max_genes - above


@kernel
def _keep(tokens, genes, scales, means, deviations, special, max_genes, starts, lengths):
    scores, size, has_values = np.zeros(means.size), 0, tokens.values.size > 0
    for i in range(lengths.size):
        starts[i] = size
        start, stop = tokens.starts[i], tokens.starts[i] + tokens.lengths[i]
        n, bound, equal = 0, -np.inf, max_genes
        for token in tokens.ids[start:stop]:
            n += not special[token]
        if n > max_genes:
            _scores(genes, i, scales[i], means, deviations, scores)
            bound, equal = _bound(tokens.ids[start:stop], special, scores, n, max_genes)
        for j in range(start, stop):
            token = tokens.ids[j]
            score = np.inf if special[token] or n <= max_genes else scores[token]
            if score > bound or (score == bound and equal > 0):
                equal -= score == bound
                tokens.ids[size] = token
                if has_values:
                    tokens.values[size] = tokens.values[j]
                size += 1
        lengths[i] = size - starts[i]
    return size


def keep_largest(tokens: CellTokens, genes: CellGenes, setting: Setting) -> CellTokens:
    """Encoded cells of at most `max_length` tokens: of longer ones the genes of the largest z-scores, in their order.

    Of equal z-scores those that come first are kept.

    Args:
        tokens: cells of any length, one after the other; their memory is used.
        genes: what they were made from.
        setting: the model.
    """
    given, vocabulary = setting.parameters, setting.vocabulary
    special = np.zeros(vocabulary.size, bool)
    special[list(vocabulary.special_tokens.values())] = True
    totals = known_totals(genes)
    scales = given.target_sum / totals if given.expects == "counts" else np.zeros_like(totals)
    starts, lengths = np.empty_like(tokens.starts), np.empty_like(tokens.lengths)
    max_genes = given.max_length - given.n_special_tokens
    means, deviations = setting.statistics
    size = _keep(tokens, genes, scales, means, deviations, special, max_genes, starts, lengths)
    return CellTokens(tokens.ids[:size], tokens.values[: size if tokens.values.size else 0], starts, lengths)
