"""torch.nn against rnnkern on a user's own model: how exact, and how fast."""

from __future__ import annotations

import math
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnkern import accuracy, convert, replay
from rnnkern.explain import plans
from rnnkern.replay import Recording, Task

Answer = dict[str, Tensor]

_BLOCK = 0.02  # seconds that calls are timed in a row, at least
_BUDGET = 0.3  # seconds for one number
_ROUNDS = 3  # of blocks, at least

_WIDTH = 100


class Pair(NamedTuple):
    """A figure of each implementation."""

    torch: float
    rnnkern: float

    def __str__(self) -> str:
        ratio = f"{self.torch / self.rnnkern:.2f}" if self.rnnkern else "-"
        return f"{self.torch:>10.4g}{self.rnnkern:>11.4g}{ratio:>11}"


@dataclass(frozen=True)
class Row:
    """What was found of one recurrent layer, or of the whole model.

    Attributes:
        name: the dotted name in the model.
        kind: class, options, and the input of the call that was timed.
        calls: how often the model called it.
        errors: the largest absolute error against float64 of "outputs", "input gradients" and
            "weight gradients", without those that the model has none of.
        milliseconds: of "forward" and "forward + backward", medians of a call.
        excess: rnnkern's error where 1 is what is allowed, twice torch.nn's: see
            rnnkern/accuracy.py.
        plan: how rnnkern runs it, by layer of the stack; see rnnkern.explain.
    """

    name: str
    kind: str
    calls: int
    errors: dict[str, Pair]
    milliseconds: dict[str, Pair]
    excess: float
    plan: list[str]

    @property
    def is_accurate(self) -> bool:
        """Whether there are errors, and rnnkern's are within what is allowed."""
        return bool(self.errors) and self.excess <= 1

    def __str__(self) -> str:
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        head = f"{self.name}: {self.kind}, {calls}"
        lines = [textwrap.fill(head, _WIDTH, subsequent_indent="    ")]
        lines += [f"  {'error of ' + what:<30}{pair}" for what, pair in self.errors.items()]
        lines += [f"  {'ms of ' + what:<30}{pair}" for what, pair in self.milliseconds.items()]
        if self.errors:
            verdict = "accurate" if self.is_accurate else "NOT ACCURATE"
            lines.append(f"  {verdict}: {self.excess:.2f} of what is allowed")
        elif self.calls == 0:
            lines.append("  NOT COMPARED: the model did not call it")
        else:
            lines.append("  NOT COMPARED: the model returned no floating-point tensor")
        lines += [
            textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
            for line in self.plan
        ]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Comparison:
    """A row for each recurrent layer, in the order of named_modules, and one for the model."""

    rows: list[Row]

    @property
    def is_accurate(self) -> bool:
        """Whether something was compared, and all of that is accurate."""
        compared = [row for row in self.rows if row.errors]
        return bool(compared) and all(row.is_accurate for row in compared)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} rows, is_accurate={self.is_accurate}>"

    def __str__(self) -> str:
        head = f"{'ratio = torch.nn / rnnkern':<32}{'torch.nn':>10}{'rnnkern':>11}{'ratio':>11}"
        return "\n".join([head, *map(str, self.rows)])


def compare(model: nn.Module, /, *inputs: Any, **kwargs: Any) -> Comparison:
    """Runs a model with torch.nn's recurrent layers and with rnnkern's; prints and returns both.

    For each recurrent layer that replace_rnn_ would replace (or has replaced), it records what the
    model gives it, and runs the layer alone on that: in torch.nn, in rnnkern, and in torch.nn in
    float64, which counts as exact. Of a layer that is called several times it takes the first three
    calls for the errors and the last of them for the times. In a last row, the outputs and
    gradients of the model as a whole, where exact means that the recurrent layers computed in
    float64 and the rest as it does.

    Backward starts at all floating-point tensors that the model returns (in tuples, dicts,
    dataclasses and packed sequences of any depth), with fixed random gradients.

    Our error may be twice torch.nn's. Where it is more, four further draws with weights moved by
    about a hundredth are made, and the median decides. Of a float64 layer torch.nn's error is 0, as
    it is compared with itself; we may differ by 32 units in the last place.

    What was not compared, such as a layer that the model did not call, says so.

    The times are medians, and mean something where the machine does nothing else.

    Everything runs on copies: parameters, gradients, buffers and the states of random generators
    are as before, also after an error. Hooks of the model run. Dropout between the layers of an
    LSTM, GRU or RNN is left out, as its draws cannot be made alike; other dropout draws the same
    units each time.

    The last row says less than the others: a single number, such as a loss, is off by luck. And
    where a model decides by comparing (relu, argmax), a rounding may tip the decision, in torch.nn
    as in rnnkern: the errors behind it are large then.

    Args:
        model: holds recurrent modules of torch.nn or rnnkern, or is one; copy.deepcopy must take
            it.
        inputs: what the model is called with.
        kwargs: likewise.

    Raises:
        TypeError: model is no module.
        ValueError: it holds no recurrent module, or one that replace_rnn_ refuses.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not replay.recurrent_modules(model):
        raise ValueError(
            "model: expected one with an RNN, LSTM, GRU or cell of torch.nn or rnnkern in it "
            f"(subclasses do not count), got {type(model).__name__} without"
        )
    with _surroundings(model):
        comparison = Comparison(_rows(model, (inputs, kwargs)))
    print(comparison)
    return comparison


@contextmanager
def _surroundings(model: nn.Module) -> Iterator[None]:
    """Draws that are undone, gradients, and no compiler."""
    is_compiling = "torch._dynamo" in sys.modules  # its import takes seconds
    eager = torch.compiler.set_stance("force_eager") if is_compiling else nullcontext()
    draws = replay.same_draws(model)
    # Without inference mode there are gradients, whatever holds outside.
    with draws, eager, torch.inference_mode(False), warnings.catch_warnings():
        # Weights in float64 are made at every call.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        yield


def _rows(model: nn.Module, arguments: replay.Arguments) -> list[Row]:
    theirs = replay.model_task(model, arguments, convert.replace_by_torch_)
    recordings = [replay.record(layer) for layer in theirs.layers.values()]
    with replay.same_draws(model):
        theirs.step()
    modules = replay.recurrent_modules(model).items()
    rows = [
        _layer_row(name, module, recording)
        for (name, module), recording in zip(modules, recordings, strict=True)
    ]
    if convert.twins(model):
        return rows
    return [*rows, _model_row(model, arguments, theirs.cotangents)]


# ---- one layer -----------------------------------------------------------------------------------


def _layer_row(name: str, module: nn.Module, recording: Recording) -> Row:
    kinds = convert.twins(module)
    assert kinds is not None
    kind = f"{kinds[0].__name__}({module.extra_repr()})"
    if getattr(module, "dropout", 0):
        kind += " without its dropout"
    if not recording.calls:
        return Row(name, kind, 0, {}, {}, 0.0, [])
    variants = [(kinds[0], None), (kinds[1], None), (kinds[0], torch.float64)]

    def answers(draw: int) -> list[Answer]:
        return [
            _pooled(
                replay.layer_task(recording, call, *variant, every_gradient=True, draw=draw)
                for call in recording.calls
            )
            for variant in variants
        ]

    errors, excess = _judged(answers, _scales(recording))
    timed = next(
        (call for call in recording.calls[::-1] if call.has_gradients), recording.calls[-1]
    )
    theirs, ours = (replay.layer_task(recording, timed, each) for each in kinds)
    return Row(
        name or "the model",
        f"{kind}, {_described(timed.input)}",
        recording.count,
        errors,
        _milliseconds(theirs, ours),
        excess,
        _plan(ours, timed.input),
    )


def _scales(recording: Recording) -> dict[str, float]:
    """Outputs are sums of gates and states, gradients of what reaches the outputs."""
    gradients = [gradient for call in recording.calls for gradient in call.gradients]
    sizes = torch.cat(
        [torch.empty(0), *(g.flatten().cpu().abs() for g in gradients if g is not None)]
    )
    reaching = sizes[sizes > 0]
    size = reaching.mean().item() if len(reaching) else 0.0
    return {replay.OUTPUTS: 1.0, replay.INPUTS: size, replay.WEIGHTS: size}


def _plan(task: Task, input: Any) -> list[str]:
    """How rnnkern's layer runs, a line for neighbours of the same plan."""
    (layer,) = task.layers.values()
    outputs = replay.leaves(task.run())
    data = replay.mapped(input, lambda tensor: tensor.to(outputs[0].dtype))
    found = [(name, "; ".join(map(": ".join, lines))) for name, lines in plans(layer, data)]
    return [
        f"{', '.join(name for name, _ in group)} | {text}"
        for text, group in groupby(found, key=lambda each: each[1])
    ]


def _described(input: Any) -> str:
    packed = isinstance(input, PackedSequence)
    data = input.data if packed else input
    return f"{'packed ' * packed}{str(data.dtype).removeprefix('torch.')} {list(data.shape)}"


# ---- the whole model -----------------------------------------------------------------------------


def _model_row(
    model: nn.Module, arguments: replay.Arguments, cotangents: Sequence[Tensor | None] | None
) -> Row:
    def task(kind: str, draw: int = 0) -> Task:
        replace = convert.replace_rnn_ if kind == "rnnkern" else convert.replace_by_torch_
        made = replay.model_task(model, arguments, replace, draw)
        made.cotangents = cotangents
        if kind == "exact":
            for layer in made.layers.values():
                replay.compute_in_float64(layer)
        return made

    def answers(draw: int) -> list[Answer]:
        found = []
        for kind in ("torch.nn", "rnnkern", "exact"):
            with replay.same_draws(model):
                found.append(_pooled([task(kind, draw)]))
        return found

    errors, excess = _judged(answers, {})
    times = _milliseconds(task("torch.nn"), task("rnnkern"))
    return Row("the whole model", type(model).__name__, 1, errors, times, excess, [])


# ---- errors and times ----------------------------------------------------------------------------


def _pooled(tasks: Iterable[Task]) -> Answer:
    """The tasks' answers, with all tensors of one kind as one: the largest error of all counts."""
    found: dict[str, list[Tensor]] = {}
    for task in tasks:
        for what, tensors in task.answer().items():
            found.setdefault(what, []).extend(tensor.flatten().cpu() for tensor in tensors)
    return {what: torch.cat(tensors) for what, tensors in found.items()}


def _judged(
    answers: Callable[[int], list[Answer]], scales: dict[str, float]
) -> tuple[dict[str, Pair], float]:
    """The errors of draw 0, and the excess that the rule finds, in several draws if need be.

    answers gives those of torch.nn, of rnnkern and the exact one in a draw; scales are the rule's,
    by kind of result.
    """
    first = answers(0)
    theirs, ours, exact = first
    errors = {
        what: Pair(*(accuracy.error(each[what], right) for each in (theirs, ours)))
        for what, right in exact.items()
    }

    def draw(number: int) -> list[float]:
        theirs, ours, exact = answers(number) if number else first
        return [
            accuracy.excess(ours[what], theirs[what], right, scales.get(what, 0.0))
            for what, right in exact.items()
        ]

    return errors, max(accuracy.settled(draw, only_median=True), default=0.0)


def _milliseconds(theirs: Task, ours: Task) -> dict[str, Pair]:
    """Medians of forward, and of forward and backward where there is one."""
    found = {}
    for what, training in (("forward", False), ("forward + backward", True)):
        if training and not theirs.has_backward:
            continue
        for task in (theirs, ours):
            task.set_training(training)
        runs = [task.step if training else task.infer for task in (theirs, ours)]
        found[what] = Pair(*_medians(runs))
    return found


def _medians(runs: list[Callable[[], Any]]) -> list[float]:
    """Milliseconds of a call of each, which take turns in blocks of calls."""
    quickest = [min(_seconds(run, 1) for _ in range(_ROUNDS)) for run in runs]
    calls = [math.ceil(_BLOCK / seconds) for seconds in quickest]
    blocks: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + _BUDGET
    while len(blocks[0]) < _ROUNDS or time.perf_counter() < end:
        for run, count, seconds in zip(runs, calls, blocks, strict=True):
            seconds.append(_seconds(run, count))
    return [1e3 * median(seconds) for seconds in blocks]


def _seconds(run: Callable[[], Any], calls: int) -> float:
    """What a call takes, of so many in a row."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return (time.perf_counter() - start) / calls
