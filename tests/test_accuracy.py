"""Claim: the rule by which results are judged tells what is off from what is not."""

from math import inf, nan

import pytest
import torch

from rnnkern import accuracy

EPS = torch.finfo(torch.float32).eps
ONE = torch.ones(3)


def off(by):
    return ONE + torch.tensor([0.0, by, 0.0])


def test_error_is_the_largest_difference():
    assert accuracy.error(torch.tensor([1.0, -2.5]), torch.tensor([1.5, -2.0]).double()) == 0.5
    assert accuracy.error(torch.empty(0), torch.empty(0).double()) == 0


@pytest.mark.parametrize(
    ("result", "found"),
    [([nan, inf], 0.0), ([nan, 1.0], inf), ([nan, -inf], inf), ([1.0, inf], inf), ([nan], inf)],
    ids=str,
)
def test_what_is_not_finite_must_be_the_same(result, found):
    assert accuracy.error(torch.tensor(result), torch.tensor([nan, inf]).double()) == found


def test_twice_the_error_of_the_peer_is_allowed():
    exact = ONE.double()
    assert accuracy.excess(off(0.25), off(0.125), exact) == 1
    assert accuracy.excess(off(-0.5), off(0.125), exact) == 2
    assert accuracy.excess(off(nan), off(0.125), exact) == inf
    assert accuracy.excess(off(nan), off(nan), exact) == 0


def test_below_the_floor_nothing_is_compared():
    exact = ONE.double()
    assert accuracy.excess(off(4 * EPS), ONE, exact) == 1
    assert accuracy.excess(off(8 * EPS), ONE, exact) == 2
    assert accuracy.excess(off(8 * EPS), ONE, exact, scale=2.0) == 1
    assert accuracy.excess(ONE, 0 * ONE, 0 * exact, scale=0.0) == inf


def test_one_draw_settles_it_where_it_is_within_the_rule():
    assert accuracy.settled([[0.5, 1.0]].__getitem__) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("draws", "found", "found_by_median"),
    [
        ([1.5, 0.5, 0.25, 0.5, 0.5], 0.75, 0.5),
        ([2.5, 0, 0, 0, 0], 1.25, 0),
        ([3, 3, 3, 0, 0], 3, 3),
    ],
    ids=str,
)
def test_otherwise_the_median_of_several_draws(draws, found, found_by_median):
    rows = [[draw, 0.0] for draw in draws]
    assert accuracy.settled(rows.__getitem__) == [found, 0.0]
    assert accuracy.settled(rows.__getitem__, only_median=True) == [found_by_median, 0.0]
