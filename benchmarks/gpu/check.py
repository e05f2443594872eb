"""The check of a GPU: `make gpu-check`, or `python -m benchmarks.gpu.check` on a built extension.

Runs the tests on the GPU, compute-sanitizer, small measurements, the grid against torch.nn, every
strategy against torch.nn and the training of a language model, all in processes of their own,
and prints a short table last. Ends with 1 if anything is wrong. Logs are in build/gpu-check/,
results in benchmarks/results/; where $OUT is set results are there too, and the ends of all logs in
logs.txt.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import rnnkern

from . import available, commands, environment, grid, micro, report, sanitizer, suite
from .commands import ROOT
from .parts import MICRO, PRIMITIVES, WIDTH, Context, Outcome
from .rows import Row, all_names, read

LIMIT = 450.0
"""Seconds for everything."""
SHARES = {
    "tests": 0.6,
    "sanitizer": 0.4,
    "micro": 0.1,
    "grid": 0.5,
    "strategies": 0.3,
    "language": 0.15,
}
"""Of the time that is left, for each of the parts that are left, in proportion; in this order."""
MOST_LINES = {
    "tests": 13,
    "sanitizer": 14,
    "micro": 28,
    "grid": 30,
    "strategies": 40,
    "language": 4,
}
FOLDER = ROOT / "build" / "gpu-check"
SOURCES = {
    PRIMITIVES: ROOT / "tests" / "cuda_emulation" / "primitive_tests.cu",
    MICRO: Path(__file__).with_name("micro.cu"),
}
USERS = {PRIMITIVES: {"tests", "sanitizer"}, MICRO: {"micro"}}
RESTARTS = 3
"""Of the grid, when the GPU takes no more work in a process."""
START = 25.0
"""Seconds that a program with a budget takes besides it, at most."""
KEPT_LOG = 2 << 20
"""Bytes of the end of a log that are kept."""

Part = Callable[[Context, float], Outcome]
"""Takes the seconds that it may take."""


def run_grid(context: Context, seconds: float, budget: float, resume: bool) -> Outcome:
    """The grid in a process of its own, and in a new one where the device was lost."""
    start, end = time.time(), time.monotonic() + seconds
    code: int | None = grid.DEVICE_LOST
    for attempt in range(RESTARTS):
        left = end - time.monotonic()
        command = [sys.executable, "-m", "benchmarks.gpu.grid"]
        command += ["--budget", f"{max(1.0, min(budget, left - START)):.0f}"]
        command += ["--resume"] * (resume or attempt > 0)
        code = commands.run(command, context.log("grid"), left).code
        if code != grid.DEVICE_LOST:
            break
    path = grid.default_path(context.gpu)
    written = path.exists() and path.stat().st_mtime >= start
    grid_facts, rows = read(path) if written else ({}, [])
    return judge_grid(grid_facts.get("clocks", {}), rows, code)


def judge_grid(clocks: dict[str, dict[str, str]], rows: Sequence[Row], code: int | None) -> Outcome:
    """What the rows say, and how the process ended."""
    outcome = Outcome(report.grid_lines(rows, len(all_names()) - len(rows)))
    outcome.lines += [f"{when} the grid: {report.state(found)}" for when, found in clocks.items()]
    wrong = sum(bool(row.failures) for row in rows)
    if wrong:
        outcome.failures.append(f"{wrong} rows of the grid")
    if code is None:
        outcome.failures.append("the grid was interrupted")
    elif code not in (0, 1) or not rows:
        outcome.failures.append(f"the grid ended with {code}")
    return outcome


def run_program(context: Context, seconds: float, name: str, options: Sequence[str]) -> Outcome:
    """One that prints a line for each result, and whose exit status says if one is wrong."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{name}", *options]
    finished = commands.run(command, context.log(name), seconds)
    outcome = Outcome(finished.output.splitlines())
    if finished.code != 0:
        how = "was interrupted" if finished.code is None else f"ended with {finished.code}"
        outcome.failures.append(f"it {how}")
    return outcome


def run_strategies(context: Context, seconds: float) -> Outcome:
    """As many cases as there is time for."""
    return run_program(
        context, seconds, "strategies", ["--budget", f"{max(1.0, seconds - START):.0f}"]
    )


def parts(args: argparse.Namespace) -> dict[str, Part]:
    """Those that were asked for, in order."""
    known: dict[str, Part] = {
        "tests": suite.run,
        "sanitizer": sanitizer.run,
        "micro": micro.run,
        "grid": partial(run_grid, budget=args.budget, resume=args.resume),
        "strategies": run_strategies,
        "language": partial(run_program, name="language", options=[]),
    }
    return {name: known[name] for name in SHARES if name in args.only}


def run_part(part: Part, context: Context, seconds: float) -> Outcome:
    """What a part finds; what breaks in it is its failure, and none of the others'."""
    try:
        return part(context, seconds)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:WIDTH]
        return Outcome([text], ["it broke off"])


def time_of(name: str, left: float, names: Iterable[str]) -> float:
    """Seconds that a part may take, of what is left for it and those behind it."""
    order = list(SHARES)
    behind = [other for other in names if order.index(other) >= order.index(name)]
    return left * SHARES[name] / sum(SHARES[other] for other in behind)


def run_parts(args: argparse.Namespace, facts: dict[str, Any]) -> dict[str, tuple[Outcome, float]]:
    """Each part's outcome and the seconds it took; programs are compiled in the meantime."""
    end = time.monotonic() + args.limit
    chosen, found = parts(args), {}
    with ThreadPoolExecutor(len(SOURCES)) as pool:
        programs = {
            name: pool.submit(
                commands.compile_cuda, source, FOLDER / name, facts["capability"], ["-lineinfo"]
            )
            for name, source in SOURCES.items()
            if USERS[name] & chosen.keys()
        }
        context = Context(FOLDER, out_folder(), facts["gpu"], programs)
        for name, part in chosen.items():
            start = time.monotonic()
            seconds = time_of(name, end - start, chosen)
            print(f"{name}: at most {seconds:.0f} s ...", flush=True)
            outcome = run_part(part, context, seconds)
            found[name] = (outcome, time.monotonic() - start)
            keep(context.log(name), context.out)
    return found


def out_folder() -> Path | None:
    """Where files go besides, if anywhere."""
    return Path(os.environ["OUT"]) if os.environ.get("OUT") else None


def keep(log: Path, out: Path | None) -> None:
    """The end of a log behind those of others, in the folder for what is to be kept."""
    if out is not None and log.exists():
        with (out / "logs.txt").open("ab") as together:
            together.write(f"==== {log.name}\n".encode() + log.read_bytes()[-KEPT_LOG:])


def as_text(facts: dict[str, Any], found: dict[str, tuple[Outcome, float]]) -> str:
    """The short table."""
    lines = [
        "",
        f"{facts['gpu']}, compute capability {facts['capability']}, "
        f"{facts['multiprocessors']} multiprocessors, driver {facts['driver']}",
        f"PyTorch {facts['torch']}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, "
        f"Python {facts['python']}, commit {facts['commit']}",
    ]
    for name, (outcome, seconds) in found.items():
        lines.append(f"== {name} ({seconds:.0f} s)")
        lines += clipped(outcome.lines, MOST_LINES[name])
    failures = [f"{name}: {text}" for name, (of, _) in found.items() for text in of.failures]
    verdict = f"FAILED ({'; '.join(failures)})" if failures else "passed"
    return "\n".join([*lines, f"gpu-check: {verdict}"])


def clipped(lines: Sequence[str], most: int) -> list[str]:
    """No more lines than that, and none too long."""
    kept, rest = lines[: most - 1], lines[most - 1 :]
    last = rest if len(rest) <= 1 else [f"... {len(rest)} lines more"]
    return [line[:WIDTH] for line in (*kept, *last)]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check", description=__doc__)
    add = parser.add_argument
    add("--only", type=part_names, default=list(SHARES), help=f"of {','.join(SHARES)}")
    add("--limit", type=float, default=LIMIT, metavar="SECONDS", help="for everything")
    add("--budget", type=float, default=grid.BUDGET, metavar="SECONDS", help="for the grid")
    add("--resume", action="store_true", help="leave out the rows of the grid that its file has")
    return parser.parse_args(words)


def part_names(text: str) -> list[str]:
    """Parts separated by commas."""
    names = text.split(",")
    unknown = [name for name in names if name not in SHARES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)}")
    return names


def missing() -> str | None:
    """What the check lacks here; None where it can run."""
    built = None if rnnkern.cuda_version else "rnnkern was built without CUDA"
    return available.reason() or built


def stop(number: int, frame: object) -> NoReturn:
    """Ends as by an exception, so that what was started is ended too."""
    sys.exit(128 + number)


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    reason = missing()
    if reason:
        print(f"gpu-check: FAILED ({reason})")
        return 1
    signal.signal(signal.SIGTERM, stop)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    facts = environment.facts()
    found = run_parts(args, facts)
    text = as_text(facts, found)
    for folder in filter(None, (FOLDER, out_folder())):
        (folder / "summary.txt").write_text(text + "\n")
    print(text)
    return int(any(outcome.failures for outcome, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
