"""What is measured: the shapes, the cells, and the tensors of one problem.

Letters: T time steps, N batch, I input size, H hidden size, G gates. Everything here has I = H, one
layer and one direction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rnnkern import _C

INFERENCE, TRAINING = MODES = ("inference", "training")
CELLS = ("lstm", "gru", "rnn_tanh")


@dataclass(frozen=True)
class Shape:
    """Sizes of one layer; the input is as wide as the state."""

    T: int
    N: int
    H: int

    def __str__(self) -> str:
        return f"T{self.T} N{self.N} H{self.H}"


SHAPES = (
    Shape(100, 1, 512),
    Shape(100, 3, 256),
    Shape(100, 8, 256),
    Shape(100, 32, 512),
    Shape(200, 32, 128),
    Shape(50, 64, 1024),
)


@dataclass(frozen=True)
class Problem:
    """The tensors every contender gets: one layer, and the gradients that reach it in training."""

    cell: str
    shape: Shape
    x: Tensor
    """[T, N, H]"""
    states: dict[str, Tensor]
    """h0, and c0 where the cell has one: [1, N, H]"""
    weights: dict[str, Tensor]
    """w_ih, w_hh [G*H, H] and b_ih, b_hh [G*H]"""
    gradients: list[Tensor]
    """of y and of each final state"""

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Everything that training differentiates by, by name."""
        return {"x": self.x, **self.states, **self.weights}

    def answer_names(self, mode: str) -> list[str]:
        """Names of what an answer holds, in order: y, final states, in training all gradients."""
        names = ["y", *(name[0] + "_n" for name in self.states)]
        return names + [f"d{name}" for name in self.leaves] if mode == TRAINING else names


def make_problem(cell: str, shape: Shape, dtype: torch.dtype = torch.float32) -> Problem:
    """The problem of a cell and shape, always the same numbers; weights spread as torch.nn's."""
    facts = _C.cells()[cell]
    T, N, H, rows = shape.T, shape.N, shape.H, facts["gates"] * shape.H
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    def weight(*size: int) -> Tensor:
        return (torch.rand(size, generator=generator, dtype=dtype) * 2 - 1) / H**0.5

    states = {name: normal(1, N, H) for name in ("h0", "c0")[: facts["states"]]}
    weights = {"w_ih": weight(rows, H), "w_hh": weight(rows, H)}
    weights |= {"b_ih": weight(rows), "b_hh": weight(rows)}
    gradients = [normal(T, N, H), *(normal(1, N, H) for _ in states)]
    return Problem(cell, shape, normal(T, N, H), states, weights, gradients)
