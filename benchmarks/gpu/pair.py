"""What a step costs that is a matrix product and an elementwise kernel, whoever writes the kernel.

`python -m benchmarks.gpu.pair` prints lines like those of micro.cu: the least that a network needs
which runs step by step, in a stream and in a CUDA graph.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .device import Device, Gpu

N, HIDDENS, STEPS, TRIALS = 16, (512, 1024), 256, 9
GATES = 4


def work(device: str, H: int, product: bool, elementwise: bool) -> Callable[[], None]:
    """STEPS steps of a network of four gates, or of one half of what it does."""
    options: Any = {"dtype": torch.bfloat16, "device": device}
    h, weights = torch.randn(N, H, **options), torch.randn(H, GATES * H, **options) / H**0.5
    gates = torch.zeros(N, GATES * H, **options)

    def run() -> None:
        for _ in range(STEPS):
            if product:
                torch.mm(h, weights, out=gates)
            if elementwise:
                torch.tanh(gates[:, :H], out=h)

    return run


def measure(device: Device) -> Iterator[dict[str, object]]:
    """A number for each."""
    kinds = {"both": (True, True), "product": (True, False), "elementwise": (False, True)}
    for H in HIDDENS:
        for kind, parts in kinds.items():
            run = work(device.name, H, *parts)
            run()
            for how, timed in (("stream", run), ("graph", device.graphed(run))):
                seconds = statistics.median(device.seconds(timed, 1) for _ in range(TRIALS))
                yield {
                    "what": f"a step in bf16, N {N}",
                    "how": f"H {H} {how}, {kind}",
                    "value": 1e9 * seconds / STEPS,
                    "unit": "ns",
                }


def main() -> int:
    for number in measure(Gpu()):
        print(json.dumps(number), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
