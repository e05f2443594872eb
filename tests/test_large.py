"""Claim: tensors of more than 2**31 elements are indexed with 64 bits.

An input that large is mostly zeros that the system never backs with memory, so it always runs where
4 GiB are free. An output that large has to be written, in float32 8 GiB, and a backward pass
writes the input's gradient beside it: these run with RNNKERN_TEST_LARGE=1.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Layer, Problem, cotangents
from tolerances import assert_accurate, assert_all_accurate

from rnnkern import _C, reference

LIMIT = 2**31
ROWS = [0, 1, 2, 100_000, -3, -2, -1]
# (cell, T, N, I, H)
WIDE_INPUT = ("rnn_tanh", 16, 2**17 + 1, 1024, 4)
MANY_GATES = ("lstm", 256, 2**18 + 64, 1, 8)
WIDE_OUTPUT = ("rnn_relu", 256, 2**18 + 64, 1, 32)


def needs(gib: int):
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:  # not Linux, which alone tells what is available
        return pytest.mark.skipif(False, reason="")
    free = int(re.search(r"MemAvailable: +(\d+) kB", meminfo).group(1)) >> 20
    return pytest.mark.skipif(free < gib, reason=f"needs {gib} GiB of free memory, found {free}")


opt_in = pytest.mark.skipif(
    os.environ.get("RNNKERN_TEST_LARGE") != "1",
    reason="takes up to 12 GiB and a minute; RNNKERN_TEST_LARGE=1 runs it",
)


def large(cell, T, N, I, H) -> Layer:
    """A batch of N rows that are zero but for ROWS; the states are one row, expanded."""
    x, _, states, weights = Problem(cell, T=T, N=len(ROWS), I=I, H=H).layer
    wide = torch.from_numpy(np.zeros((T, N, I), np.float32))  # torch.zeros would write them
    wide[:, ROWS] = x * (H / I) ** 0.5  # a sum of I products with weights up to H ** -0.5 is near 1
    return Layer(wide, None, [s[:, :1].expand(1, N, H) for s in states], weights)


def rows_of(layer: Layer) -> Layer:
    return Layer(layer.x[:, ROWS], None, [s[:, ROWS] for s in layer.states], layer.weights)


def check_forward(cell, *sizes):
    layer = large(cell, *sizes)
    results = _C.forward(cell, *layer, False)
    some = rows_of(layer)
    truth = reference.layer(cell, *some.map(torch.Tensor.double))
    peer = reference.layer(cell, *some)
    for found, other, exact in zip(results, peer, truth, strict=True):
        assert_accurate(found[:, ROWS], other, exact)


@needs(4)
def test_input():
    _, T, N, I, _ = WIDE_INPUT
    assert T * N * I > LIMIT
    check_forward(*WIDE_INPUT)


@needs(4)
def test_gates():
    cell, T, N, _, H = MANY_GATES
    assert T * N * _C.cells()[cell]["gates"] * H > LIMIT
    check_forward(*MANY_GATES)


@opt_in
@needs(12)
def test_output():
    _, T, N, _, H = WIDE_OUTPUT
    assert T * N * H > LIMIT
    check_forward(*WIDE_OUTPUT)


@opt_in
@needs(12)
def test_gradient_of_the_input():
    """dy is zero but for ROWS, so these rows alone give the whole gradient of the weights too."""
    cell, T, _, I, H = WIDE_INPUT
    layer = large(*WIDE_INPUT)
    some = Problem(cell, T=T, N=len(ROWS), I=I, H=H)
    y, h_n, *residuals = _C.forward(cell, *layer, True)
    dy, dh = torch.zeros_like(y), torch.zeros_like(h_n)
    dy[:, ROWS], dh[:, ROWS] = cotangents(some)
    wanted = [True] * len(layer.inputs())
    dx, dh0, *dweights = _C.backward(cell, *layer, y, residuals, dy, [dh], wanted)

    def plain(change):
        inputs = rows_of(layer).map(lambda t: change(t).requires_grad_())
        outputs = reference.layer(cell, *inputs)
        present = [t for t in inputs.inputs() if t is not None]
        return torch.autograd.grad(outputs, present, [change(g) for g in cotangents(some)])

    found = [dx[:, ROWS], dh0[:, ROWS], *(g for g in dweights if g is not None)]
    names = ["x", "h0", "w_ih", "w_hh", "b_ih", "b_hh"]
    assert_all_accurate(found, plain(torch.Tensor.clone), plain(torch.Tensor.double), names)
