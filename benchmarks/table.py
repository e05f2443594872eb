"""The table: every cell, shape and mode; each answer checked, then all contenders timed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from . import timing
from .checks import Check, check_answer, expected_answer
from .contenders import BASELINE, OURS, Contender, Job
from .shapes import CELLS, MODES, SHAPES, Problem, Shape, make_problem

ROWS = len(CELLS) * len(SHAPES) * len(MODES)


@dataclass
class Row:
    """One cell, shape and mode. A contender with a failed check has no times."""

    cell: str
    shape: Shape
    mode: str
    checks: dict[str, list[Check]]
    """By contender; the baseline is what the others are checked against."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """A call's time by contender, one number a block."""
    limit: float | None = None
    """Seconds that this machine needs at the very least (roofline.py), where that was measured."""
    broken: dict[str, str] = field(default_factory=dict)
    """By contender that raised an exception instead of answering: its text."""
    commit: str | None = None
    """Of what was measured, where a file has rows of several runs."""

    def ms(self, name: str) -> float | None:
        """The contender's median time in milliseconds."""
        return 1e3 * timing.median(self.seconds[name]) if name in self.seconds else None

    @property
    def best(self) -> str:
        """The fastest contender that is not ours."""
        others = [name for name in self.seconds if name != OURS]
        return min(others, key=lambda name: timing.median(self.seconds[name]))

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is than the best of the others."""
        ours, best = self.ms(OURS), self.ms(self.best)
        return best / ours if ours and best else None

    @property
    def fraction(self) -> float | None:
        """Which part of what this machine can do ours reaches."""
        ours = self.ms(OURS)
        return 1e3 * self.limit / ours if self.limit and ours else None

    @property
    def failures(self) -> list[Check]:
        """What is wrong with our answer."""
        return [check for check in self.checks[OURS] if not check.passed]

    def __str__(self) -> str:
        return f"{self.cell} {self.shape} {self.mode}"

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Row":
        """A row that `as_json` wrote."""
        checks = {
            name: [Check(check["tensor"], check["error"], check["limit"]) for check in found]
            for name, found in saved["checks"].items()
        }
        seconds = {n: [ms / 1e3 for ms in blocks] for n, blocks in saved["ms_of_blocks"].items()}
        limit = saved["limit_ms"] / 1e3 if saved["limit_ms"] else None
        return cls(
            saved["cell"],
            Shape(**saved["shape"]),
            saved["mode"],
            checks,
            seconds,
            limit,
            saved["broken"],
            saved["commit"],
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "shape": self.shape.as_json(),
            "mode": self.mode,
            "best": self.best,
            "ratio": self.ratio,
            "fraction": self.fraction,
            "limit_ms": 1e3 * self.limit if self.limit else None,
            "broken": self.broken,
            "commit": self.commit,
            "ms": {name: self.ms(name) for name in self.seconds},
            "ms_of_blocks": {n: timing.as_ms(times) for n, times in self.seconds.items()},
            "checks": {n: [check.as_json() for check in found] for n, found in self.checks.items()},
        }


def measure(contenders: Sequence[Contender], budget: float) -> Iterator[Row]:
    """All rows, one after the other; `budget` is the seconds of timing a row may take."""
    for cell in CELLS:
        for shape in SHAPES:
            yield from measure_shape(contenders, cell, shape, MODES, budget)


def measure_shape(
    contenders: Sequence[Contender], cell: str, shape: Shape, modes: Sequence[str], budget: float
) -> Iterator[Row]:
    """The rows of one problem."""
    problem = make_problem(cell, shape)
    expected = expected_answer(problem)
    for mode in modes:
        takers = [contender for contender in contenders if contender.takes(problem, mode)]
        yield measure_row(takers, problem, mode, expected, budget)


def measure_row(
    contenders: Sequence[Contender],
    problem: Problem,
    mode: str,
    expected: dict[str, Tensor],
    budget: float,
) -> Row:
    """Check every answer, then time the contenders whose answer is right."""
    row = Row(problem.cell, problem.shape, mode, checks={})
    jobs: dict[str, Job] = {}
    answers: dict[str, Sequence[Tensor]] = {}
    for contender in contenders:
        try:
            job = contender.job(problem, mode)
            answers[contender.name] = job.tensors(job.run())
        except Exception as error:
            if contender.name in (OURS, BASELINE):
                raise
            row.broken[contender.name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            jobs[contender.name] = job
    names = problem.answer_names(mode)
    for name, answer in answers.items():
        strict = name == OURS
        row.checks[name] = check_answer(expected, names, answer, answers[BASELINE], strict)
    right = [name for name, found in row.checks.items() if all(check.passed for check in found)]
    row.seconds = timing.compare({name: jobs[name].run for name in right}, budget)
    return row
