"""Whether an answer may be timed: its error against rnnkern.reference in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rnnkern import reference

from .shapes import TRAINING, Problem

TIMES_BASELINE = 2.0
FLOOR_EPS = {torch.float32: 4.0, torch.float64: 32.0}
"""An error of this many eps of the largest magnitude passes even where torch.nn is exact.

More in float64, as in the tests: what is right is computed in float64 too, and rounds as well.
"""
OTHERS = 1e-3
"""Of the largest magnitude: what another package may be off. They approximate more freely than we
do, and leaving one out for that would flatter us; wrong gates or weights are off by far more."""


@dataclass(frozen=True)
class Check:
    """Largest absolute error of one tensor of an answer, and what it may be."""

    tensor: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for nan

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def expected_answer(problem: Problem) -> dict[str, Tensor]:
    """The float64 answer in training mode, by name; inference is its beginning."""
    leaves = {
        name: leaf.to(torch.float64, copy=True).requires_grad_()
        for name, leaf in problem.leaves.items()
    }
    states = [leaves[name] for name in problem.states]
    outputs = reference.network(
        problem.cell,
        leaves["x"],
        states,
        [leaves[name] for name in problem.weights],
        has_biases=True,
        num_layers=problem.shape.L,
        dropout=0.0,
        train=True,
        bidirectional=problem.shape.D == 2,
        batch_first=False,
        batch_sizes=problem.batch_sizes,
    )
    gradients = torch.autograd.grad(
        outputs, list(leaves.values()), [gradient.double() for gradient in problem.gradients]
    )
    answer = [*(output.detach() for output in outputs), *gradients]
    return dict(zip(problem.answer_names(TRAINING), answer, strict=True))


def check_answer(
    expected: Mapping[str, Tensor],
    names: Sequence[str],
    answer: Sequence[Tensor],
    baseline: Sequence[Tensor],
    strict: bool = True,
) -> list[Check]:
    """Each tensor's error is at most TIMES_BASELINE that of the baseline in the same dtype.

    Without `strict` an error of OTHERS passes as well.
    """
    checks = []
    for name, got, base in zip(names, answer, baseline, strict=True):
        right = expected[name]
        floor = FLOOR_EPS[base.dtype] * torch.finfo(base.dtype).eps if strict else OTHERS
        limit = max(TIMES_BASELINE * max_error(base, right), floor * right.abs().max().item())
        checks.append(Check(name, max_error(got, right), limit))
    return checks


def max_error(got: Tensor, right: Tensor) -> float:
    """Largest absolute difference; infinite where the shapes differ, nan where a value is nan."""
    if got.shape != right.shape:
        return float("inf")
    return (got.double() - right).abs().max().item()
