"""Whether an answer may be timed: its error against the float64 reference, by rnnkern.accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rnnkern import accuracy, reference

from .shapes import TRAINING, Problem

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
    """Each tensor's error is at most what the rule allows beside the baseline's in the same dtype.

    Without `strict` an error of OTHERS passes as well.
    """
    checks = []
    for name, got, base in zip(names, answer, baseline, strict=True):
        right = expected[name]
        limit = accuracy.allowance(base, right, scale=0.0)
        if not strict:
            limit = max(limit, OTHERS * accuracy.largest(right))
        checks.append(Check(name, accuracy.error(got, right), limit))
    return checks
