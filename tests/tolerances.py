"""The rule of `rnnkern.accuracy` as assertions.

The derivative of relu jumps at 0. A state rounded to 16 bits lands on the other side of it now and
then, in torch.nn as in our kernels for GPUs, and a unit's gradient is then wrong altogether, by
any amount; only the median counts there. (In 30 draws of T=3 N=33 H=32 in bfloat16 the error was
0.3 to 0.6 of torch's in the median, and more than twice torch's in 4.)
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from problems import Problem, exact_gradients, our_gradients, peer_gradients
from torch import Tensor

from rnnkern import accuracy
from rnnkern.accuracy import largest


def excess(
    ours: Tensor, peer: Tensor, exact: Tensor, what: str = "result", scale: float = 1.0
) -> float:
    """The error of one tensor, where 1 is what the rule allows."""
    assert ours.dtype == peer.dtype, f"{what}: dtype {ours.dtype}, expected {peer.dtype}"
    assert ours.shape == exact.shape, f"{what}: shape {ours.shape}, expected {exact.shape}"
    assert torch.isfinite(ours).all(), f"{what}: not finite"
    return accuracy.excess(ours, peer, exact, scale)


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
    wanted = [exact is not None for exact in exact_gradients(problem)]
    names = [name for name, flag in zip(problem.names, wanted, strict=True) if flag]

    def draw(number: int) -> list[float]:
        drawn = replace(problem, draw=number)
        mine, others, truths = our_gradients(drawn), peer_gradients(drawn), exact_gradients(drawn)
        assert [gradient is not None for gradient in mine] == wanted
        rows = [row for row in zip(mine, others, truths, strict=True) if row[0] is not None]
        return [excess(*row, name) for row, name in zip(rows, names, strict=True)]

    jumps = problem.cell == "rnn_relu" and problem.dtype.itemsize <= 2
    for name, found in zip(names, accuracy.settled(draw, only_median=jumps), strict=True):
        assert found <= 1, f"{name}: {found:.2f} times what is allowed"


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
