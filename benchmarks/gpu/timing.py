"""How the grid times: contenders take turns in blocks, so that drifts hit all of them alike."""

import math
import time
from collections.abc import Callable, Mapping

from .device import Device, Run

BLOCK = 0.004
"""Seconds a block lasts at least, unless a single call lasts longer."""
MIN_ROUNDS, MAX_ROUNDS = 3, 9


def compare(
    device: Device,
    runs: Mapping[str, Run],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[float]]:
    """Seconds a call takes, by contender, one number a block.

    Each round has one block of every contender, and every second round goes through them
    backwards. After MIN_ROUNDS it ends when `seconds` have passed.
    """
    end = clock() + seconds
    calls = {name: max(1, math.ceil(BLOCK / device.seconds(run, 1))) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for finished in range(MAX_ROUNDS):
        if finished >= MIN_ROUNDS and clock() >= end:
            break
        for name in order:
            found[name].append(device.seconds(runs[name], calls[name]))
        order.reverse()
    return found
