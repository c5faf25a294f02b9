"""What MarsGT is trained by."""

from torch import Tensor
from torch.nn import functional as F


def similarity_within(embedding: Tensor, labels: Tensor) -> Tensor:
    """The mean cosine between the cells of a label, each with itself included, summed over the labels.

    Args:
        embedding: (cells, hidden).
        labels: (cells,).
    """
    directions = F.normalize(embedding, dim=1)
    # the mean over all pairs is the square of the mean direction
    return sum(directions[labels == label].mean(dim=0).square().sum() for label in labels.unique())


def distribution_loss(logits: Tensor, values: Tensor) -> Tensor:
    """How far the distributions over cells are from those of the values: Kullback-Leibler, mean over all entries.

    Args:
        logits: (genes or peaks, cells).
        values: (genes or peaks, cells), counts.
    """
    return divergence(logits, values.to(logits.dtype))


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """The mean, over all entries, of what rows contribute to the Kullback-Leibler divergence.

    Args:
        logits: (rows, entries).
        target: (rows, entries), logits as well.
    """
    # of logarithms, as shares that are too small for a float would have no gradient
    shares = logits.log_softmax(dim=1), target.log_softmax(dim=1)
    return F.kl_div(*shares, reduction="none", log_target=True).mean()


def pair_weights(
    expression: Tensor, accessibility: Tensor, potential: Tensor, pairs: Tensor, *, aligned: bool = True
) -> Tensor:
    """(pairs, cells): expression of the gene times accessibility of the peak times their regulatory potential.

    Args:
        expression: (genes, cells).
        accessibility: (peaks, cells).
        potential: (genes, peaks).
        pairs: (2, pairs), numbers of genes above those of peaks.
        aligned: whether each pair has its own potential. Else pairs must be all, peaks first, and get those of all
            pairs, genes first, in the order of the list.
    """
    genes, peaks = pairs
    own = potential[genes, peaks] if aligned else potential.flatten()
    return expression[genes] * accessibility[peaks] * own.unsqueeze(1)
