"""The problems of the grid, and whether an answer may be counted: its error against float64.

The rule of the tests: our largest error is at most twice that of torch.nn in the same precision,
and a floor of some units in the last place passes in any case. Here torch.nn in float64 on the same
device is what is right; on the CPU it is tested against rnnkern.reference.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnkern import _C, accuracy

from ..checks import Check
from ..contenders import TORCH
from ..shapes import INFERENCE, TRAINING, Problem, Shape


@dataclass(frozen=True)
class Precision:
    """What is computed with."""

    dtype: str
    floor: float
    """An error of this much of the largest magnitude passes, or of 1 where that is larger."""
    fp32: str = "ieee"
    """torch.backends.cudnn.rnn.fp32_precision."""


PRECISIONS = {
    "bf16": Precision("bfloat16", 2.0**-7),
    "fp32": Precision("float32", 4 * 2.0**-23),
    "tf32": Precision("float32", 2.0**-10, "tf32"),
    "fp16": Precision("float16", 2.0**-10),
}
CHECKED = {INFERENCE: ("y", "h_n", "c_n"), TRAINING: ("y", "h_n", "c_n", "dx", "dw_hh_l0")}


@contextmanager
def using(precision: Precision) -> Iterator[None]:
    """Products of float32 numbers in this precision, in torch.nn and in rnnkern."""
    settings: Any = torch.backends.cudnn.rnn
    before = settings.fp32_precision
    settings.fp32_precision = precision.fp32
    try:
        yield
    finally:
        settings.fp32_precision = before


def make_problem(cell: str, shape: Shape, device: str) -> Problem:
    """A network of one layer and direction, drawn on the device; weights spread as torch.nn's."""
    facts = _C.cells()[cell]
    T, N, H, rows = shape.T, shape.N, shape.H, facts["gates"] * shape.H
    generator = torch.Generator(device).manual_seed(0)
    options: Any = {"dtype": getattr(torch, shape.dtype), "device": device}

    def normal(*size: int) -> Tensor:
        return torch.empty(size, **options).normal_(generator=generator)

    def weight(*size: int) -> Tensor:
        return torch.empty(size, **options).uniform_(-(H**-0.5), H**-0.5, generator=generator)

    states = {name: normal(1, N, H) for name in ("h0", "c0")[: facts["states"]]}
    weights = {"w_ih_l0": weight(rows, shape.input_size(0)), "w_hh_l0": weight(rows, H)}
    weights |= {"b_ih_l0": weight(rows), "b_hh_l0": weight(rows)}
    gradients = [normal(T, N, H), *(normal(1, N, H) for _ in states)]
    x = normal(T, N, shape.input_size(0))
    return Problem(cell, shape, x, None, states, weights, gradients)


def expected(problem: Problem) -> dict[str, Tensor]:
    """What torch.nn answers in float64, by name: all that is ever checked."""
    exact = replace(
        problem,
        shape=replace(problem.shape, dtype="float64"),
        x=problem.x.double(),
        states={name: state.double() for name, state in problem.states.items()},
        weights={name: weight.double() for name, weight in problem.weights.items()},
        gradients=[gradient.double() for gradient in problem.gradients],
    )
    with torch.device(problem.x.device):
        job = TORCH.job(exact, TRAINING)
    return select(exact, TRAINING, job.tensors(job.run()))


def select(problem: Problem, mode: str, answer: Sequence[Tensor]) -> dict[str, Tensor]:
    """What is checked of an answer, by name."""
    named = dict(zip(problem.answer_names(mode), answer, strict=True))
    return {name: named[name] for name in CHECKED[mode] if name in named}


def check(
    right: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    peer: Mapping[str, Tensor],
    precision: Precision,
) -> list[Check]:
    """The rule, for each tensor of our answer; `peer` is what torch.nn answers."""
    checks = []
    for name, got in ours.items():
        floor = precision.floor * max(1.0, right[name].abs().max().item())
        limit = max(accuracy.RATIO * accuracy.error(peer[name], right[name]), floor)
        checks.append(Check(name, accuracy.error(got, right[name]), limit))
    return checks
