"""Results for people: a table in the terminal, JSON, and pictures."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from . import machine
from .char_lm import NUDGED, CharLM
from .contenders import BASELINE, MODULES, OURS, Contender
from .shapes import CELLS, MODES, SHAPES
from .table import Row

OURS_COLOR, SECOND_COLOR, GREY = "#1b6ca8", "#e08e2b", "#8a8a8a"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


@dataclass
class Results:
    """What a run has measured so far."""

    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    char_lm: CharLM | None = None

    @property
    def failures(self) -> list[str]:
        """One line for each thing that is wrong."""
        lines = [
            f"{row}: "
            + ", ".join(f"{c.tensor} {c.error:.1e} > {c.limit:.1e}" for c in row.failures)
            for row in self.rows
            if row.failures
        ]
        if self.char_lm and not math.isfinite(sum(self.char_lm.losses[OURS])):
            lines.append("training run: the loss is not finite")
        return lines


def save_json(results: Results, path: Path) -> None:
    """All numbers, blocks and errors included."""
    content = {
        **results.facts,
        "failures": results.failures,
        "table": [row.as_json() for row in results.rows],
        "char_lm": results.char_lm.as_json() if results.char_lm else None,
    }
    write_json(content, path)


def save_rows(kind: str, rows: list[dict[str, Any]], measured: list[Contender]) -> None:
    """Rows beside the facts of the machine, in its file of that kind."""
    facts = machine.facts(measured)
    path = machine.results_path(facts["cpu"], f"{facts['threads']}threads", kind)
    write_json({**facts, kind: rows}, path)


def write_json(content: Any, path: Path) -> None:
    """The whole file or, when interrupted, the old one."""
    text = json.dumps(content, indent=1)
    text = re.sub(r"(?<=[\[\d,])\n +(?=[-\d])|(?<=\d)\n +(?=\])", "", text)  # lists in one line
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)


def as_text(results: Results) -> str:
    """The short table at the end of a run."""
    parts = [machine_text(results.facts)]
    if results.rows:
        parts.append(table_text(results.rows))
    if results.char_lm:
        parts.append(char_lm_text(results.char_lm))
    return "\n\n".join([*parts, *failures_text(results)])


def failures_text(results: Results) -> list[str]:
    """A paragraph, if anything is wrong."""
    title = "WRONG, largest error and what is allowed:\n"
    return [title + "\n".join(results.failures)] if results.failures else []


def machine_text(facts: dict[str, Any]) -> str:
    """Where the numbers come from, in a line."""
    return f"{facts['cpu']}, threads: {facts['threads']}, {facts['backend']}, float32"


def table_text(rows: Sequence[Row]) -> str:
    """A line for each cell and shape: our time, the best other's, and the ratio, in both modes."""
    title = f"{'cell':<9}{'shape':<17}" + "".join(f"{mode + ', ms':>35}" for mode in MODES)
    columns = " " * 26 + f"{OURS:>10}{'best other':>18}{'ratio':>7}" * len(MODES)
    lines = [title, columns]
    for cell in CELLS:
        for shape in SHAPES:
            found = [row for row in rows if (row.cell, row.shape) == (cell, shape)]
            lines.append(f"{cell:<9}{shape!s:<17}" + "".join(row_text(row) for row in found))
    for mode in MODES:
        ratios = [row.ratio for row in rows if row.mode == mode and row.ratio]
        lines.append(f"{mode}: geometric mean of the ratios {geometric_mean(ratios):.2f}")
    return "\n".join(lines)


def row_text(row: Row) -> str:
    """Our time, the best other's, and how many times faster ours is."""
    ours, ratio = row.ms(OURS), row.ratio
    best = f"{row.ms(row.best):.2f} {row.best}"
    if ours is None or ratio is None:
        return f"{'WRONG':>10}{best:>18}{'':>7}"
    return f"{ours:>10.2f}{best:>18}{ratio:>7.2f}"


def geometric_mean(values: Sequence[float]) -> float:
    """nan of nothing."""
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else math.nan


def char_lm_text(run: CharLM) -> str:
    """Speed of both, and how far apart the losses came."""
    speeds = [f"{n} {run.characters_per_second(n):,.0f} characters/s" for n in (OURS, BASELINE)]
    return (
        f"character model, {len(run.losses[OURS])} steps: {', '.join(speeds)}, "
        f"ratio {run.ratio:.2f}\n"
        f"losses: last {run.losses[OURS][-1]:.4f} and {run.losses[BASELINE][-1]:.4f} nats per "
        f"character, largest difference {max(run.differences(OURS)):.1e}\n"
        f"({max(run.differences(NUDGED)):.1e} between {BASELINE} and itself, the last bit of all "
        f"weights changed)"
    )


def save_pictures(results: Results, path: Path) -> list[Path]:
    """PNG files beside the JSON: bars of the ratios, curves of the losses."""
    saved = []
    if results.rows:
        saved.append(path.with_name(path.stem + "-ratios.png"))
        draw_ratios(results, saved[-1])
    if results.char_lm:
        saved.append(path.with_name(path.stem + "-losses.png"))
        draw_losses(results.char_lm, saved[-1])
    return saved


def new_figure(rows: int, size: tuple[float, float], **options: Any) -> Any:
    """A figure and its axes [rows, 1]; size in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4")
        axis.set_axisbelow(True)
    return figure, axes


def draw_ratios(results: Results, path: Path) -> None:
    """One panel a cell, one pair of bars a shape."""
    figure, axes = new_figure(len(CELLS), (9, 8), sharex=True, sharey=True)
    for axis, cell in zip(axes.flat, CELLS, strict=True):
        draw_cell(axis, [row for row in results.rows if row.cell == cell], cell)
    axes[0, 0].legend(ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    labels = [str(shape).replace(" H", "\nH") for shape in SHAPES]
    axes[-1, 0].set_xticks(range(len(SHAPES)), labels)
    others = " or ".join(sorted({row.best for row in results.rows}))
    title = f"Speed of {OURS}, where the fastest other ({others}) is 1"
    figure.suptitle(f"{title}\n{machine_text(results.facts)}")
    figure.savefig(path, dpi=120)


def draw_cell(axis: Any, rows: Sequence[Row], cell: str) -> None:
    """Bars of the ratios of one cell, each with its number on top."""
    for index, (mode, color) in enumerate(zip(MODES, (OURS_COLOR, SECOND_COLOR), strict=True)):
        ratios = [row.ratio or 0.0 for row in rows if row.mode == mode]  # 0 where it is wrong
        places = [place + 0.4 * (index - 0.5) for place in range(len(ratios))]
        bars = axis.bar(places, ratios, width=0.38, color=color, label=mode)
        labels = [f"{ratio:.2f}" if ratio else "wrong" for ratio in ratios]
        axis.bar_label(bars, labels, fontsize=8, padding=2, bbox=LABEL_BOX)
    axis.axhline(1, color=GREY, linewidth=1, zorder=0.9)
    axis.set_ylabel("relative speed")
    axis.set_title(MODULES[cell], loc="left", fontweight="bold")
    axis.margins(y=0.15)


def draw_losses(run: CharLM, path: Path) -> None:
    """Both loss curves; below, how far they part, and how far rounding alone parts two runs."""
    figure, axes = new_figure(2, (8, 7), sharex=True, height_ratios=(3, 2))
    curves, differences = axes.flat
    steps = range(1, len(run.losses[OURS]) + 1)
    curves.plot(steps, run.losses[BASELINE], color=SECOND_COLOR, linewidth=5, label=BASELINE)
    curves.plot(steps, run.losses[OURS], color=OURS_COLOR, linewidth=1.5, label=OURS)
    curves.set_ylabel("loss, nats per character")
    curves.legend(frameon=False)
    differences.semilogy(steps, run.differences(NUDGED), color=GREY, label=NUDGED)
    differences.semilogy(steps, run.differences(OURS), color=OURS_COLOR, label=OURS)
    differences.legend(frameon=False)
    differences.set_ylabel(f"|loss - {BASELINE}'s|")
    differences.set_xlabel("step")
    figure.suptitle(
        "Character model, {layers} LSTM layers of {hidden}, same seed and batches".format(
            **run.sizes
        )
    )
    figure.savefig(path, dpi=120)
