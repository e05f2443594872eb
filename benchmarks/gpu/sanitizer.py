"""compute-sanitizer over a run of each strategy's kernels, and the tests of the primitives."""

import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import commands
from .commands import Finished, NotCompiled
from .exercise import STRATEGIES
from .parts import PRIMITIVES, Context, Outcome

PROGRAM = "compute-sanitizer"
ERROR_CODE = 99
"""Exit status by which the tool says that it has found something."""
OURS = ["--kernel-name", "kns=rnnkern"]
TOOLS: dict[str, list[str]] = {
    # Failed API calls are no finding: who makes them asks for their status.
    "memcheck": ["--report-api-errors", "no"],
    "racecheck": [],
    "initcheck": [],
    "synccheck": [],
}
OF_ALL = ("memcheck",)
"""Tools that look at cuBLAS's kernels too, which go astray where we give them wrong arguments."""
REFUSALS = (
    "Device not supported",
    "No attachable process found",
    "Unable to find injection library",
    "Insufficient permissions",
)
FINDINGS = 3
"""Different findings that are named of a tool."""
# The GPU's memory is handed out piece by piece, so that a tool sees where each ends.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
AT_ONCE = 8


@dataclass(frozen=True)
class Verdict:
    """What a tool says of a program."""

    text: str
    failed: bool
    findings: tuple[str, ...] = ()


def run(context: Context, seconds: float) -> Outcome:
    """Every tool over every program, side by side."""
    if commands.find(PROGRAM) is None:
        return Outcome([f"there is no {PROGRAM} here: not run"])
    outcome, end = Outcome(), time.monotonic() + seconds
    targets: dict[str, list[str | Path]] = {
        strategy: [sys.executable, "-m", "benchmarks.gpu.exercise", strategy]
        for strategy in STRATEGIES
    }
    try:
        targets[PRIMITIVES] = [context.program(PRIMITIVES)]
    except NotCompiled as error:
        outcome.lines.append(f"primitives: {error}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {
            (target, tool): pool.submit(examine, context, tool, target, words, end)
            for target, words in targets.items()
            for tool in TOOLS
        }
        verdicts = {key: future.result() for key, future in waiting.items()}
    add(outcome, verdicts)
    collect_logs(context, [f"sanitizer-{tool}-{target}" for target, tool in verdicts])
    return outcome


def examine(
    context: Context, tool: str, target: str, words: list[str | Path], end: float
) -> Verdict:
    """One tool over one program, until the time `end`."""
    program = commands.find(PROGRAM)
    assert program is not None
    command = [program, "--tool", tool, "--error-exitcode", str(ERROR_CODE)]
    command += ["--launch-timeout", "60", "--print-limit", "50", *TOOLS[tool]]
    command += OURS if target != PRIMITIVES and tool not in OF_ALL else []
    log = context.log(f"sanitizer-{tool}-{target}")
    left = max(1.0, end - time.monotonic())
    return judge(commands.run([*command, *words], log, left, ENVIRONMENT))


def judge(finished: Finished) -> Verdict:
    """Passed, findings, or no verdict; a tool that refuses the device is no failure."""
    refusal = next((text for text in REFUSALS if text in finished.output), None)
    if refusal is not None:
        return Verdict(f"refused ({refusal})", failed=False)
    found = findings(finished.output)
    if finished.code is None:
        return Verdict(f"interrupted after {finished.seconds:.0f} s", True, found)
    if finished.code == 0 and re.search(r"^calls: \w+ 0$", finished.output, re.MULTILINE):
        return Verdict("had nothing to look at: the GPU cannot run it", failed=False)
    if finished.code == 0:
        return Verdict(f"passed in {finished.seconds:.0f} s", False, found)
    if finished.code == ERROR_CODE or found:
        return Verdict(summary(finished.output), True, found)
    return Verdict(f"the program ended with {finished.code}", True, last_lines(finished.output))


def findings(output: str) -> tuple[str, ...]:
    """The first lines of what was found, the most frequent first, with the place they name."""
    headline = r"^========= (Invalid|Uninit|Error|Warning|Barrier|Misaligned|Potential|Race)(.*)$"
    blocks = re.findall(headline + r"(?:\n=========     at (.*))?", output, re.MULTILINE)
    texts = Counter(
        f"{first}{rest}" + (f" at {place}" if place else "") for first, rest, place in blocks
    )
    return tuple(f"{count} x {text}"[:140] for text, count in texts.most_common(FINDINGS))


def summary(output: str) -> str:
    """The tool's own last word."""
    found = re.findall(r"^========= (?:ERROR|RACECHECK) SUMMARY: (.*)$", output, re.MULTILINE)
    return found[-1] if found else "findings"


def last_lines(output: str) -> tuple[str, ...]:
    lines = [line.strip() for line in output.splitlines() if line.strip("= ")]
    return tuple(line[:140] for line in lines[-2:])


def add(outcome: Outcome, verdicts: dict[tuple[str, str], Verdict]) -> None:
    """A line for each program, and what was found."""
    for target in dict.fromkeys(target for target, _ in verdicts):
        own = {tool: verdict for (name, tool), verdict in verdicts.items() if name == target}
        texts = [f"{tool} {verdict.text}" for tool, verdict in own.items()]
        outcome.lines.append(f"{target}: {'; '.join(texts)}")
        for tool, verdict in own.items():
            outcome.lines += [f"  {tool}: {text}" for text in verdict.findings]
            if verdict.failed:
                outcome.failures.append(f"{tool} of {target}")


def collect_logs(context: Context, names: list[str]) -> None:
    """One log of all runs."""
    with context.log("sanitizer").open("w") as together:
        for name in names:
            text = context.log(name).read_text(errors="replace")
            together.write(f"== {name}\n{text}\n")
