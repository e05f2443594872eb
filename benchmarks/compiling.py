"""torch.compile of a model with our layers: `python -m benchmarks.compiling` measures and saves.

How long the first call takes (forward and backward, `fullgraph=True`, nothing cached, a process of
its own for each length), and how fast later calls are against the same model run eagerly.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import rnnkern

from . import timing
from .contenders import contenders
from .report import save_rows
from .shapes import INFERENCE, MODES

STEPS = (32, 2000)
BATCH, FEATURES, HIDDEN = 8, 64, 128
BUDGET = 3.0


class Model(nn.Module):
    """Two bidirectional LSTM layers between an activation and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = rnnkern.LSTM(FEATURES, HIDDEN, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, FEATURES] to the same."""
        return self.head(self.rnn(x.relu())[0].sigmoid())


def call(
    model: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], x: Tensor, mode: str
) -> Any:
    """One inference, or one forward and backward."""
    if mode == INFERENCE:
        with torch.no_grad():
            return model(x)
    return torch.autograd.grad(model(x).square().mean(), parameters)


def measure(steps: int) -> dict[str, Any]:
    """Both modes at one length, in this process."""
    torch.manual_seed(0)
    eager = Model()
    compiled = torch.compile(eager, fullgraph=True)
    parameters, x = list(eager.parameters()), torch.randn(steps, BATCH, FEATURES)
    start = time.perf_counter()
    found = call(compiled, parameters, x, MODES[1])
    row: dict[str, Any] = {"T": steps, "cold_seconds": time.perf_counter() - start}
    torch.testing.assert_close(found, call(eager, parameters, x, MODES[1]))
    for mode in MODES:
        runs = {
            "eager": lambda mode=mode: call(eager, parameters, x, mode),
            "compiled": lambda mode=mode: call(compiled, parameters, x, mode),
        }
        for run in runs.values():
            run()  # inference is compiled anew
        seconds = timing.compare(runs, BUDGET)
        row[mode] = {name: 1e3 * timing.median(each) for name, each in seconds.items()}
    return row


def measured_elsewhere(steps: int) -> dict[str, Any]:
    """`measure` in a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, "-m", "benchmarks.compiling", str(steps)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """A line for each length."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiling")
    parser.add_argument("T", type=int, nargs="?", help="measure this length, in this process")
    if (only := parser.parse_args().T) is not None:
        print(json.dumps(measure(only)))
        return
    rows = []
    for steps in STEPS:
        row = measured_elsewhere(steps)
        rows.append(row)
        each = ", ".join(
            f"{mode} {row[mode]['compiled']:.2f} ms compiled, {row[mode]['eager']:.2f} eager"
            for mode in MODES
        )
        print(f"T{steps}: cold compile {row['cold_seconds']:.1f} s; {each}", flush=True)
    save_rows("compiling", rows, contenders())


if __name__ == "__main__":
    main()
