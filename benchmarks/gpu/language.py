"""A language model trained on a GPU by both packages: `python -m benchmarks.gpu.language`.

That of examples/char_lm.py in larger sizes, under autocast in bfloat16. The two trainings start
from the same weights and take turns in blocks of steps. Results are tokens a second and the losses,
which have to agree: the exit status is 1 where they do not.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from examples.char_lm import CharLM
from rnnkern.models.training import Trainer

from .. import machine
from ..contenders import BASELINE, OURS
from ..gallery import IMPLEMENTATIONS, trainer
from . import available, environment
from .device import Device, Gpu

SIZES = {"--hidden": 1024, "--layers": 2, "--batch": 64, "--chunk": 256}
BLOCKS, STEPS = 8, 10
"""Blocks of a training, and steps of a block."""
TOLERANCE = 0.02
"""By how much the mean losses of a training's second half may differ, relative to each other."""


def train(device: Device, trainers: dict[str, Trainer], autocast: bool) -> dict[str, Any]:
    """Seconds of a step and the losses, by contender, one of each a block."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    losses: dict[str, list[float]] = {name: [] for name in trainers}
    order = list(trainers)
    for _ in range(BLOCKS):
        for name in order:
            found: list[float] = []

            def step(name: str = name, found: list[float] = found) -> None:
                with torch.autocast(device.name, torch.bfloat16, enabled=autocast):
                    found.append(trainers[name].advance())

            seconds[name].append(device.seconds(step, STEPS))
            losses[name].append(fmean(found))
        order.reverse()
    return {"seconds": seconds, "losses": losses}


def measure(device: Device, sizes: dict[str, int], autocast: bool = True) -> dict[str, Any]:
    """Both trainings, what they took and came to."""
    words = [str(word) for pair in sizes.items() for word in pair] + ["--device", device.name]
    trainers = {
        name: trainer(CharLM, [*words, "--impl", impl]) for name, impl in IMPLEMENTATIONS.items()
    }
    tokens = sizes["--batch"] * sizes["--chunk"]
    row = train(device, trainers, autocast)
    row["tokens_per_second"] = {
        name: round(tokens / median(blocks[1:])) for name, blocks in row["seconds"].items()
    }
    late = {name: fmean(each[BLOCKS // 2 :]) for name, each in row["losses"].items()}
    row["agree"] = abs(late[OURS] / late[BASELINE] - 1) <= TOLERANCE
    return {"sizes": sizes, **row}


def lines(row: dict[str, Any]) -> list[str]:
    """The results in words."""
    rates, losses = row["tokens_per_second"], row["losses"]
    texts = [
        f"{name}: {rate:,} tokens/s, loss {losses[name][0]:.3f} to {losses[name][-1]:.3f}"
        for name, rate in rates.items()
    ]
    agree = "" if row["agree"] else ", LOSSES DIFFER"
    return [*texts, f"{rates[OURS] / rates[BASELINE]:.2f} times as fast{agree}"]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.language", description=__doc__)
    for option, size in SIZES.items():
        parser.add_argument(option, type=int, default=size, metavar="N", help=f"default {size}")
    args = vars(parser.parse_args(words))
    reason = available.reason()
    if reason:
        print(reason)
        return 1
    facts = environment.facts()
    row = measure(Gpu(), {option: args[option.strip("-")] for option in SIZES})
    path = machine.results_path(f"gpu {facts['gpu']}", "language")
    for folder in [path.parent, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]:
        (folder / path.name).write_text(json.dumps({**facts, **row}, indent=1) + "\n")
    print("\n".join(lines(row)))
    return int(not row["agree"])


if __name__ == "__main__":
    raise SystemExit(main())
