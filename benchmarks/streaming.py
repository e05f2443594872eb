"""One step of a stream, against everything installed: `python -m benchmarks.streaming`.

A call is a single step (T = 1) of one layer. ONNX Runtime and OpenVINO pack their weights ahead, as
`rnnkern.Stream` does; modules and JAX are given theirs at every call. Each contender's first answer
is checked against our module's.
"""

import argparse
from typing import Any

import torch

import rnnkern

from . import timing
from .contenders import OURS, RNNKERN, contenders
from .peers import peers
from .report import save_rows
from .shapes import INFERENCE, Problem, Shape, make_problem

STREAM = "rnnkern.Stream"
CELLS = ("lstm", "gru")
SIZES = [(N, H) for N in (1, 8, 32) for H in (16, 64, 256, 512, 1024)]
BUDGET = 0.8


def stream(problem: Problem) -> rnnkern.Stream:
    """A stream over the problem's layer, from its initial state."""
    module: Any = RNNKERN.module(problem)
    made = rnnkern.Stream(module, problem.shape.N)
    states = tuple(problem.states.values())
    made.state = states if len(states) > 1 else states[0]
    return made


def measure(problem: Problem, others: list[Any]) -> dict[str, float]:
    """Median microseconds of a step, by contender."""
    jobs = {c.name: c.job(problem, INFERENCE) for c in others if c.takes(problem, INFERENCE)}
    expected = jobs[OURS].tensors(jobs[OURS].run())[0]
    for job in jobs.values():
        torch.testing.assert_close(job.tensors(job.run())[0], expected, rtol=1e-4, atol=1e-5)
    ours = stream(problem)
    torch.testing.assert_close(ours(problem.x), expected)
    runs = {STREAM: lambda: ours(problem.x)} | {name: job.run for name, job in jobs.items()}
    seconds = timing.compare(runs, BUDGET)
    return {name: 1e6 * timing.median(each) for name, each in seconds.items()}


def main() -> None:
    """A line for each cell and size."""
    argparse.ArgumentParser(prog="python -m benchmarks.streaming").parse_args()
    found, missing = peers()
    others = [*contenders(), *found]
    for name in missing:
        print("not installed:", name)
    rows = []
    for cell in CELLS:
        for N, H in SIZES:
            us = measure(make_problem(cell, Shape(T=1, N=N, H=H)), others)
            best = min((name for name in us if name not in (STREAM, OURS)), key=us.__getitem__)
            row = {"cell": cell, "N": N, "H": H, "us": us, "best": best}
            row["to_module"], row["to_best"] = us[OURS] / us[STREAM], us[best] / us[STREAM]
            rows.append(row)
            print(
                f"{cell} N{N} H{H}: {us[STREAM]:.1f} us a step; {row['to_module']:.2f} times as "
                f"fast as the module, {row['to_best']:.2f} as {best}",
                flush=True,
            )
    save_rows("streaming", rows, others)


if __name__ == "__main__":
    main()
