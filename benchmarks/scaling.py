"""How time grows with H, N, T and threads, and the memory of a training step, in one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .contenders import BASELINE, MODULES, OURS
from .grid import BATCHES, HIDDENS
from .report import OURS_COLOR, SECOND_COLOR
from .shapes import CELLS, INFERENCE, MODES, Shape
from .table import Row

SERIES = {
    "H  (T=100, N=1)": {H: Shape(100, 1, H) for H in HIDDENS},
    "H  (T=100, N=32)": {H: Shape(100, 32, H) for H in HIDDENS},
    "N  (T=100, H=256)": {N: Shape(100, N, 256) for N in BATCHES},
    "T  (N=1, H=128)": {T: Shape(T, 1, 128) for T in (1, 100, 2000)},
}
THREADS = Shape(100, 32, 512)


def draw(
    rows: Mapping[int, Sequence[Row]],
    threads: int,
    memory: Mapping[str, Mapping[str, int]],
    title: str,
    path: Path,
) -> None:
    """A row of panels a cell. `rows` are those measured, by the number of threads."""
    figure = Figure(figsize=(20, 9), layout="constrained")
    axes = figure.subplots(len(CELLS), len(SERIES) + 2, squeeze=False)
    for line, cell in zip(axes, CELLS, strict=True):
        own = {n: [row for row in found if row.cell == cell] for n, found in rows.items()}
        for axis, (name, shapes) in zip(line, SERIES.items(), strict=False):
            points = {x: found_of(own[threads], shape) for x, shape in shapes.items()}
            draw_times(axis, name, points)
        draw_times(
            line[-2], f"threads  ({THREADS})", {n: found_of(own[n], THREADS) for n in sorted(own)}
        )
        draw_memory(line[-1], memory.get(cell, {}))
        line[0].set_ylabel(f"{MODULES[cell]}, ms", fontweight="bold")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def found_of(rows: Sequence[Row], shape: Shape) -> dict[str, Row]:
    """The rows of a shape, by mode."""
    return {row.mode: row for row in rows if row.shape == shape and row.ratio}


def draw_times(axis: Any, name: str, points: Mapping[int, Mapping[str, Row]]) -> None:
    """Our time and the best other's over x, in both modes."""
    for mode in MODES:
        style = "-" if mode == INFERENCE else "--"
        found = {x: rows[mode] for x, rows in points.items() if mode in rows}
        ours = [row.ms(OURS) for row in found.values()]
        best = [row.ms(row.best) for row in found.values()]
        axis.plot(
            list(found), best, style, color=SECOND_COLOR, marker=".", label=f"best other, {mode}"
        )
        axis.plot(list(found), ours, style, color=OURS_COLOR, marker=".", label=f"{OURS}, {mode}")
    axis.set_xlabel(name)
    if not any(points.values()):
        return
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(list(points), [str(x) for x in points])
    axis.minorticks_off()
    axis.grid(color="#e4e4e4")


def draw_memory(axis: Any, sizes: Mapping[str, int]) -> None:
    """Bars of what a training step adds to the peak."""
    names = [name for name in (OURS, BASELINE) if name in sizes]
    values = [sizes[name] / 2**20 for name in names]
    bars = axis.bar(names, values, color=[OURS_COLOR, SECOND_COLOR][: len(names)])
    axis.bar_label(bars, [f"{value:.0f}" for value in values])
    axis.margins(y=0.12)
    axis.set_xlabel("peak memory of a training step, MiB")
