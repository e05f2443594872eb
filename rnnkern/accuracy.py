"""The one rule by which a result is accurate enough.

Against a float64 result that counts as exact, our largest absolute error is at most twice that of a
peer in the same dtype on the same input. The peer is torch.nn, or for a cell that torch.nn lacks
`rnnkern.reference` in that dtype.

A peer's own error is zero by accident where a result has few elements, so below a floor nothing is
compared: some units in the last place of the largest number in the sum.

- float32: 4 eps, for exp and tanh within 2 ulp and another order of adding.
- float64: 32 eps. The arbiter rounds as we do, at each of the tens of products in a sum, so the
  peer's error against it is no measure.
- 16-bit types: 1 eps. On a CPU they compute in float32 and round once at the end, which costs
  eps / 2; on a GPU h and the gradients of gates are rounded at every step, as in torch.nn.

The largest of a few errors is a matter of luck: in 60 draws in float32 (T=5 N=33 H=33 P=1 D=2) our
largest error in the 33 elements of a dw_hr was 1.0 times the reference's in the median; in 9 of 10
up to 1.7 times for rnn_tanh and 1.8 for rnn_relu; at worst 2.3 and 2.9 times. So where one draw of
gradients is over the rule, it is applied to the median of several, and none may be over twice what
is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from statistics import median

import torch
from torch import Tensor

RATIO = 2.0
FLOOR = {torch.float32: 4.0, torch.float64: 32.0, torch.bfloat16: 1.0, torch.float16: 1.0}

DRAWS = 5
WORST_DRAW = 2.0  # of what is allowed


def largest(values: Tensor) -> float:
    """The largest magnitude; 0 of nothing."""
    return values.abs().max().item() if values.numel() else 0.0


def error(result: Tensor, exact: Tensor) -> float:
    """The largest absolute difference; infinite where shapes differ or one alone is not finite."""
    if result.shape != exact.shape:
        return inf
    result, exact = result.double(), exact.double()
    is_same = (result == exact) | (result.isnan() & exact.isnan())
    difference = (result - exact).abs().masked_fill(is_same, 0.0)
    return largest(difference.nan_to_num(nan=inf, posinf=inf))


def allowance(peer: Tensor, exact: Tensor, scale: float = 1.0) -> float:
    """The error that the rule allows.

    Args:
        peer: the peer's result.
        exact: the float64 result.
        scale: the size of the numbers that were added up to make the result; the largest exact
            result is taken where that is larger.
    """
    floor = FLOOR[peer.dtype] * torch.finfo(peer.dtype).eps * max(scale, largest(exact))
    return max(RATIO * error(peer, exact), floor)


def excess(ours: Tensor, peer: Tensor, exact: Tensor, scale: float = 1.0) -> float:
    """Our error, where 1 is what the rule allows; arguments else as for `allowance`."""
    found, allowed = error(ours, exact), allowance(peer, exact, scale)
    if found == 0 or allowed == inf:
        return 0.0
    return found / allowed if allowed > 0 else inf


def settled(draw: Callable[[int], Sequence[float]], only_median: bool = False) -> list[float]:
    """The excess of each tensor of a result, after the rule for gradients: see the top.

    Args:
        draw: the excess of each tensor in one draw, by the draw's number.
        only_median: whether a single draw may be over by any amount.

    Returns:
        Those of draw 0, if none is over 1. Otherwise, of several draws, the median, or if it is
        larger the worst divided by what it may be.
    """
    first = draw(0)
    if all(found <= 1 for found in first):
        return list(first)
    draws = [first, *map(draw, range(1, DRAWS))]
    return [
        max(median(each), 0.0 if only_median else max(each) / WORST_DRAW)
        for each in zip(*draws, strict=True)
    ]
