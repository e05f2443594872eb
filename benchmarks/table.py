"""The table: every cell, shape and mode; each answer checked, then all contenders timed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from . import timing
from .checks import Check, check_answer, expected_answer
from .contenders import BASELINE, OURS, Contender
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
    def failures(self) -> list[Check]:
        """What is wrong with our answer."""
        return [check for check in self.checks[OURS] if not check.passed]

    def __str__(self) -> str:
        return f"{self.cell} {self.shape} {self.mode}"

    def as_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "shape": asdict(self.shape),
            "mode": self.mode,
            "best": self.best,
            "ratio": self.ratio,
            "ms": {name: self.ms(name) for name in self.seconds},
            "ms_of_blocks": {n: timing.as_ms(times) for n, times in self.seconds.items()},
            "checks": {n: [check.as_json() for check in found] for n, found in self.checks.items()},
        }


def measure(contenders: Sequence[Contender], budget: float) -> Iterator[Row]:
    """All rows, one after the other; `budget` is the seconds of timing a row may take."""
    for cell in CELLS:
        for shape in SHAPES:
            problem = make_problem(cell, shape)
            expected = expected_answer(problem)
            for mode in MODES:
                yield measure_row(contenders, problem, mode, expected, budget)


def measure_row(
    contenders: Sequence[Contender],
    problem: Problem,
    mode: str,
    expected: dict[str, Tensor],
    budget: float,
) -> Row:
    """Check every answer, then time the contenders whose answer is right."""
    jobs = {contender.name: contender.job(problem, mode) for contender in contenders}
    answers = {name: job.tensors(job.run()) for name, job in jobs.items()}
    names = problem.answer_names(mode)
    checks = {
        name: check_answer(expected, names, answer, answers[BASELINE])
        for name, answer in answers.items()
    }
    right = [name for name, found in checks.items() if all(check.passed for check in found)]
    row = Row(problem.cell, problem.shape, mode, checks)
    row.seconds = timing.compare({name: jobs[name].run for name in right}, budget)
    return row
