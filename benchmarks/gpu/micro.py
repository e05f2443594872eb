"""The numbers of micro.cu and pair.py: what kernels for whole sequences rest on."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from .. import machine
from . import commands, environment
from .commands import NotCompiled
from .parts import MICRO, WIDTH, Context, Outcome


def run(context: Context, seconds: float) -> Outcome:
    """Run both programs, and keep their numbers."""
    outcome = Outcome()
    numbers: list[dict[str, Any]] = []
    log = context.log("micro")
    try:
        words: list[list[str | Path]] = [[context.program(MICRO)]]
    except NotCompiled as error:
        outcome.failures.append(f"micro.cu: {str(error)[:200]}")
        words = []
    words.append([sys.executable, "-m", "benchmarks.gpu.pair"])
    for command in words:
        finished = commands.run(command, log, seconds / len(words))
        numbers += parse(finished.output)
        if finished.code != 0:
            name = Path(command[-1]).name
            outcome.failures.append(f"{name} ended with {finished.code}")
            outcome.lines += [f"{name}: {line}" for line in finished.output.splitlines()[-1:]]
    if numbers:
        save(numbers, context)
    outcome.lines += table(numbers)
    return outcome


def parse(output: str) -> list[dict[str, Any]]:
    """The lines that are numbers; one that was cut off is none."""
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return [json.loads(line) for line in lines]


def save(numbers: list[dict[str, Any]], context: Context) -> None:
    """With the facts about the machine, among the results."""
    content = json.dumps({**environment.facts(), "numbers": numbers}, indent=1) + "\n"
    path = machine.results_path(f"gpu {context.gpu}", "micro")
    for file in (path, *([context.out / path.name] if context.out else [])):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def table(numbers: list[dict[str, Any]]) -> list[str]:
    """A paragraph for each thing that was measured, by the first part of how."""
    paragraphs: dict[str, dict[str, list[str]]] = {}
    for number in numbers:
        first, _, rest = number["how"].partition(", ")
        title = number["what"] + f" [{number['unit']}]" * bool(number["unit"])
        group = paragraphs.setdefault(title, {}).setdefault(first, [])
        group.append(f"{rest} {value(number)}".strip())
    lines = []
    for title, groups in paragraphs.items():
        texts = [f"{first}: {', '.join(found)}" for first, found in groups.items()]
        lines += textwrap.wrap(f"{title}: {'; '.join(texts)}", WIDTH, subsequent_indent="  ")
    return lines


def value(number: dict[str, Any]) -> str:
    """In three digits, or that there is none."""
    if number["value"] is None:
        return "none"
    return f"{number['value']:.3g}" if abs(number["value"]) < 1000 else f"{number['value']:.0f}"
