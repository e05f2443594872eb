"""The tests on the GPU: the suite with its kernels, tensors on it, and the primitives."""

import importlib.util
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from . import commands
from .commands import ROOT, NotCompiled
from .parts import PRIMITIVES, Context, Outcome

WORKERS = 8
NAMED = 6
"""Failures that are named of each kind of tests."""
SHARE = 0.8
"""Of the time, for the suite; what is left after it goes to the rest."""
OTHERS = ("architecture", "benchmarks", "gpu_check", "packaging")
"""Tests that run no kernel."""


@dataclass
class Counts:
    """How a kind of tests ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """How many passed, failed and were skipped."""
    failed: list[str] = field(default_factory=list)
    """A line for each."""
    trouble: str | None = None
    """Why they did not come to their end."""


def run(context: Context, seconds: float) -> Outcome:
    """All tests."""
    log, xml = context.log("tests"), context.folder / "tests.xml"
    kinds = {"suite": pytest_run(suite_words(), log, xml, SHARE * seconds)}
    cuda_tests = ROOT / "tests" / "test_cuda.py"
    kinds["CUDA tensors"] = pytest_run([str(cuda_tests)], log, xml, 0.5 * seconds)
    forced = [str(ROOT / "tests" / "test_cuda_strategies.py"), "--backend", "cuda"]
    kinds["strategies"] = pytest_run([*forced, *parallel_words()], log, xml, 0.5 * seconds)
    kinds["primitives"] = primitives_run(context, log, 0.3 * seconds)
    outcome = Outcome()
    for name, counts in kinds.items():
        add(outcome, name, counts)
    return outcome


def suite_words() -> list[str]:
    """The suite on the GPU; tests named after CUDA ask for it themselves, or for an emulation."""
    words = ["--backend", "cuda", "--ignore-glob=*/test_cuda*.py", str(ROOT / "tests")]
    return words + [f"--ignore={ROOT}/tests/test_{name}.py" for name in OTHERS] + parallel_words()


def parallel_words() -> list[str]:
    """For xdist, where it is installed."""
    found = importlib.util.find_spec("xdist") is not None
    return ["-p", "xdist", "-n", str(WORKERS)] if found else []


def pytest_run(words: list[str], log: Path, xml: Path, seconds: float) -> Counts:
    """What pytest tells; no plugin but those that are named."""
    xml.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={xml}", *words]
    finished = commands.run(command, log, seconds, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    counts = parse_xml(xml)
    if finished.code is None:
        counts.trouble = f"interrupted after {finished.seconds:.0f} s"
    elif finished.code not in (0, 1) or not xml.exists():
        counts.trouble = f"pytest ended with {finished.code}: {last_line(finished.output)}"
    return counts


def last_line(text: str) -> str:
    """The last that names an error, if any does."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:200]


def parse_xml(path: Path) -> Counts:
    """pytest's own report; empty where there is none."""
    counts = Counts()
    if not path.exists():
        return counts
    for case in ElementTree.parse(path).iter("testcase"):
        results = {child.tag: child.get("message", "") for child in case}
        broken = results.get("failure", results.get("error"))
        if broken is None:
            counts.outcomes["skipped" if "skipped" in results else "passed"] += 1
            continue
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        counts.outcomes["failed"] += 1
        counts.failed.append(f"{name}: {' '.join(broken.split())}")
    return counts


def primitives_run(context: Context, log: Path, seconds: float) -> Counts:
    """The program of the primitives' tests."""
    try:
        program = context.program(PRIMITIVES)
    except NotCompiled as error:
        return Counts(trouble=str(error))
    finished = commands.run([program], log, seconds)
    counts = parse_lines(finished.output)
    if finished.code is None:
        counts.trouble = f"interrupted after {finished.seconds:.0f} s"
    elif finished.code not in (0, 1) or not counts.outcomes:
        counts.trouble = f"ended with {finished.code}: {last_line(finished.output)}"
    return counts


def parse_lines(output: str) -> Counts:
    """A line for each test: `ok NAME`, `FAILED NAME: detail` or `skipped NAME: reason`."""
    counts = Counts()
    kinds = {"ok": "passed", "FAILED": "failed", "skipped": "skipped"}
    for kind, rest in re.findall(r"^(ok|FAILED|skipped) (.+)$", output, re.MULTILINE):
        counts.outcomes[kinds[kind]] += 1
        if kind == "FAILED":
            counts.failed.append(rest)
    return counts


def add(outcome: Outcome, name: str, counts: Counts) -> None:
    """A kind of tests in the outcome of them all."""
    words = [f"{counts.outcomes[kind]} {kind}" for kind in ("passed", "failed", "skipped")]
    trouble = f"; {counts.trouble}" if counts.trouble else ""
    outcome.lines.append(f"{name}: {', '.join(words)}{trouble}")
    outcome.lines += [f"  {text[:140]}" for text in counts.failed[:NAMED]]
    if counts.failed:
        outcome.failures.append(f"{len(counts.failed)} tests of {name}")
    if counts.trouble:
        outcome.failures.append(f"{name}: {counts.trouble[:60]}")
    elif not counts.outcomes["passed"]:
        outcome.failures.append(f"no test of {name} ran")
