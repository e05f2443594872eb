"""The compiled extension: one layer, all its directions, per call.

Letters: T steps, N batch, I input size, H hidden size, P projection size, R = P with a projection
and H without, G gates, D directions (1 or 2), M = sum(batch_sizes). All tensors of a call have one
dtype (float32, float64, bfloat16 or float16) and one device; none has to be contiguous.
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

class _Cell(TypedDict):
    gates: int
    states: int
    projection: bool
    residuals: int
    saved: int

def cells() -> dict[str, _Cell]:
    """What can run, by name.

    gates, states, whether it takes w_hr, the number of residuals, and the values per unit that one
    of these, the saved values, has.
    """

def backends() -> list[str]:
    """The CPU instruction sets that this machine and this build have, best first."""

def active_backend() -> str:
    """The backend that a call would use now. RNNKERN_ISA, read at every call, overrides the best.

    Raises RuntimeError if RNNKERN_ISA names no backend of this machine.
    """

def cuda_version() -> str | None:
    """The CUDA release that the kernels were compiled with, as "13.0"; None without CUDA."""

def gpus() -> list[str]:
    """GPUs whose facts are recorded."""

def explain(
    cell: str,
    dtype: torch.dtype,
    batch_sizes: list[int],
    input: int,
    hidden: int,
    projection: int,
    directions: int,
    device: str,
) -> list[tuple[str, str]]:
    """What a forward call would do, as terms and values in the order in which to read them.

    batch_sizes has the rows of each time step; device is "cpu", "cuda" or one of gpus().

    Raises RuntimeError for an unknown cell, dtype or device, or a strategy that cannot run.
    """

def set_differentiable_backward(
    function: Callable[
        [
            str,
            Tensor,
            Tensor | None,
            list[Tensor],
            list[Tensor | None],
            list[Tensor],
            list[Tensor],
            list[bool],
        ],
        list[Tensor | None],
    ],
) -> None:
    """Sets what `recurrence` calls instead of `backward` where gradients need gradients.

    It is called with (cell, x, sizes, states, weights, [y, *residuals], [dy, *dfinal, *dstates],
    wanted) and returns what `backward` returns, in a graph of autograd.
    """

class Stream:
    """Layers of one direction over a sequence in chunks, with packed weights and states kept."""

    def __init__(
        self, cell: str, weights: list[list[Tensor | None]], states: list[list[Tensor]]
    ) -> None:
        """weights of each layer as those of `forward`, for D = 1; first states likewise."""

    def run(self, x: Tensor) -> Tensor:
        """y [T, N, R] of the next chunk x [T, N, I]."""

    def states(self) -> list[list[Tensor]]:
        """The states of each layer behind the last chunk."""

    def set_states(self, states: list[list[Tensor]]) -> None:
        """Copies states of each layer: those before the next chunk."""

    def set_weights(self, weights: list[list[Tensor | None]]) -> None:
        """Reads other weights of the same sizes. The states go on, in their dtype and place."""

def recurrence(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    all_states: bool = False,
) -> list[Tensor]:
    """`forward` without the residuals, as a function that autograd differentiates."""

def forward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    training: bool,
    all_states: bool = False,
) -> list[Tensor]:
    """Runs one layer: [y, *final_states], further states if all_states, residuals if training.

    x is [T, N, I], with sizes the lengths of its sequences if they are given ([N] integers from 0
    to T); or [M, I], packed, with its batch_sizes ([T] int64 on the CPU, non-increasing); or
    [N, I], a single step of one direction with states and results without D. states are
    [h0 [D, N, R]] or [h0, c0 [D, N, H]]. weights are D groups of w_ih [G*H, I], w_hh [G*H, R],
    b_ih [G*H], b_hh [G*H] and w_hr [P, H], the last three None where the layer has none.
    y is like x with D*R features; the states after every step (all_states; those behind h) are like
    x with D*H features. All are zero beyond a length.

    Raises RuntimeError for sizes, dtypes or devices that do not fit, and for T = 0.
    """

def backward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    y: Tensor,
    residuals: Sequence[Tensor],
    dy: Tensor,
    dfinal: Sequence[Tensor],
    wanted: Sequence[bool],
    dstates: Sequence[Tensor] = (),
) -> list[Tensor | None]:
    """Gradients of [x, *states, *weights], None where wanted is False.

    y and residuals are forward's; dy is like y, dfinal like states, dstates like the states after
    every step.
    """
