"""Claim: the reference, the arbiter of all other tests, is torch.nn's mathematics in float64."""

import pytest
import torch
from problems import Problem, exact, exact_gradients, peer_gradients, torch_layer
from tolerances import assert_equivalent
from torch.autograd import gradcheck, gradgradcheck

from rnnkern import _C, reference

TWINS = [name for name in sorted(_C.cells()) if hasattr(torch, name)]
OPTIONS = {
    "plain": {},
    "both-directions": {"D": 2},
    "without-biases": {"bias": False},
    "packed": {"lengths": (5, 4, 2, 2, 1)},
    "packed-both-directions": {"lengths": (5, 4, 2, 2, 1), "D": 2},
    "projected": {"P": 3},
    "projected-both-directions": {"P": 3, "D": 2},
    "empty": {"N": 0},
}
CASES = [
    pytest.param(Problem(name, torch.float64, **options), id=f"{name}-{option}")
    for name in TWINS
    for option, options in OPTIONS.items()
    if "P" not in options or name == "lstm"
]


def test_every_cell_of_torch_is_there():
    assert {"rnn_tanh", "rnn_relu", "lstm", "gru"} <= set(TWINS)


@pytest.mark.parametrize("problem", CASES)
def test_layer(problem):
    assert_equivalent(exact(problem), torch_layer(problem.cell, problem.layer))


@pytest.mark.parametrize("problem", CASES)
def test_gradients(problem):
    assert_equivalent(exact_gradients(problem), peer_gradients(problem))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("name", TWINS)
def test_network(name, bias, D, batch_first):
    x, hx, params = network_arguments(name, D, bias)
    options = (bias, 2, 0.5, True, D == 2, batch_first)
    torch.manual_seed(5)
    theirs = getattr(torch, name)(x, hx, params, *options)
    torch.manual_seed(5)
    ours = reference.network(name, x, hx, params, *options)
    assert_equivalent(ours, theirs)


def network_arguments(name, D, bias):
    """Two layers of three units on a 3 x 3 batch of two features (square, for batch_first)."""
    G = _C.cells()[name]["gates"]
    H, I = 3, 2
    params = []
    for size in (I, H * D):
        for _ in range(D):
            params += [torch.randn(G * H, size), torch.randn(G * H, H)]
            params += [torch.randn(G * H), torch.randn(G * H)] if bias else []
    params = [p.double() for p in params]
    states = [torch.randn(2 * D, 3, H).double() for _ in range(_C.cells()[name]["states"])]
    hx = tuple(states) if len(states) > 1 else states[0]
    return torch.randn(3, 3, I).double(), hx, params


@pytest.mark.parametrize("name", sorted(_C.cells()))
def test_differentiable_twice(name):
    layer = Problem(name, torch.float64, T=2, N=1, I=2, H=2).layer

    def run(x, w_hh):
        weights = [layer.weights[0], w_hh, *layer.weights[2:]]
        return tuple(reference.layer(name, x, None, layer.states, weights))

    inputs = (layer.x.requires_grad_(), layer.weights[1].requires_grad_())
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_dtype(cell, dtype):
    outputs = reference.layer(cell, *Problem(cell, dtype).layer)
    assert all(out.dtype == dtype for out in outputs)


def test_runs_on_another_device(cell):
    layer = Problem(cell).layer.map(lambda t: t.to("meta"))
    assert all(out.device.type == "meta" for out in reference.layer(cell, *layer))
