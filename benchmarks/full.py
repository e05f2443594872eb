"""The full grid: every size and option against every contender, in parts and over several runs.

The file of results is read first and saved after every shape: an interrupted run loses one shape,
and a part measured again replaces its rows. Every row tells the commit it was measured at.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from . import full_report, grid, machine, memory, roofline, table
from .contenders import Contender, contenders
from .full_report import FullResults, save_json
from .peers import peers
from .shapes import CELLS, MODES, Shape
from .table import Row

BUDGET = 2.0
"""Seconds of timing a row gets; more where three rounds of all contenders need more."""


@dataclass(frozen=True)
class Selection:
    """Which rows are measured."""

    cell: str | None = None
    pattern: re.Pattern[str] | None = None
    resume: bool = False
    """Leave out what the file has."""

    @property
    def everything(self) -> bool:
        return not (self.cell or self.pattern)

    def parts(self, known: set[str]) -> list[tuple[str, Shape, list[str]]]:
        """Cell, shape and modes, of rows that are wanted and, on resuming, not known."""

        def wanted(name: str) -> bool:
            found = not self.pattern or self.pattern.search(name)
            return bool(found) and not (self.resume and name in known)

        found = []
        for cell in [self.cell] if self.cell else CELLS:
            for shape in grid.shapes_of(cell):
                modes = [mode for mode in MODES if wanted(f"{cell} {shape} {mode}")]
                found += [(cell, shape, modes)] if modes else []
        return found


@dataclass
class Known:
    """The rows of the file, by name, and what this run adds."""

    rows: dict[str, Row] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)


def read(path: Path) -> Known:
    """What earlier runs have saved; nothing if there is no file."""
    if not path.exists():
        return Known()
    content = json.loads(path.read_text())
    rows = [Row.from_json(saved) for saved in content["table"]]
    return Known({str(row): row for row in rows}, content["memory"])


def read_other_threads(path: Path, threads: int) -> dict[int, list[Row]]:
    """The rows of the machine's other files, by the number of threads."""
    found = {}
    mark = f"-{threads}threads-"
    for other in (
        path.parent.glob(path.name.replace(mark, "-*threads-")) if mark in path.name else []
    ):
        number = int(re.findall(r"-(\d+)threads-", other.name)[-1])
        if number != threads:
            found[number] = list(read(other).rows.values())
    return found


def run(out: Path | None, selection: Selection) -> int:
    """Measure the selection, save, draw and print all that the file then has; the exit status."""
    ours, baseline = contenders()
    others, missing = peers()
    everyone: list[Contender] = [ours, baseline, *others]
    facts = machine.facts(everyone) | {"missing": missing}
    threads = facts["threads"]
    path = out or machine.results_path(facts["cpu"], f"{threads}threads", "full")
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read(path)
    results = FullResults(facts, list(known.rows.values()), memory=known.memory)
    results.other_threads = read_other_threads(path, threads)
    print(full_report.contenders_text(facts))
    limits = load_roofline(facts["cpu"], threads, path)
    parts = selection.parts(set(known.rows))
    with tqdm(total=sum(len(modes) for *_, modes in parts), desc="grid", unit="row") as bar:
        for cell, shape, modes in parts:
            bar.set_postfix_str(f"{cell} {shape}")
            for row in table.measure_shape(everyone, cell, shape, modes, BUDGET):
                row.limit = limits.limit(cell, shape, row.mode) if limits else None
                row.commit = facts["commit"]
                known.rows[str(row)] = row
                bar.update()
            results.rows = in_order(known.rows)
            save_json(results, path)
    if selection.everything and not (selection.resume and results.memory):
        results.memory = memory.measure(threads)
        save_json(results, path)
    pictures = full_report.save_pictures(results, path)
    print(full_report.as_text(results))
    print("\nwritten:", *(each.name for each in (path, *pictures)), "in", path.parent)
    return 1 if results.failures else 0


def in_order(rows: dict[str, Row]) -> list[Row]:
    """The rows in the grid's order, whatever order they came in."""
    names = [str(Row(c, s, m, {})) for c in CELLS for s in grid.shapes_of(c) for m in MODES]
    return [rows[name] for name in names if name in rows]


def load_roofline(cpu: str, threads: int, out: Path) -> roofline.Roofline | None:
    """The machine's limits, from the file beside the results; None without a compiler."""
    try:
        return roofline.load(out.with_name(roofline.path_of(cpu).name), threads)
    except roofline.NoCompiler as error:
        print(f"no limits, as roofline.cpp could not be compiled: {error}")
        return None
