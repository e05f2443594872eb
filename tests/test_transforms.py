"""Claim: torch.func's transforms see through the kernels."""

import pytest
import torch
from problems import Problem
from tolerances import assert_equivalent
from torch import func

from rnnkern import reference
from rnnkern.autograd import recurrence


def make(cell, call):
    """A layer's output as a function of x and w_hh, with values for them."""
    layer = Problem(cell, torch.float64, T=3, N=2, I=2, H=3, D=2).layer

    def output(x, w_hh):
        weights = [layer.weights[0], w_hh, *layer.weights[2:]]
        return call(cell, x, None, layer.states, weights)[0]

    return output, layer.x, layer.weights[1]


def both(cell, transform):
    """The transform's result with the kernels and with the reference."""
    return (leaves(transform(*make(cell, call))) for call in (recurrence, reference.layer))


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else [t for r in result for t in leaves(r)]


def test_grad(cell):
    def transform(output, x, w):
        return func.grad(lambda x, w: output(x, w).square().sum(), argnums=(0, 1))(x, w)

    assert_equivalent(*both(cell, transform))


def test_vjp(cell):
    def transform(output, x, w):
        y, pullback = func.vjp(output, x, w)
        return y, pullback(torch.ones_like(y))

    assert_equivalent(*both(cell, transform))


def test_jacrev(cell):
    assert_equivalent(*both(cell, lambda output, x, w: func.jacrev(output, (0, 1))(x, w)))


def test_hessian_by_two_jacrevs(cell):
    def transform(output, x, w):
        return func.jacrev(func.jacrev(lambda x: output(x, w).square().sum()))(x)

    assert_equivalent(*both(cell, transform))


def test_vmap(cell):
    def transform(output, x, w):
        return func.vmap(output, (0, None))(torch.stack([x, 2 * x, -x]), w)

    assert_equivalent(*both(cell, transform))


def test_vmap_over_weights_and_inner_dimension(cell):
    def transform(output, x, w):
        return func.vmap(output, (2, 0))(torch.stack([x, 2 * x], 2), torch.stack([w, -w]))

    assert_equivalent(*both(cell, transform))


def test_gradient_of_each_sample(cell):
    def transform(output, x, w):
        def loss(x, w):
            return output(x[:, None].expand(-1, 2, -1), w).square().sum()

        return func.vmap(func.grad(loss, 1), (1, None))(x, w)

    assert_equivalent(*both(cell, transform))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func.jvp uses it
def test_forward_mode_is_refused(cell):
    output, x, w = make(cell, recurrence)
    with pytest.raises(RuntimeError, match="jvp"):
        func.jvp(lambda x: output(x, w), (x,), (torch.ones_like(x),))


def test_vmap_over_the_backward_of_an_eager_graph(cell):
    """As for a Jacobian by rows: the graph was recorded before, the transform comes after."""
    layer = Problem(cell, torch.float64, T=2, N=2, H=3).layer
    x = layer.x.clone().requires_grad_()
    y = recurrence(cell, x, None, layer.states, layer.weights)[0]

    def pulled_back(dy):
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    expected = torch.stack([pulled_back(dy) for dy in cotangents])
    assert_equivalent([func.vmap(pulled_back)(cotangents)], [expected])
