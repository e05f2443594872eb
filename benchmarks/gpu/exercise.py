"""A short run of every kernel, for compute-sanitizer.

    python -m benchmarks.gpu.exercise [STRATEGY ...]

Each cell, dtype and strategy, packed or not, in both directions, forward and backward, with sizes
that fit no tile and sizes that do.
"""

import itertools
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnkern

from ..shapes import Shape

STRATEGIES = ("cluster", "persistent", "fused", "stepwise")
REFUSED = "cannot run this"
"""What the extension says of a strategy that does not take a problem."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = (Shape(3, 3, 7, 5), Shape(4, 9, 64, 32))
LENGTHS = (2, 3, 1)


def networks(shape: Shape) -> list[nn.Module]:
    """One of each cell, and an LSTM with a projection."""
    sizes = (shape.I, shape.H)
    return [
        rnnkern.LSTM(*sizes, bidirectional=True),
        rnnkern.LSTM(*sizes, bidirectional=True, proj_size=shape.H // 2),
        rnnkern.GRU(*sizes, bidirectional=True),
        *(rnnkern.RNN(*sizes, bidirectional=True, nonlinearity=f) for f in ("tanh", "relu")),
    ]


def forward_and_backward(network: nn.Module, x: Tensor | PackedSequence) -> None:
    output = network(x)[0]
    y = output.data if isinstance(output, PackedSequence) else output
    y.backward(torch.ones_like(y))
    if not torch.isfinite(y).all():
        raise RuntimeError("the output is not finite")


def exercise(device: str, strategies: Sequence[str] = STRATEGIES) -> dict[str, int]:
    """Runs everything; how many calls each strategy took."""
    taken = dict.fromkeys(strategies, 0)
    for strategy, dtype, shape in itertools.product(strategies, DTYPES, SHAPES):
        os.environ["RNNKERN_CUDA_STRATEGY"] = strategy
        for network in networks(shape):
            network.to(device, dtype)
            x = torch.randn(shape.T, shape.N, shape.I).to(device, dtype).requires_grad_()
            lengths = torch.tensor(LENGTHS).repeat(shape.N // len(LENGTHS))
            for given in (x, pack_padded_sequence(x, lengths, enforce_sorted=False)):
                try:
                    forward_and_backward(network, given)
                except RuntimeError as error:
                    if REFUSED not in str(error):
                        raise
                else:
                    taken[strategy] += 1
    return taken


def main(strategies: Sequence[str]) -> int:
    taken = exercise("cuda", strategies or STRATEGIES)
    torch.cuda.synchronize()
    print("calls:", ", ".join(f"{strategy} {count}" for strategy, count in taken.items()))
    return int(taken.get("stepwise") == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
