"""Who is measured: a contender turns a problem and a mode into a job.

Here stand the two that are always measured; peers.py has the others. To add one: a class with the
members of `Contender`. Conversions belong in `job` and in `Job.tensors`, outside `Job.run`, which
alone is timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

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

    def takes(self, problem: Problem, mode: str) -> bool:
        """Whether it can do this, in a time worth waiting for."""
        ...

    def job(self, problem: Problem, mode: str) -> Job:
        """Inference: y and final states, no gradient. Training: those, then every gradient."""
        ...


@dataclass(frozen=True)
class Modules:
    """The LSTM, GRU and RNN modules of torch.nn, or of a package that mirrors it."""

    name: str
    version: str
    package: Any

    def takes(self, problem: Problem, mode: str) -> bool:
        return True

    def job(self, problem: Problem, mode: str) -> Job:
        return module_job(self.module(problem), problem, mode)

    def module(self, problem: Problem) -> nn.Module:
        shape = problem.shape
        options = {"num_layers": shape.L, "bidirectional": shape.D == 2, "dtype": problem.x.dtype}
        options |= {"proj_size": shape.P} if shape.P else {}
        kind = getattr(self.package, MODULES[problem.cell])
        return with_weights(kind(shape.input_size(0), shape.H, **options), problem)


def with_weights(module: nn.Module, problem: Problem) -> nn.Module:
    """The module, with the problem's weights; both have torch.nn's order."""
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), problem.weights.values(), strict=True):
            parameter.copy_(value)
    return module


def module_job(module: nn.Module, problem: Problem, mode: str) -> Job:
    """The job of a module that is called as torch.nn's layers are."""
    if mode == INFERENCE:
        return _inference(module.eval(), problem)
    return _training(module.train(), problem)


def _input(x: Tensor, problem: Problem) -> Tensor | PackedSequence:
    return x if problem.batch_sizes is None else PackedSequence(x, problem.batch_sizes)


def _states(states: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """As the modules take them: a tuple for LSTM, a tensor for the rest."""
    return tuple(states) if len(states) > 1 else states[0]


def _flat(output: tuple[Any, Any]) -> list[Tensor]:
    """(y, h) or (y, (h, c)) as a list; of a packed y its data."""
    y, final = output
    y = y.data if isinstance(y, PackedSequence) else y
    return [y, *final] if isinstance(final, tuple) else [y, final]


def _inference(module: nn.Module, problem: Problem) -> Job:
    x, states = _input(problem.x, problem), _states(list(problem.states.values()))

    def run() -> list[Tensor]:
        with torch.inference_mode():
            return _flat(module(x, states))

    return Job(run)


def _training(module: nn.Module, problem: Problem) -> Job:
    x, *states = [leaf.clone().requires_grad_() for leaf in (problem.x, *problem.states.values())]
    leaves = [x, *states, *module.parameters()]

    def run() -> list[Tensor]:
        outputs = _flat(module(_input(x, problem), _states(states)))
        gradients = torch.autograd.grad(outputs, leaves, problem.gradients)
        return [*(output.detach() for output in outputs), *gradients]

    return Job(run)


OURS, BASELINE = "rnnkern", "torch.nn"
RNNKERN = Modules(OURS, rnnkern.__version__, rnnkern)
TORCH = Modules(BASELINE, torch.__version__, nn)


def contenders() -> list[Contender]:
    """OURS and BASELINE: those of the main job."""
    return [RNNKERN, TORCH]
