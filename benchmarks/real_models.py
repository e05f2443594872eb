"""Models from packages that others wrote, before and after `rnnkern.replace_rnn_`.

`python -m benchmarks.real_models` checks loss, outputs and the gradient of every parameter, then
times a training step: forward, loss, backward, Adam. requirements-models.txt installs the packages;
one that cannot be imported is left out. The arbiter is the model with torch.nn's layers in float64.
Dropout drops the same units in all runs, from the same seed.

Exits with 1 if a model disagrees, keeps a layer of torch.nn or breaks, KNOWN ones excepted; and if
one of those no longer does.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import rnnkern
from rnnkern.accuracy import DRAWS, RATIO, WORST_DRAW

from . import machine, timing
from .checks import check_answer
from .contenders import BASELINE, OURS, contenders
from .model_builders import BUILDERS, Example
from .report import write_json

BUDGET = 6.0
"""Seconds of timing a model gets."""
LEARNING_RATE = 1e-5
RECURRENT = nn.RNNBase, nn.RNNCellBase
KNOWN = {
    "forecasting_tft": "its LSTM is a subclass of nn.LSTM with a forward of its own",
    "torchrl_policy_resets": "it gives the argument `mask` to what is no instance of nn.LSTM",
}
"""Models that replace_rnn_ does nothing for, or that do not work after it, and why."""


@dataclass
class Row:
    """What was found about a model."""

    model: str
    package: str
    version: str
    recurrent: int = 0
    """The recurrent modules that it has, and how many of them were replaced."""
    replaced: int = 0
    broken: str | None = None
    """What replacing raised, or the model afterwards."""
    errors: dict[str, list[float]] = field(default_factory=dict)
    """By tensor, one a draw: the error as a multiple of torch.nn's, or of half the floor."""
    ms_of_blocks: dict[str, list[float]] = field(default_factory=dict)

    @property
    def wrong(self) -> dict[str, list[float]]:
        """The errors of the tensors that disagree."""
        return {
            name: errors
            for name, errors in self.errors.items()
            if not median(errors) <= RATIO
            or not all(error <= WORST_DRAW * RATIO for error in errors)
        }

    @property
    def failed(self) -> bool:
        return bool(self.broken or self.wrong or self.replaced < self.recurrent)

    def worst(self, gradients: bool) -> float | None:
        """The largest median, of gradients or else of loss and outputs."""
        chosen = (e for name, e in self.errors.items() if name.startswith("d ") == gradients)
        return max(map(median, chosen), default=None)

    def as_json(self) -> dict[str, Any]:
        ms = {name: median(blocks) for name, blocks in self.ms_of_blocks.items()}
        return {
            "model": self.model,
            "package": self.package,
            "version": self.version,
            "recurrent": self.recurrent,
            "replaced": self.replaced,
            "error": self.worst(gradients=False),
            "error_of_gradients": self.worst(gradients=True),
            "wrong": self.wrong,
            "broken": self.broken,
            "known": KNOWN.get(self.model) if self.failed else None,
            "ratio": ms[BASELINE] / ms[OURS] if ms else None,
            "ms": ms,
            "ms_of_blocks": self.ms_of_blocks,
        }

    def __str__(self) -> str:
        row = self.as_json()
        text = f"{self.package + ' ' + self.version:<27} {self.model:<22} "
        text += f"{self.replaced} of {self.recurrent}"
        if self.errors:
            text += f" {row['error']:7.2f} {row['error_of_gradients']:7.2f}"
        if row["ms"]:
            text += f" {row['ms'][BASELINE]:8.1f} {row['ms'][OURS]:8.1f} {row['ratio']:6.2f}"
        text += f" BROKEN: {self.broken}" if self.broken else ""
        text += f" WRONG: {', '.join(self.wrong)}" if self.wrong else ""
        return text + (f" (known: {row['known']})" if row["known"] else "")


def answer(
    example: Example, model: nn.Module, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Loss, outputs and gradients ("d " and the parameter's name), by name."""
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in example.inputs]
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)  # models make tensors without saying of what dtype
    try:
        tensors = example.forward(model, *inputs)
        tensors[0].backward()
    finally:
        torch.set_default_dtype(torch.float32)
    found = {f"output {i}" if i else "loss": y.detach() for i, y in enumerate(tensors)}
    parameters = model.named_parameters()
    return found | {f"d {name}": p.grad for name, p in parameters if p.grad is not None}


def errors(
    expected: dict[str, Tensor], found: dict[str, Tensor], theirs: dict[str, Tensor]
) -> dict[str, float]:
    """Of each tensor of `found`, as in Row; infinite where it is missing or too many."""
    names = [name for name in expected if name in found]
    answers = [found[name] for name in names], [theirs[name] for name in names]
    checks = check_answer(expected, names, answers[0], answers[1])
    by_name = {c.tensor: RATIO * c.error / c.limit if c.limit else c.error for c in checks}
    return by_name | dict.fromkeys(expected.keys() ^ found.keys(), math.inf)


def training_step(example: Example, model: nn.Module) -> Callable[[], None]:
    """Forward, loss, backward and the optimizer's step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        example.forward(model, *example.inputs)[0].backward()
        optimizer.step()

    return step


def measure(builder: Callable[[], Example], package: str) -> Row:
    """Check a model, and time it if it is right.

    Raises:
        ImportError, OSError: the package cannot be imported.
    """
    row = Row(builder.__name__, package, version(package))
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        example = builder()
        ours, exact = copy.deepcopy(example.model), copy.deepcopy(example.model).double()
        row.recurrent = sum(isinstance(m, RECURRENT) for m in ours.modules())
        expected = answer(example, exact, draw, torch.float64)
        theirs = answer(example, example.model, draw)
        try:
            row.replaced = len(rnnkern.replace_rnn_(ours))
            found = answer(example, ours, draw)
        except Exception as error:
            row.broken = f"{type(error).__name__}: {error}".splitlines()[0]
            return row
        for name, multiple in errors(expected, found, theirs).items():
            row.errors.setdefault(name, []).append(multiple)
    if not row.wrong:
        steps = {BASELINE: training_step(example, example.model)}
        steps[OURS] = training_step(example, ours)
        seconds = timing.compare(steps, BUDGET)
        row.ms_of_blocks = {name: timing.as_ms(blocks) for name, blocks in seconds.items()}
    return row


def measure_all(names: Collection[str]) -> tuple[list[Row], list[str]]:
    """The rows, printed as they come, and the models left out, with the reason."""
    rows, missing = [], []
    print("worst error of outputs and of gradients, in those of torch.nn; ms of a training step")
    header = f"{'replaced':>8} {'outputs':>7} {'grads':>7} {'before':>8} {'after':>8} {'ratio':>6}"
    print(f"{'package':<27} {'model':<20} {header}")
    for builder, package in BUILDERS.items():
        if builder.__name__ in names:
            try:
                rows.append(measure(builder, package))
                print(rows[-1], flush=True)
            except (ImportError, OSError) as error:
                missing.append(f"{builder.__name__} ({error})")
    return rows, missing


def main() -> int:
    """Print a line a model, write the file, and tell by the exit status whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_models")
    names = [builder.__name__ for builder in BUILDERS]
    parser.add_argument("--only", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    facts = machine.facts(contenders())
    words = [f"{facts['threads']}threads", "real-models", *([args.only] if args.only else [])]
    out = args.out or machine.results_path(facts["cpu"], *words)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows, missing = measure_all([args.only] if args.only else names)
    for line in missing:
        print("not installed:", line)
    facts["versions"] |= {row.package: row.version for row in rows}
    write_json({**facts, "models": [row.as_json() for row in rows], "missing": missing}, out)
    print("written:", out)
    return int(any(row.failed != (row.model in KNOWN) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
