"""Every strategy against torch.nn: `python -m benchmarks.gpu.strategies`.

What the grid does not show: how fast the strategies are that the plan did not take. A row of the
results has microseconds a step of torch.nn and of each strategy that can run the case.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import machine
from ..contenders import BASELINE, RNNKERN, TORCH
from ..shapes import MODES
from . import answers, available, environment, timing
from .device import Device, Gpu, Run
from .exercise import REFUSED, STRATEGIES
from .grid import first_line, make_job
from .rows import Case, T, significant

VARIABLE = "RNNKERN_CUDA_STRATEGY"
CASES = (
    "lstm,gru/bf16/512,1024,256,768/16",
    "lstm/fp16/512,768,1024/16,64",
    "lstm/bf16/512,1024/1,64,128",
    "lstm/tf32,fp32/512,1024/16",
    "rnn_tanh/bf16/512,1024/16",
    "lstm/bf16,fp16,fp32/128/16",
    "lstm,gru/bf16/2048/16",
)
ROW_SECONDS = 0.08
BUDGET = 90.0


def cases(text: str) -> Iterator[Case]:
    """`cells/precisions/H/N`, each a list with commas: all combinations."""
    cells, precisions, hiddens, batches = (part.split(",") for part in text.split("/"))
    for cell, precision, H, N in itertools.product(cells, precisions, hiddens, batches):
        yield Case(cell, precision, int(H), int(N))


def forced(run: Run, strategy: str) -> Run:
    """The same with that strategy, which is read at every call."""

    def call() -> Any:
        os.environ[VARIABLE] = strategy
        return run()

    return call


def measure(device: Device, case: Case, mode: str, steps: int = T) -> dict[str, Any]:
    """Times in microseconds a step, by strategy, and what was wrong or refused."""
    precision = answers.PRECISIONS[case.precision]
    row: dict[str, Any] = {"case": str(case), "mode": mode, "wrong": {}}
    with answers.using(precision):
        problem = answers.make_problem(case.cell, case.shape(steps), device.name)
        right = answers.expected(problem)
        job = make_job(TORCH, problem, mode)
        peer = answers.select(problem, mode, job.run())
        runs = {BASELINE: job.run}
        for strategy in STRATEGIES:
            ours = make_job(RNNKERN, problem, mode)
            run = forced(ours.run, strategy)
            try:
                found = answers.select(problem, mode, run())
                device.finish()
            except RuntimeError as error:
                if REFUSED not in str(error):
                    row["wrong"][strategy] = first_line(error)
                continue
            bad = [
                check for check in answers.check(right, found, peer, precision) if not check.passed
            ]
            if bad:
                row["wrong"][strategy] = f"{bad[0].tensor} {bad[0].error:.1e} > {bad[0].limit:.1e}"
            runs[strategy] = run
        seconds = timing.compare(device, runs, ROW_SECONDS)
    row["us_of_blocks"] = {
        name: [significant(1e6 * block / steps) for block in blocks]
        for name, blocks in seconds.items()
    }
    return row


def line(row: dict[str, Any]) -> str:
    medians = {
        name: sorted(blocks)[len(blocks) // 2] for name, blocks in row["us_of_blocks"].items()
    }
    times = ", ".join(f"{name} {us:.3g}" for name, us in medians.items())
    wrong = "; ".join(f"WRONG {name}: {text}" for name, text in row["wrong"].items())
    return f"{row['case']} {row['mode']}: {times}" + f"; {wrong}" * bool(wrong)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.strategies", description=__doc__
    )
    parser.add_argument("cases", nargs="*", default=CASES, help="cells/precisions/H/N, with commas")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS")
    args = parser.parse_args(words)
    reason = available.reason()
    if reason:
        print(reason)
        return 1
    facts, rows, end = environment.facts(), [], time.monotonic() + args.budget
    path = machine.results_path(f"gpu {facts['gpu']}", "strategies")
    folders = [path.parent, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    for case in itertools.chain.from_iterable(map(cases, args.cases)):
        if time.monotonic() > end:
            print(f"no time left for {case} and what follows")
            break
        for mode in MODES:
            rows.append(measure(Gpu(), case, mode))
            print(line(rows[-1]), flush=True)
        for folder in folders:
            (folder / path.name).write_text(
                json.dumps({**facts, "T": T, "rows": rows}, indent=1) + "\n"
            )
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
