"""The results of the grid as a short table for the terminal."""

import itertools
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..contenders import BASELINE, OURS
from ..shapes import CELLS, MODES
from .answers import PRECISIONS
from .parts import WIDTH
from .rows import BASELINE_GRAPH, OURS_GRAPH, Case, Row

LISTED = 5
"""Rows that are named where there may be many."""
SHOWN_HIDDENS, SHOWN_BATCH, SHOWN_PRECISIONS = (256, 512, 1024), 16, ("bf16", "fp32")


def grid_lines(rows: Sequence[Row], missing: int) -> list[str]:
    """Everything worth knowing of the rows, in at most forty lines."""
    if not rows:
        return [f"grid: no row measured, {missing} missing"]
    measured = [row for row in rows if row.speedup() is not None]
    lines = [f"grid: {len(rows)} rows measured, {missing} not (no time left)", *failures(rows)]
    if measured:
        lines += [*means(measured), *paths(measured), *graphs(rows), *extremes(measured)]
        lines += step_times(rows)
    return lines


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def mean(speedups: Iterable[float | None]) -> str:
    """The geometric mean of those that were measured, and how many they are."""
    known = [speedup for speedup in speedups if speedup]
    return f"{statistics.geometric_mean(known):.2f} ({len(known)})" if known else "-"


def means(rows: Sequence[Row]) -> list[str]:
    """A line for each cell, a column for each precision in both modes."""
    columns = [(mode, precision) for mode in MODES for precision in PRECISIONS]
    lines = [
        f"times faster than {BASELINE}, geometric mean (rows)",
        " " * 10 + "".join(f"{f'{mode[:5]}. {precision}':>13}" for mode, precision in columns),
    ]
    for cell in CELLS:
        texts = [
            mean(
                row.speedup()
                for row in rows
                if (row.case.cell, row.mode, row.case.precision) == (cell, mode, precision)
            )
            for mode, precision in columns
        ]
        lines.append(f"{cell:<10}" + "".join(f"{text:>13}" for text in texts))
    return lines


def paths(rows: Sequence[Row]) -> list[str]:
    """The means by cuDNN's way, where it is known."""
    by_way: dict[str, list[float]] = {}
    for row in rows:
        if row.kernels:
            by_way.setdefault(f"{row.path} {row.mode}", []).append(speedup_of(row))
    texts = [f"{way} {mean(found)}" for way, found in sorted(by_way.items())]
    return wrapped(f"by the way {BASELINE} went: " + ", ".join(texts)) if texts else []


def graphs(rows: Sequence[Row]) -> list[str]:
    """What CUDA graphs change."""
    found = [row for row in rows if OURS_GRAPH in row.us]
    if not found:
        return []
    pairs = {
        f"against {BASELINE} in one": (OURS_GRAPH, BASELINE_GRAPH),
        f"{OURS} against a stream": (OURS_GRAPH, OURS),
        f"{BASELINE} against a stream": (BASELINE_GRAPH, BASELINE),
    }
    texts = [f"{text} {mean(row.speedup(*pair) for row in found)}" for text, pair in pairs.items()]
    return wrapped("inference in a CUDA graph: " + ", ".join(texts))


def extremes(rows: Sequence[Row]) -> list[str]:
    """How many rows are slower than torch.nn, and the worst and best rows."""
    ordered = sorted(rows, key=speedup_of)
    slower = Counter(f"{row.case.cell} {row.mode}" for row in rows if speedup_of(row) < 1)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(slower.items()))
    title = f"slower than {BASELINE}: {slower.total()} of {len(rows)} rows"
    lines = wrapped(f"{title} ({counts or 'none'})")
    few = min(LISTED, (len(ordered) + 1) // 2)
    for title, part in (("worst", ordered[:few]), ("best", ordered[: -few - 1 : -1])):
        lines += [f"{title if row is part[0] else '':<6}{extreme(row)}" for row in part]
    return lines


def speedup_of(row: Row) -> float:
    return row.speedup() or 0.0


def extreme(row: Row) -> str:
    """One row in a line."""
    kernel = row.kernels[0][:34] if row.kernels else ""
    ours = f"{row.median(OURS):.3g} us a step {row.strategy or ''}"
    other = f"{BASELINE} {row.median(BASELINE):.3g} {kernel}".rstrip()
    return f"{speedup_of(row):6.2f} {row!s:<34}{ours}, {other}"


def step_times(rows: Sequence[Row]) -> list[str]:
    """Microseconds a step of the shapes that are spoken of most."""
    known = {(row.case, row.mode): row for row in rows}
    columns = [(mode, H) for mode in MODES for H in SHOWN_HIDDENS]
    title = f"us a step, ours/{BASELINE}, N{SHOWN_BATCH}"
    lines = [f"{title:<30}" + "".join(f"{f'{mode[:5]}. H{H}':>14}" for mode, H in columns)]
    for cell, precision in itertools.product(CELLS, SHOWN_PRECISIONS):
        cases = [(Case(cell, precision, H, SHOWN_BATCH), mode) for mode, H in columns]
        texts = [f"{step_time(known[case]) if case in known else '-':>14}" for case in cases]
        lines.append(f"{f'{cell} {precision}':<30}" + "".join(texts))
    return lines


def step_time(row: Row) -> str:
    """Ours and torch.nn's."""
    medians = [row.median(name) for name in (OURS, BASELINE)]
    return "/".join("-" if us is None else f"{us:.3g}" for us in medians)


def failures(rows: Sequence[Row]) -> list[str]:
    """What is wrong, loudly."""
    wrong = [row for row in rows if row.failures]
    if not wrong:
        return []
    lines = [f"WRONG: {len(wrong)} rows, error and what is allowed, or what was raised"]
    lines += [f"  {row}: {'; '.join(row.failures)}"[:WIDTH] for row in wrong[:LISTED]]
    return lines + ["  ..."] * (len(wrong) > LISTED)


def state(found: Mapping[str, str]) -> str:
    """What the driver told of the GPU at one moment."""
    names = {"sm_mhz": "SM clock {} MHz", "memory_mhz": "memory {} MHz", "celsius": "{} C"}
    return ", ".join(text.format(found.get(name, "?")) for name, text in names.items())
