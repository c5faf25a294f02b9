"""Sums over the edges of graphs."""

import pytest
import torch

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.graphs import (
    check_edges,
    degrees,
    edges_by_relation,
    scatter_sum,
    segment_softmax,
)

TARGETS = torch.tensor([2, 0, 2, 2, 0])


def test_sums_and_degrees_of_targets_without_edges_are_zero():
    values = torch.arange(10.0).view(5, 2)
    assert scatter_sum(values, TARGETS, 4).tolist() == [[10, 12], [0, 0], [10, 13], [0, 0]]
    assert degrees(TARGETS, 4).tolist() == [2, 0, 3, 0]


def test_softmax_of_each_target_is_that_of_its_edges():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    found = segment_softmax(logits, TARGETS, 4)
    for target in (0, 2):
        torch.testing.assert_close(found[target == TARGETS], logits[target == TARGETS].softmax(dim=0))


def test_softmax_of_large_logits_is_finite_and_has_the_gradient_of_softmax():
    logits = torch.tensor([1e4, -1e4, 9999.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    segment_softmax(logits, TARGETS, 3).square().sum().backward()
    other = logits.detach().clone().requires_grad_()
    sum(other[target == TARGETS].softmax(dim=0).square().sum() for target in (0, 2)).backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_no_edges_give_nothing():
    none = torch.empty(0, dtype=torch.int64)
    assert segment_softmax(torch.empty(0, 2), none, 3).shape == (0, 2)
    assert scatter_sum(torch.empty(0, 2), none, 3).tolist() == [[0, 0]] * 3


def test_edges_are_grouped_by_relation():
    numbers = edges_by_relation(torch.tensor([1, 0, 2, 1]), 2)
    assert [one.tolist() for one in numbers] == [[1], [0, 3]]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), r"must be \(2, edges\) int64"),
        (torch.zeros(2, 3), r"must be \(2, edges\) int64"),
        (torch.tensor([[0, 5], [0, 1]]), "lead from nodes 0 to 4; there are numbers from 0 to 5"),
        (torch.tensor([[0, 4], [-1, 1]]), "lead to nodes 0 to 2; there are numbers from -1 to 1"),
    ],
)
def test_lists_that_are_none_are_refused(edges, message):
    with pytest.raises(ConfigurationError, match=message):
        check_edges(edges, 5, 3)
