"""How it is measured: contenders take turns in one process, in blocks with a pause before each.

Worker threads spin after a call, torch's for some milliseconds and ONNX Runtime's far longer, and
would steal the cores from the next contender: the pause lasts until they sleep. Taking turns
spreads slow drifts of the machine (clock rate, neighbours) over all contenders alike.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PAUSE = 0.02
"""Seconds before each block, at least."""
LONGEST_PAUSE = 2.0
BUSY = 0.05
"""Threads are asleep when, in the second half of a pause, they take less of one core than this."""
BLOCK = 0.05
"""Seconds a block lasts at least, unless a single call lasts longer."""
MIN_ROUNDS = 3


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def pause() -> None:
    """Wait until this process's other threads sleep, LONGEST_PAUSE at most."""
    end = time.monotonic() + LONGEST_PAUSE
    time.sleep(PAUSE / 2)
    busy = PAUSE
    while busy > BUSY * PAUSE / 2 and time.monotonic() < end:
        busy = -time.process_time()
        time.sleep(PAUSE / 2)
        busy += time.process_time()


def block(run: Callable[[], Any], calls: int, wake: bool = True) -> float:
    """Seconds a call takes, over `calls` calls in a row after a pause.

    With `wake` one call more comes first, not timed, so that worker threads sleep no more.
    """
    pause()
    if wake:
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def compare(runs: Mapping[str, Callable[[], Any]], budget: float) -> dict[str, list[float]]:
    """Seconds a call takes, by contender, one number a block.

    Takes about `budget` seconds, more if MIN_ROUNDS rounds need more. Each round has one block of
    every contender, and every second round goes through them backwards.
    """
    end = time.perf_counter() + budget
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with quiet():
        calls = {
            name: max(1, math.ceil(BLOCK / block(run, 1, wake=False))) for name, run in runs.items()
        }
        order = list(runs)
        while len(seconds[order[0]]) < MIN_ROUNDS or time.perf_counter() < end:
            for name in order:
                seconds[name].append(block(runs[name], calls[name], wake=calls[name] > 1))
            order.reverse()
    return seconds


def median(seconds: list[float]) -> float:
    """The median block."""
    return statistics.median(seconds)


def as_ms(seconds: list[float]) -> list[float]:
    """Milliseconds with as many digits as a timing has."""
    return [float(f"{1e3 * block:.4g}") for block in seconds]
