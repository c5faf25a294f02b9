"""Clusters that are trained (Xie et al., Unsupervised deep embedding for clustering analysis, ICML 2016)."""

import torch
from torch import Tensor

N_STARTS = 20
N_ROUNDS = 100


def soft_assignments(latent: Tensor, centres: Tensor) -> Tensor:
    """(spots, clusters) how near each spot is to each centre, by Student's t; rows sum to 1."""
    squares = (latent.unsqueeze(1) - centres).square().sum(dim=2)
    nearness = 1 / (1 + squares)
    return nearness / nearness.sum(dim=1, keepdim=True)


def sharpened(assignments: Tensor) -> Tensor:
    """(spots, clusters) what assignments should become: clearer, and large clusters no larger."""
    weights = assignments.square() / assignments.sum(dim=0)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def k_means(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """(n_clusters, size) centres, the best of some starts.

    Args:
        points: (points, size).
        n_clusters: how many centres.
        generator: of the CPU, draws the points to start from.
    """
    found = [_lloyd(points, _start(points, n_clusters, generator)) for _ in range(N_STARTS)]
    return min(found, key=lambda one: one[0])[1]


def _start(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Points far from one another (k-means++)."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device)
    while len(chosen) < n_clusters:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
        weights = nearest.double().cpu()
        if weights.sum() == 0:
            weights = torch.ones_like(weights)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return points[chosen]


def _lloyd(points: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """The sum of squared distances, and the centres that lead to it."""
    for _ in range(N_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        # a centre that nobody is near stays where it is
        moved = torch.stack(
            [
                points[nearest == one].mean(dim=0) if (nearest == one).any() else centres[one]
                for one in range(len(centres))
            ]
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    return float(torch.cdist(points, centres).amin(dim=1).square().sum()), centres
