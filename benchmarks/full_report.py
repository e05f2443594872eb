"""The full grid for people: means by cell and mode, what lies behind, JSON and heat maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from . import memory, scaling
from .contenders import MODULES, OURS
from .grid import BATCHES, HIDDENS, SQUARE, STEPS
from .report import Results, failures_text, geometric_mean, machine_text, write_json
from .shapes import CELLS, MODES, Shape
from .table import Row

SLOWEST = 15
"""So many of the rows in which another is faster are printed."""


@dataclass
class FullResults(Results):
    """All rows of the file."""

    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes by cell and contender: memory.measure."""
    other_threads: dict[int, list[Row]] = field(default_factory=dict)
    """What was measured before with other numbers of threads."""


def save_json(results: FullResults, path: Path) -> None:
    """All numbers, blocks and errors included."""
    content = {
        **results.facts,
        "failures": results.failures,
        "table": [row.as_json() for row in results.rows],
        "memory": results.memory,
    }
    write_json(content, path)


def as_text(results: FullResults) -> str:
    """Means, the rows beside the square grid, those that lose, memory."""
    parts = [machine_text(results.facts).removesuffix(", float32"), means_text(results.rows)]
    options = [row for row in results.rows if row.shape not in SQUARE]
    parts += ["options\n" + rows_text(options)] if options else []
    behind = sorted((r for r in results.rows if (r.ratio or 1) < 1), key=lambda r: r.ratio or 1)
    if behind:
        title = f"another is faster in {len(behind)} of {len(results.rows)} rows, by most in\n"
        parts.append(title + rows_text(behind[:SLOWEST]))
    parts += [memory.as_text(results.memory)] if results.memory else []
    return "\n\n".join([*parts, *broken_text(results.rows), *failures_text(results)])


def contenders_text(facts: dict[str, Any]) -> str:
    """Who is measured, and who is not."""
    present = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    missing = [f"left out: {reason}" for reason in facts["missing"]]
    return "\n".join([f"versions: {present}", *missing])


def means_text(rows: Sequence[Row]) -> str:
    """A line for each cell, mode and T of the square grid."""
    lines = [
        f"{'cell':<9}{'mode':<11}{'T':>4}{'rows':>6}{'ratio':>8}{'worst':>8}{'best':>8}"
        f"{'ahead':>7}{'of limit':>10}   (ratio, of limit: geometric means)"
    ]
    for cell in CELLS:
        for mode in MODES:
            for T in STEPS:
                found = square(rows, cell, mode, T)
                ratios = [row.ratio for row in found if row.ratio]
                fractions = [row.fraction for row in found if row.fraction]
                if ratios:
                    lines.append(
                        f"{cell:<9}{mode:<11}{T:>4}{len(found):>6}{geometric_mean(ratios):>8.2f}"
                        f"{min(ratios):>8.2f}{max(ratios):>8.2f}"
                        f"{sum(ratio >= 1 for ratio in ratios):>7}"
                        f"{geometric_mean(fractions):>10.0%}"
                    )
    ratios = [row.ratio for row in rows if row.ratio]
    lines.append(f"all {len(rows)} rows: geometric mean of the ratios {geometric_mean(ratios):.2f}")
    return "\n".join(lines)


def square(rows: Sequence[Row], cell: str, mode: str, T: int) -> list[Row]:
    """The rows of a panel of the heat maps."""
    return [
        row
        for row in rows
        if (row.cell, row.mode, row.shape.T) == (cell, mode, T) and row.shape in SQUARE
    ]


def rows_text(rows: Sequence[Row]) -> str:
    """A line a row: our time, the best other's, the ratio, and the fraction of the limit."""
    lines = [f"{'':<42}{'ours, ms':>10}{'best other, ms':>32}{'ratio':>7}{'of limit':>10}"]
    for row in rows:
        ours, fraction = row.ms(OURS), row.fraction
        best = f"{row.ms(row.best):.3f} {row.best}"
        line = f"{row!s:<42}"
        line += f"{'WRONG':>10}{best:>32}" if ours is None else f"{ours:>10.3f}{best:>32}"
        line += f"{row.ratio:>7.2f}" if row.ratio else ""
        lines.append(line + (f"{fraction:>10.0%}" if fraction else ""))
    return "\n".join(lines)


def broken_text(rows: Sequence[Row]) -> list[str]:
    """A paragraph on contenders that raised an exception or answered wrongly, if any did."""
    lines = [f"{row}: {name}: {text}" for row in rows for name, text in row.broken.items()]
    for row in rows:
        for name, checks in row.checks.items():
            wrong = [f"{check.tensor} {check.error:.1e}" for check in checks if not check.passed]
            if wrong and name != OURS:
                lines.append(f"{row}: {name} is wrong: {', '.join(wrong)}")
    return ["not measured\n" + "\n".join(lines)] if lines else []


def save_pictures(results: FullResults, path: Path) -> list[Path]:
    """PNG files beside the JSON, if anything of the square grid was measured."""
    if not any(row.shape in SQUARE for row in results.rows):
        return []
    ratios = path.with_name(path.stem + "-ratios.png")
    others = f"Speed of {OURS}, where the fastest other is 1"
    draw_maps(results, others, lambda row: row.ratio, "{:.2f}", ("RdBu", LogNorm(0.25, 4)), ratios)
    fractions = path.with_name(path.stem + "-fractions.png")
    limit = "Fraction of the machine's own limit (roofline.py) that " + OURS + " reaches"
    draw_maps(
        results, limit, lambda row: row.fraction, "{:.0%}", ("YlGnBu", Normalize(0, 1)), fractions
    )
    curves = path.with_name(path.stem + "-scaling.png")
    threads = results.facts["threads"]
    rows = results.other_threads | {threads: results.rows}
    title = f"Time of a call and memory\n{machine_text(results.facts)}"
    scaling.draw(rows, threads, results.memory, title, curves)
    return [ratios, fractions, curves]


def draw_maps(
    results: FullResults,
    title: str,
    value: Callable[[Row], float | None],
    form: str,
    colors: tuple[str, Normalize],
    path: Path,
) -> None:
    """A panel for each cell, mode and T: N down, H across, the number in each field."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(len(CELLS), len(MODES) * len(STEPS), squeeze=False)
    for down, cell in enumerate(CELLS):
        for across, (mode, T) in enumerate((mode, T) for mode in MODES for T in STEPS):
            axis = axes[down, across]
            axis.set_title(f"{MODULES[cell]} {mode}, T={T}", fontsize=10)
            found = {row.shape: value(row) for row in square(results.rows, cell, mode, T)}
            image = draw_map(axis, found, T, form, colors)
    figure.colorbar(image, ax=axes, shrink=0.5)
    figure.suptitle(f"{title}\n{machine_text(results.facts)}")
    figure.savefig(path, dpi=110)


def draw_map(
    axis: Any, found: dict[Shape, float | None], T: int, form: str, colors: tuple[str, Normalize]
) -> Any:
    """One panel; a field without a number stays white."""
    name, norm = colors
    values = [[found.get(Shape(T, N, H)) or float("nan") for H in HIDDENS] for N in BATCHES]
    image = axis.imshow(values, cmap=name, norm=norm, aspect="auto")
    axis.set_xticks(range(len(HIDDENS)), HIDDENS)
    axis.set_yticks(range(len(BATCHES)), BATCHES)
    axis.set_xlabel("H")
    axis.set_ylabel("N")
    for down, line in enumerate(values):
        for across, number in enumerate(line):
            if number == number:
                shade = sum(image.cmap(norm(number))[:3]) / 3
                color = "white" if shade < 0.5 else "black"
                axis.text(
                    across,
                    down,
                    form.format(number),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=color,
                )
    return image
