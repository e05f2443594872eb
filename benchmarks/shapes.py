"""What is measured: the shapes, the cells, and the tensors of one problem.

Letters: T time steps, N batch, I input size, H hidden size, P projection size, R = P with a
projection and H without, G gates, D directions, L layers, M rows of all steps together.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rnnkern import _C

INFERENCE, TRAINING = MODES = ("inference", "training")
CELLS = ("lstm", "gru", "rnn_tanh")
SHORTEST = 10
"""Lengths of packed sequences are drawn from here to T."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a network; as many of them as can have their usual value."""

    T: int
    N: int
    H: int
    I: int = 0
    """0: as wide as the state"""
    P: int = 0
    """0: no projection"""
    L: int = 1
    D: int = 1
    packed: bool = False
    """a PackedSequence with random lengths, T at most"""
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [f"T{self.T}", f"N{self.N}", f"H{self.H}"]
        words += [f"{letter}{getattr(self, letter)}" for letter in "IP" if getattr(self, letter)]
        words += [
            f"{letter}{getattr(self, letter)}" for letter in "LD" if getattr(self, letter) > 1
        ]
        words += ["packed"] * self.packed + [self.dtype] * (self.dtype != "float32")
        return " ".join(words)

    @property
    def R(self) -> int:
        return self.P or self.H

    def input_size(self, layer: int) -> int:
        """What a layer reads."""
        return (self.I or self.H) if layer == 0 else self.D * self.R

    def batch_sizes(self) -> Tensor:
        """The active rows of each step, [T] int64; always the same random lengths."""
        if not self.packed:
            return torch.full((self.T,), self.N)
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(min(SHORTEST, self.T), self.T + 1, (self.N,), generator=generator)
        return (lengths > torch.arange(int(lengths.max())).unsqueeze(1)).sum(1)

    def as_json(self) -> dict[str, Any]:
        """What differs from the usual values."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


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
    """The tensors every contender gets, and the gradients that reach the network in training."""

    cell: str
    shape: Shape
    x: Tensor
    """[T, N, I], or [M, I] if packed"""
    batch_sizes: Tensor | None
    """[T] int64 if packed"""
    states: dict[str, Tensor]
    """h0 [L*D, N, R], and c0 [L*D, N, H] where the cell has one"""
    weights: dict[str, Tensor]
    """w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] and with a projection w_hr [P, H] of each
    layer and direction, in torch.nn's order"""
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


def make_problem(cell: str, shape: Shape) -> Problem:
    """The problem of a cell and shape, always the same numbers; weights spread as torch.nn's."""
    facts = _C.cells()[cell]
    N, H, R, dtype = shape.N, shape.H, shape.R, getattr(torch, shape.dtype)
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    def weight(*size: int) -> Tensor:
        return (torch.rand(size, generator=generator, dtype=dtype) * 2 - 1) / H**0.5

    def layer(index: int, suffix: str) -> dict[str, Tensor]:
        rows = facts["gates"] * H
        sizes: dict[str, tuple[int, ...]] = {
            "w_ih": (rows, shape.input_size(index)),
            "w_hh": (rows, R),
        }
        sizes |= {"b_ih": (rows,), "b_hh": (rows,)} | ({"w_hr": (R, H)} if shape.P else {})
        return {name + suffix: weight(*size) for name, size in sizes.items()}

    batch_sizes = shape.batch_sizes() if shape.packed else None
    rows = (shape.T, N) if batch_sizes is None else (int(batch_sizes.sum()),)
    names = ("h0", "c0")[: facts["states"]]
    sizes = {name: (shape.L * shape.D, N, R if name == "h0" else H) for name in names}
    states = {name: normal(*size) for name, size in sizes.items()}
    weights: dict[str, Tensor] = {}
    for index in range(shape.L):
        for suffix in (f"_l{index}", f"_l{index}_reverse")[: shape.D]:
            weights |= layer(index, suffix)
    gradients = [normal(*rows, shape.D * R), *(normal(*size) for size in sizes.values())]
    x = normal(*rows, shape.input_size(0))
    return Problem(cell, shape, x, batch_sizes, states, weights, gradients)
