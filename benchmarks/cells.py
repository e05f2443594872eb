"""Cells in a Python loop, against torch.nn's: `python -m benchmarks.cells` measures and saves.

A call is STEPS steps; with gradients, also those of all parameters by the last h.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import rnnkern

from . import timing
from .contenders import BASELINE, OURS, contenders
from .report import save_rows
from .shapes import INFERENCE, MODES

STEPS = 10
SIZES = ((1, 16), (1, 256), (16, 256), (32, 64), (64, 512))
BUDGET = 1.0


def call(cell: nn.Module, xs: Tensor, mode: str) -> Callable[[], Any]:
    """STEPS steps over xs [STEPS, N, H]."""

    def steps() -> Tensor:
        hx = None
        for x in xs:
            hx = cell(x, hx)
        assert hx is not None
        return hx[0] if isinstance(hx, tuple) else hx

    def infer() -> Tensor:
        with torch.no_grad():
            return steps()

    def train() -> Any:
        return torch.autograd.grad(steps().sum(), list(cell.parameters()))

    return infer if mode == INFERENCE else train


def main() -> None:
    """A line for each cell, size and mode."""
    rows = []
    for kind in ("LSTMCell", "GRUCell", "RNNCell"):
        for N, H in SIZES:
            ours, theirs = getattr(rnnkern, kind)(H, H), getattr(nn, kind)(H, H)
            theirs.load_state_dict(ours.state_dict())
            xs = torch.randn(STEPS, N, H)
            torch.testing.assert_close(call(ours, xs, INFERENCE)(), call(theirs, xs, INFERENCE)())
            for mode in MODES:
                runs = {OURS: call(ours, xs, mode), BASELINE: call(theirs, xs, mode)}
                seconds = timing.compare(runs, BUDGET)
                us = {name: 1e6 / STEPS * timing.median(each) for name, each in seconds.items()}
                ratio = us[BASELINE] / us[OURS]
                rows.append({"cell": kind, "N": N, "H": H, "mode": mode, "us": us, "ratio": ratio})
                each = ", ".join(f"{name} {time:.1f} us a step" for name, time in us.items())
                print(f"{kind} N{N} H{H} {mode}: {each}, ratio {ratio:.2f}", flush=True)
    save_rows("cells", rows, contenders())


if __name__ == "__main__":
    main()
