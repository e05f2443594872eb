"""The one rule by which a result is accurate enough.

Against the float64 reference, our largest absolute error is at most twice that of torch.nn in the
same dtype on the same input (of the reference itself in that dtype, for a cell torch.nn lacks).

torch's own error is zero by accident where a result has few elements, so below a floor nothing is
compared: some units in the last place of the largest number in the sum.

- float32: 4 eps, for exp and tanh within 2 ulp and another order of adding.
- float64: 32 eps. The arbiter rounds as we do, at each of the tens of products in a sum, so torch's
  error against it is no measure.
- 16-bit types: 1 eps. On a CPU they compute in float32 and round once at the end, which costs
  eps / 2; on a GPU h and the gradients of gates are rounded at every step, as in torch.nn.

The largest of a few errors is a matter of luck: in 60 draws in float32 (T=5 N=33 H=33 P=1 D=2) our
largest error in the 33 elements of a dw_hr was 1.0 times the reference's in the median; in 9 of 10
up to 1.7 times for rnn_tanh and 1.8 for rnn_relu; at worst 2.3 and 2.9 times. So where one draw of
gradients is over the rule, it is applied to the median of several, and none may be over twice what
is allowed.

The derivative of relu jumps at 0. A state rounded to 16 bits lands on the other side of it now and
then, in torch.nn as in our kernels for GPUs, and a unit's gradient is then wrong altogether, by
any amount; only the median counts there. (In 30 draws of T=3 N=33 H=32 in bfloat16 the error was
0.3 to 0.6 of torch's in the median, and more than twice torch's in 4.)
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from problems import Problem, exact_gradients, our_gradients, peer_gradients
from torch import Tensor

RATIO = 2.0
FLOOR = {torch.float32: 4.0, torch.float64: 32.0, torch.bfloat16: 1.0, torch.float16: 1.0}

DRAWS = 5
WORST_DRAW = 2.0  # of what is allowed


def largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def allowance(peer: Tensor, exact: Tensor, scale: float = 1.0) -> float:
    """The error that the rule allows.

    `scale` is the size of the numbers that were added up to make the result; the largest exact
    result is taken where that is larger.
    """
    floor = FLOOR[peer.dtype] * torch.finfo(peer.dtype).eps * max(scale, largest(exact))
    return max(RATIO * largest(peer.double() - exact), floor)


def excess(
    ours: Tensor, peer: Tensor, exact: Tensor, what: str = "result", scale: float = 1.0
) -> float:
    """The error of one tensor, where 1 is what the rule allows."""
    assert ours.dtype == peer.dtype, f"{what}: dtype {ours.dtype}, expected {peer.dtype}"
    assert ours.shape == exact.shape, f"{what}: shape {ours.shape}, expected {exact.shape}"
    assert torch.isfinite(ours).all(), f"{what}: not finite"
    error, allowed = largest(ours.double() - exact), allowance(peer, exact, scale)
    return error / allowed if allowed > 0 else (torch.inf if error > 0 else 0.0)


def assert_accurate(
    ours: Tensor, peer: Tensor, exact: Tensor, what: str = "result", scale: float = 1.0
) -> None:
    """Apply the rule to one tensor."""
    found = excess(ours, peer, exact, what, scale)
    assert found <= 1, f"{what}: error {found:.2f} times what is allowed"


def assert_all_accurate(
    ours: Sequence[Tensor | None],
    peer: Sequence[Tensor | None],
    exact: Sequence[Tensor | None],
    names: Sequence[str],
) -> None:
    """Apply the rule to a list of tensors; None has to be None in all three."""
    for mine, other, truth, name in zip(ours, peer, exact, names, strict=True):
        if truth is None:
            assert mine is None, f"{name}: expected None"
        else:
            assert mine is not None, f"{name}: missing"
            assert other is not None
            assert_accurate(mine, other, truth, name)


def assert_gradients_accurate(problem: Problem) -> None:
    """Apply the rule to a problem's gradients: of one draw, or else to the median of several."""
    excesses: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        drawn = replace(problem, draw=draw)
        found = our_gradients(drawn), peer_gradients(drawn), exact_gradients(drawn)
        for name, mine, other, truth in zip(problem.names, *found, strict=True):
            if truth is None:
                assert mine is None, f"{name}: expected None"
                continue
            assert mine is not None, f"{name}: missing"
            assert other is not None
            excesses.setdefault(name, []).append(excess(mine, other, truth, name))
        if draw == 0 and all(values[0] <= 1 for values in excesses.values()):
            return
    jumps = problem.cell == "rnn_relu" and problem.dtype.itemsize <= 2
    for name, values in excesses.items():
        assert median(values) <= 1, f"{name}: {values} of what is allowed"
        assert jumps or max(values) <= WORST_DRAW, f"{name}: {values} of what is allowed"


def assert_same_bits(ours: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for index, (mine, other) in enumerate(zip(ours, others, strict=True)):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other), f"tensor {index} differs by {largest(mine - other):.3e}"


def assert_equivalent(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> None:
    """Two float64 computations of the same thing: equal but for rounding.

    The sums in these tests round in the fifteenth digit; a mistake shows in the first few. 1e-12
    of the largest number stands between the two.
    """
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine is None or other is None:
            assert mine is other, f"tensor {index}: None against a tensor"
            continue
        assert mine.dtype == other.dtype == torch.float64
        assert mine.shape == other.shape, f"tensor {index}: {mine.shape} against {other.shape}"
        error, limit = largest(mine - other), 1e-12 * max(1.0, largest(other))
        assert error <= limit, f"tensor {index} differs by {error:.3e}"
