"""rnnkern against torch.nn on a GPU, in microseconds a time step: `python -m benchmarks.gpu.grid`.

Every cell, precision, hidden size and batch, in inference and training, the most telling first and
as many as the budget allows. A row is saved as soon as it is measured; --resume leaves out those
that the file has of this commit. Ends with 1 if an answer is wrong, and with DEVICE_LOST if the GPU
takes no more work in this process: a new one can resume.
"""

import argparse
import contextlib
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rnnkern import _C

from .. import machine
from ..contenders import BASELINE, OURS, RNNKERN, TORCH, Job, Modules
from ..shapes import MODES, Problem
from . import answers, available, environment, report, timing
from .device import Device, Gpu, Run
from .rows import (
    GRAPHS,
    OURS_GRAPH,
    Case,
    Results,
    Row,
    T,
    all_cases,
    row_name,
    significant,
    wants_graph,
)

BUDGET = 200.0
ROW_SECONDS = 0.12
"""Of timing a row gets, more where its few rounds need more."""
NAMES_SHARE = 0.12
"""Of the budget, to ask for the kernels' names after all timing, which the profiler would slow."""
NAMES_STEPS = 16
KEPT_NAMES, LONGEST_NAME = 2, 80
DEVICE_LOST = 3

Clock = Callable[[], float]


class DeviceLost(Exception):
    """The device takes no more work."""


def measure(
    device: Device,
    results: Results,
    cases: Sequence[Case],
    budget: float,
    clock: Clock = time.monotonic,
) -> None:
    """Measure and save the rows that the results do not have yet, until the budget is spent."""
    end = clock() + budget
    for case in cases:
        modes = [mode for mode in MODES if row_name(case, mode) not in results.rows]
        if clock() >= end:
            return
        for row in measure_case(device, case, modes):
            results.add(row)
            say(row)
            if row.broken:
                make_sure(device)


def say(row: Row) -> None:
    """A line of the log."""
    times = ", ".join(f"{name} {row.median(name):.4g}" for name in row.us)
    print(f"{row}: {times}", *row.failures, sep="; ", flush=True)


def make_sure(device: Device) -> None:
    """Raises DeviceLost where the device is not usable after a failure."""
    try:
        torch.ones(1, device=device.name).add_(1)
        device.finish()
    except RuntimeError as error:
        raise DeviceLost(first_line(error)) from error


def measure_case(device: Device, case: Case, modes: Sequence[str]) -> Iterator[Row]:
    """The rows of a case, which share the problem and what is right."""
    if not modes:
        return
    gc.collect()
    precision = answers.PRECISIONS[case.precision]
    with answers.using(precision):
        try:
            problem = answers.make_problem(case.cell, case.shape(T), device.name)
            right = answers.expected(problem)
        except RuntimeError as error:
            yield from (Row(case, mode, broken={"float64": first_line(error)}) for mode in modes)
            return
        for mode in modes:
            row = Row(case, mode)
            with broken_in(row, OURS):
                row.strategy = strategy_of(problem, device.name)
            fill(row, device, problem, right)
            yield row


def strategy_of(problem: Problem, device: str) -> str | None:
    """How rnnkern runs it forward; None on a CPU."""
    shape = problem.shape
    sizes = (shape.input_size(0), shape.H, shape.P, shape.D)
    steps = shape.batch_sizes().tolist()
    return dict(_C.explain(problem.cell, problem.x.dtype, steps, *sizes, device)).get("strategy")


def fill(row: Row, device: Device, problem: Problem, right: dict[str, Tensor]) -> None:
    """Check our answers, and time all contenders that gave one."""
    runs: dict[str, Run] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for contender in (TORCH, RNNKERN):
        with broken_in(row, contender.name):
            job = make_job(contender, problem, row.mode)
            answer = answers.select(problem, row.mode, job.run())
            device.finish()
            runs[contender.name], found[contender.name] = job.run, answer
    for name, run in list(runs.items()) if wants_graph(row.case, row.mode) else ():
        with broken_in(row, GRAPHS[name]):
            replay = device.graphed(run)
            answer = answers.select(problem, row.mode, replay())
            device.finish()
            runs[GRAPHS[name]], found[GRAPHS[name]] = replay, answer
    if BASELINE in found:
        precision = answers.PRECISIONS[row.case.precision]
        for name in (OURS, OURS_GRAPH):
            if name in found:
                row.checks[name] = answers.check(right, found[name], found[BASELINE], precision)
    found.clear()
    with broken_in(row, "timing"):
        seconds = timing.compare(device, runs, ROW_SECONDS)
        for name, blocks in seconds.items():
            row.us[name] = [significant(1e6 * block / T) for block in blocks]


@contextlib.contextmanager
def broken_in(row: Row, name: str) -> Iterator[None]:
    """Notes an exception in the row instead of raising it."""
    try:
        yield
    except RuntimeError as error:
        row.broken[name] = first_line(error)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def make_job(contender: Modules, problem: Problem, mode: str) -> Job:
    """The contender's job, with its parameters on the problem's device."""
    with torch.device(problem.x.device):
        return contender.job(problem, mode)


def name_kernels(
    device: Device, results: Results, budget: float, clock: Clock = time.monotonic
) -> None:
    """Note which kernels torch.nn runs in each row, over a few steps."""
    end = clock() + budget
    for row in list(results.rows.values()):
        if clock() >= end:
            return
        if row.kernels or BASELINE not in row.us:
            continue
        with answers.using(answers.PRECISIONS[row.case.precision]):
            shape = row.case.shape(NAMES_STEPS)
            problem = answers.make_problem(row.case.cell, shape, device.name)
            names = device.kernels(make_job(TORCH, problem, row.mode).run)
        row.kernels = telling(names)
        results.take(row)


def telling(names: Sequence[str]) -> list[str]:
    """Those that tell most: the first that are named after a recurrent network, then others."""
    recurrent = re.compile("RNN|LSTM|GRU")
    ordered = sorted(names, key=lambda name: recurrent.search(name) is None)
    return [name[:LONGEST_NAME] for name in ordered[:KEPT_NAMES]]


def run(device: Device, results: Results, budget: float) -> None:
    """The whole grid; what is left of the budget goes to the kernels' names."""
    gc.collect()
    gc.freeze()  # so that collecting between rows is quick
    gc.disable()
    results.save()
    try:
        results.facts["clocks"] = {"before": environment.state()}
        measure(device, results, all_cases(), (1 - NAMES_SHARE) * budget)
        results.facts["clocks"]["after"] = environment.state()
        try:
            name_kernels(device, results, NAMES_SHARE * budget)
        except RuntimeError as error:
            results.facts["kernels"] = f"not named: {first_line(error)}"
        results.save()
    finally:
        gc.enable()
        gc.unfreeze()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.grid", description=__doc__)
    add = parser.add_argument
    add("--budget", type=float, default=BUDGET, metavar="SECONDS")
    add("--out", type=Path, metavar="FILE.json", help="default: named after the GPU")
    add("--resume", action="store_true", help="leave out what the file has")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    reason = available.reason()
    if reason:
        print(reason)
        return 1
    facts = environment.facts()
    path = args.out or default_path(facts["gpu"])
    results = Results(facts, [path, *copies(path)])
    if args.resume:
        results.resume()
    status = 0
    try:
        run(Gpu(), results, args.budget)
    except DeviceLost as error:
        print(f"the device is lost: {error}")
        status = DEVICE_LOST
    print(*report.grid_lines(list(results.rows.values()), len(results.missing())), sep="\n")
    return status or int(any(row.failures for row in results.rows.values()))


def default_path(gpu: str) -> Path:
    """The GPU's file among the results."""
    return machine.results_path(f"gpu {gpu}")


def copies(path: Path) -> list[Path]:
    """Where else a file goes: below $OUT, where that is set."""
    out = os.environ.get("OUT")
    return [Path(out) / path.name] if out else []


if __name__ == "__main__":
    sys.exit(main())
