"""Who is measured: a contender turns a problem and a mode into a job.

To add one (another framework, or torch.nn run another way): a class with the members of `Contender`
and a place in `contenders()`, left out there if it is not installed. Conversions belong in `job`
and in `Job.tensors`, outside `Job.run`, which alone is timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import rnnkern

from .shapes import INFERENCE, Problem

MODULES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}


@dataclass(frozen=True)
class Job:
    """One call of a contender on a problem."""

    run: Callable[[], Any]
    """Does the work once; returns when it is done."""
    tensors: Callable[[Any], Sequence[Tensor]] = list
    """What `run` returned as torch tensors, in the order of `Problem.answer_names`."""


class Contender(Protocol):
    """An implementation of recurrent layers."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def job(self, problem: Problem, mode: str) -> Job:
        """Inference: y and final states, no gradient. Training: those, then every gradient."""
        ...


@dataclass(frozen=True)
class Modules:
    """The LSTM, GRU and RNN modules of torch.nn, or of a package that mirrors it."""

    name: str
    version: str
    package: Any

    def job(self, problem: Problem, mode: str) -> Job:
        module = self._module(problem)
        if mode == INFERENCE:
            return _inference(module.eval(), problem)
        return _training(module.train(), problem)

    def _module(self, problem: Problem) -> nn.Module:
        H = problem.shape.H
        module: nn.Module = getattr(self.package, MODULES[problem.cell])(H, H)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), problem.weights.values(), strict=True):
                parameter.copy_(value)
        return module


def _states(states: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """As the modules take them: a tuple for LSTM, a tensor for the rest."""
    return tuple(states) if len(states) > 1 else states[0]


def _flat(output: tuple[Tensor, Any]) -> list[Tensor]:
    """(y, h) or (y, (h, c)) as a list."""
    y, final = output
    return [y, *final] if isinstance(final, tuple) else [y, final]


def _inference(module: nn.Module, problem: Problem) -> Job:
    states = _states(list(problem.states.values()))

    def run() -> list[Tensor]:
        with torch.inference_mode():
            return _flat(module(problem.x, states))

    return Job(run)


def _training(module: nn.Module, problem: Problem) -> Job:
    x, *states = [leaf.clone().requires_grad_() for leaf in (problem.x, *problem.states.values())]
    leaves = [x, *states, *module.parameters()]

    def run() -> list[Tensor]:
        outputs = _flat(module(x, _states(states)))
        gradients = torch.autograd.grad(outputs, leaves, problem.gradients)
        return [*(output.detach() for output in outputs), *gradients]

    return Job(run)


OURS, BASELINE = "rnnkern", "torch.nn"


def contenders() -> list[Contender]:
    """All contenders that can run here; OURS and BASELINE are always among them."""
    return [
        Modules(OURS, rnnkern.__version__, rnnkern),
        Modules(BASELINE, torch.__version__, nn),
    ]
