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

def cells() -> dict[str, _Cell]:
    """What can run, by name: gates, states, whether it takes w_hr, residuals kept for backward."""

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
        [str, list[bool], Tensor | None, list[Tensor | None], list[Tensor], list[Tensor]],
        list[Tensor | None],
    ],
) -> None:
    """Sets what `recurrence` calls instead of `backward` where gradients need gradients.

    It is called with (cell, wanted, batch_sizes, [x, *states, *weights], [dy, *dfinal],
    [y, *residuals]) and returns what `backward` returns, in a graph of autograd.
    """

def recurrence(
    cell: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
) -> list[Tensor]:
    """`forward` without the residuals, as a function that autograd differentiates."""

def forward(
    cell: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    states: list[Tensor],
    weights: list[Tensor | None],
    training: bool,
) -> list[Tensor]:
    """Runs one layer and returns [y, *final_states], and if training the residuals of backward too.

    x is [T, N, I], or [M, I] with batch_sizes ([T] int64 on the CPU, non-increasing); states are
    [h0 [D, N, R]] or [h0, c0 [D, N, H]]. A single step of one direction may also come as x [N, I]
    and states without D, and its results likewise. weights are D groups of w_ih [G*H, I],
    w_hh [G*H, R], b_ih [G*H], b_hh [G*H] and w_hr [P, H], the last three None where the layer has
    none.
    y is like x with D*R features.

    Raises RuntimeError for sizes, dtypes or devices that do not fit, and for T = 0.
    """

def backward(
    cell: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    states: list[Tensor],
    weights: list[Tensor | None],
    y: Tensor,
    residuals: list[Tensor],
    dy: Tensor,
    dfinal: list[Tensor],
    wanted: list[bool],
) -> list[Tensor | None]:
    """Gradients of [x, *states, *weights], None where wanted is False.

    y and residuals are forward's; dy is like y, dfinal like states.
    """
