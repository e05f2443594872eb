"""The rows of the grid, in the order in which they are measured, and the file that keeps them."""

import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..checks import Check
from ..contenders import BASELINE, OURS
from ..shapes import CELLS, INFERENCE, MODES, Shape
from .answers import PRECISIONS

T = 512
OURS_GRAPH, BASELINE_GRAPH = f"{OURS}, graph", f"{BASELINE}, graph"
GRAPHS = {OURS: OURS_GRAPH, BASELINE: BASELINE_GRAPH}

# Each with the most telling first; cases that are main in every respect come before all others.
HIDDENS = (512, 1024, 256, 2048, 128, 768)
BATCHES = (16, 1, 64, 8, 128, 17)
MAIN_PRECISIONS, MAIN_HIDDENS, MAIN_BATCHES = ("bf16", "fp32"), HIDDENS[:3], BATCHES[:3]
GRAPH_BATCHES = (16, 1)


@dataclass(frozen=True)
class Case:
    """One problem: a layer with input size = H over T steps."""

    cell: str
    precision: str
    H: int
    N: int

    def __str__(self) -> str:
        return f"{self.cell} {self.precision} H{self.H} N{self.N}"

    def shape(self, steps: int) -> Shape:
        return Shape(steps, self.N, self.H, dtype=PRECISIONS[self.precision].dtype)

    @property
    def tier(self) -> int:
        """In how many respects it is none of the main ones; the lowest is measured first."""
        main = (MAIN_PRECISIONS, MAIN_HIDDENS, MAIN_BATCHES)
        return sum(
            value not in values
            for value, values in zip((self.precision, self.H, self.N), main, strict=True)
        )

    @property
    def in_a_graph(self) -> bool:
        """Whether inference is also measured inside a CUDA graph."""
        return self.tier == 0 and self.N in GRAPH_BATCHES


@cache
def all_cases() -> tuple[Case, ...]:
    """The whole grid, the most telling first."""
    product = itertools.product(BATCHES, HIDDENS, PRECISIONS, CELLS)
    cases = [Case(cell, precision, H, N) for N, H, precision, cell in product]
    return tuple(sorted(cases, key=lambda case: case.tier))


def all_names() -> list[str]:
    """Of all rows, in that order."""
    return [row_name(case, mode) for case in all_cases() for mode in MODES]


@dataclass
class Row:
    """One case in one mode, with what each contender took."""

    case: Case
    mode: str
    us: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds a step, by contender, one number a block."""
    checks: dict[str, list[Check]] = field(default_factory=dict)
    """Of our answers, by contender."""
    broken: dict[str, str] = field(default_factory=dict)
    """By contender that raised an exception instead of answering: its text."""
    kernels: list[str] = field(default_factory=list)
    """What torch.nn ran, the longest first; empty where nobody asked."""
    strategy: str | None = None
    """What rnnkern ran forward; None on a CPU."""
    commit: str | None = None

    def __str__(self) -> str:
        return row_name(self.case, self.mode)

    def median(self, contender: str) -> float | None:
        return significant(statistics.median(self.us[contender])) if contender in self.us else None

    @property
    def failures(self) -> list[str]:
        """What is wrong: with our answers, or where somebody gave none."""
        wrong = [
            f"{name}: {check.tensor} {check.error:.1e} > {check.limit:.1e}"
            for name, found in self.checks.items()
            for check in found
            if not check.passed
        ]
        return wrong + [f"{name}: {text}" for name, text in self.broken.items()]

    def speedup(self, ours: str = OURS, baseline: str = BASELINE) -> float | None:
        """How many times faster ours is; None where it is wrong or was not measured."""
        mine, other = self.median(ours), self.median(baseline)
        right = all(check.passed for check in self.checks.get(ours, ()))
        return significant(other / mine) if mine and other and right else None

    @property
    def path(self) -> str:
        """Which of cuDNN's ways torch.nn went, by the names of its kernels."""
        return path_of(self.kernels)

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self.case),
            "mode": self.mode,
            "us": {name: self.median(name) for name in self.us},
            "speedup": self.speedup(),
            "us_of_blocks": self.us,
            "checks": {
                name: [[check.tensor, check.error, check.limit] for check in found]
                for name, found in self.checks.items()
            },
            "broken": self.broken,
            "kernels": self.kernels,
            "strategy": self.strategy,
            "commit": self.commit,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Row":
        """A row that `as_json` wrote."""
        return cls(
            Case(saved["cell"], saved["precision"], saved["H"], saved["N"]),
            saved["mode"],
            saved["us_of_blocks"],
            {n: [Check(*values) for values in found] for n, found in saved["checks"].items()},
            saved["broken"],
            saved["kernels"],
            saved["strategy"],
            saved["commit"],
        )


def row_name(case: Case, mode: str) -> str:
    return f"{case} {mode}"


def significant(value: float) -> float:
    """With as many digits as a timing has."""
    return float(f"{value:.4g}")


def path_of(kernels: Iterable[str]) -> str:
    """cuDNN's way by what it ran: 'persistent', 'small persistent', 'standard' or 'other'.

    The persistent ones keep the weights on the chip, the small one those of one block; the standard
    one runs a matrix product and an elementwise kernel a step. 'other' is not cuDNN's.
    """
    names = " ".join(kernels)
    if "RNN_persist_" in names:
        return "persistent"
    if "RNN_blockPersist_" in names:
        return "small persistent"
    if "elemWiseRNNcell" in names or "elementWise_" in names:
        return "standard"
    return "other"


@dataclass
class Results:
    """The rows measured so far, in files that are whole at any time."""

    facts: dict[str, Any]
    paths: Sequence[Path]
    rows: dict[str, Row] = field(default_factory=dict)
    """By name."""
    _lines: dict[str, str] = field(default_factory=dict)

    def resume(self) -> None:
        """Take the rows of the first file that were measured at this commit."""
        for row in read(self.paths[0])[1]:
            if row.commit == self.facts["commit"]:
                self.take(row)

    def add(self, row: Row) -> None:
        """Keep a new row in the files as well."""
        row.commit = self.facts["commit"]
        self.take(row)
        self.save()

    def take(self, row: Row) -> None:
        """Keep a row, or what it has become, until the files are saved."""
        self.rows[str(row)] = row
        self._lines[str(row)] = json.dumps(row.as_json())

    def missing(self) -> list[str]:
        """Names of rows that are not measured."""
        return [name for name in all_names() if name not in self.rows]

    def save(self) -> None:
        """A line for each row; the old file stays until the new one is written."""
        head = json.dumps({**self.facts, "T": T, "not_measured": self.missing()}, indent=1)
        rows = ",\n  ".join(self._lines.values())
        text = f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(text)
            unfinished.replace(path)


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The facts and the rows of a file; none where there is no file."""
    if not path.exists():
        return {}, []
    facts = json.loads(path.read_text())
    return facts, [Row.from_json(saved) for saved in facts.pop("rows")]


def wants_graph(case: Case, mode: str) -> bool:
    return mode == INFERENCE and case.in_a_graph
