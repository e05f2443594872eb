"""Claim: torch.func's transforms see through the kernels."""

import pytest
import torch
from problems import Problem
from tolerances import assert_equivalent
from torch import func
from torch.autograd import forward_ad

import rnnkern
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


def test_vmap_of_the_gradient_of_inputs(cell):
    """Backward joins the mapped dimension to the batch, states with it or shared."""

    def transform(output, x, w):
        def gradient(x):
            return func.grad(lambda x: output(x, w).square().sum())(x)

        return func.vmap(gradient, 1, 2)(torch.stack([x, 2 * x, -x], 1))

    assert_equivalent(*both(cell, transform))


def test_vmap_over_states_and_all_states(cell):
    layer = Problem(cell, torch.float64, T=3, N=2, I=2, H=3, D=2).layer
    mapped = [torch.stack([state, -state], -1) for state in layer.states]

    def run(call):
        def outputs(*states):
            return tuple(call(cell, layer.x, None, states, layer.weights, True))

        return list(func.vmap(outputs, -1)(*mapped))

    assert_equivalent(run(recurrence), run(reference.layer))


def test_vmap_over_steps_and_variable_lengths(cell):
    """Forms of input that do not join, or have no time."""
    step = Problem(cell, torch.float64, T=1, N=2).layer
    packed = Problem(cell, torch.float64, lengths=(3, 1)).layer
    padded = Problem(cell, torch.float64, lengths=(1, 3), padded=True).layer
    padded = padded._replace(x=padded.x.nan_to_num())
    step = step._replace(x=step.x[0], states=[state[0] for state in step.states])
    for layer in (step, packed, padded):

        def output(call, x, layer=layer):
            return func.grad(
                lambda x: call(cell, x, layer.sizes, layer.states, layer.weights)[0].square().sum()
            )(x)

        xs = torch.stack([layer.x, 2 * layer.x])
        assert_equivalent(
            [func.vmap(lambda x: output(recurrence, x))(xs)],
            [func.vmap(lambda x: output(reference.layer, x))(xs)],
        )


def test_ensemble():
    """torch.func's recipe: stacked parameters of several models, one input."""
    models = [rnnkern.GRU(3, 4, 2, bidirectional=True, dtype=torch.float64) for _ in range(3)]
    params, buffers = func.stack_module_state(models)
    x = torch.randn(5, 2, 3, dtype=torch.float64)

    def run(params, buffers):
        return func.functional_call(models[0], (params, buffers), (x,))[0]

    expected = torch.stack([model(x)[0] for model in models])
    assert_equivalent([func.vmap(run)(params, buffers)], [expected])


def test_gradients_of_each_sample_of_a_module():
    module = rnnkern.LSTM(3, 4, bidirectional=True, batch_first=True, dtype=torch.float64)
    params = {name: p.detach() for name, p in module.named_parameters()}
    xs = torch.randn(6, 5, 3, dtype=torch.float64)

    def loss(params, x):
        return func.functional_call(module, params, (x,))[0].square().sum()

    found = func.vmap(func.grad(loss), (None, 0))(params, xs)
    for index, x in enumerate(xs):
        expected = func.grad(loss)(params, x)
        assert_equivalent([g[index] for g in found.values()], list(expected.values()))


# torch.func.jvp uses it.
deprecated = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@deprecated
def test_jvp_and_jacfwd(cell):
    def transform(output, x, w):
        tangents = torch.ones_like(x), w.cos()
        return func.jvp(output, (x, w), tangents), func.jacfwd(output, (0, 1))(x, w)

    assert_equivalent(*both(cell, transform))


@deprecated
def test_hessian_and_its_products(cell):
    """Forward over reverse, and reverse over forward."""

    def transform(output, x, w):
        def loss(x):
            return output(x, w).square().sum()

        v = torch.ones_like(x)
        product = func.jvp(func.grad(loss), (x,), (v,))[1]
        other = func.grad(lambda x: func.jvp(loss, (x,), (v,))[1])(x)
        return func.hessian(loss)(x), product, other

    assert_equivalent(*both(cell, transform))


@deprecated
def test_forward_mode_of_lengths(cell):
    layer = Problem(cell, torch.float64, T=3, N=3, I=2, H=3, lengths=(1, 3, 0), padded=True).layer

    def run(call):
        def output(x):
            return call(cell, x, layer.sizes, layer.states, layer.weights)[0]

        x = layer.x.nan_to_num()
        return [*func.jvp(output, (x,), (x.cos(),)), func.jacfwd(output)(x)]

    assert_equivalent(run(recurrence), run(reference.layer))


WRONG = {
    "too-few-rows-of-hx": {"hx": torch.zeros(1, 1, 4)},
    "too-many-rows-of-hx": {"hx": torch.zeros(1, 5, 4)},
    "dtype-of-hx": {"hx": torch.zeros(1, 3, 4, dtype=torch.float64)},
    "too-long": {"lengths": [9, 9, 9]},
    "negative": {"lengths": [-1, 2, 3]},
    "too-few-lengths": {"lengths": [2]},
    "fractions": {"lengths": [2.5, 1.0, 1.0]},
}


@deprecated
@pytest.mark.parametrize("name", WRONG)
def test_forward_mode_checks_what_the_kernels_check(name):
    gru, x, wrong = rnnkern.GRU(3, 4), torch.randn(5, 3, 3), WRONG[name]
    with pytest.raises(RuntimeError) as eager:
        gru(x, **wrong)
    with pytest.raises(RuntimeError) as forward_mode:
        func.jvp(lambda x: gru(x, **wrong)[0], (x,), (x,))
    assert str(forward_mode.value)[:25] == str(eager.value)[:25]


def test_meta_tensors_are_checked():
    gru, x = rnnkern.GRU(3, 4, device="meta"), torch.randn(5, 3, 3, device="meta")
    for wrong in ({"hx": torch.zeros(1, 5, 4)}, {"lengths": torch.tensor([2, 1])}):
        with pytest.raises(RuntimeError, match=r"[Ee]xpected"):
            gru(x, **{name: value.to("meta") for name, value in wrong.items()})


def test_forward_ad(cell):
    output, x, w = make(cell, recurrence)
    tangent = x.cos()
    with forward_ad.dual_level():
        y, dy = forward_ad.unpack_dual(output(forward_ad.make_dual(x, tangent), w))
    expected = func.vjp(lambda x: output(x, w), x)[1]
    assert_equivalent([y], [output(x, w)])
    cotangent = torch.randn_like(dy)
    products = (dy * cotangent).sum(), (expected(cotangent)[0] * tangent).sum()
    assert_equivalent(products[:1], products[1:])


@pytest.mark.parametrize("vectorize", [False, True])
def test_jacobian_of_autograd(cell, vectorize):
    output, x, w = make(cell, recurrence)
    truth = make(cell, reference.layer)[0]
    found = torch.autograd.functional.jacobian(output, (x, w), vectorize=vectorize)
    assert_equivalent(found, torch.autograd.functional.jacobian(truth, (x, w)))


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
