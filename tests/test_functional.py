"""Claim: the functions take torch.lstm's and torch.gru's arguments and give their results."""

import pytest
import torch
from problems import Problem
from tolerances import assert_equivalent

from rnnkern import _C, functional

T, N, I, H = 4, 3, 5, 6
TWINS = [name for name in sorted(_C.cells()) if hasattr(torch, name)]
every_twin = pytest.mark.parametrize("name", TWINS)


def arguments(name, layers=1, D=1, bias=True, P=0):
    """Input, initial states and parameters in torch's form, in float64, requiring gradients."""

    def draw(*shape):
        return (torch.randn(*shape, dtype=torch.float64) / 2).requires_grad_()

    rows, R = _C.cells()[name]["gates"] * H, P or H
    params = []
    for layer in range(layers):
        for _ in range(D):
            params += [draw(rows, R * D if layer else I), draw(rows, R)]
            params += [draw(rows), draw(rows)] if bias else []
            params += [draw(P, H)] if P else []
    sizes = [R, H][: _C.cells()[name]["states"]]
    states = tuple(draw(layers * D, N, size) for size in sizes)
    return draw(T, N, I), states if len(states) > 1 else states[0], params


def grads_of(outputs, x, hx, params):
    wrt = [x, *(hx if isinstance(hx, tuple) else [hx]), *params]
    return [*outputs, *torch.autograd.grad(sum(out.square().sum() for out in outputs), wrt)]


def test_every_cell_has_its_functions(cell):
    assert callable(getattr(functional, cell))
    assert callable(getattr(functional, f"{cell}_cell"))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("layers", [1, 2, 3], ids=["L1", "L2", "L3"])
@every_twin
def test_matches_torch(name, layers, D, bias):
    """All arguments by position, as torch takes them."""
    x, hx, params = arguments(name, layers, D, bias)
    options = (bias, layers, 0.0, True, D == 2, False)
    theirs = grads_of(getattr(torch, name)(x, hx, params, *options), x, hx, params)
    ours = grads_of(getattr(functional, name)(x, hx, params, *options), x, hx, params)
    assert_equivalent(ours, theirs)


@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
def test_projection(D):
    """Of all cells torch has it for the LSTM only."""
    x, hx, params = arguments("lstm", 2, D, P=2)
    options = (True, 2, 0.0, True, D == 2, False)
    theirs = grads_of(torch.lstm(x, hx, params, *options), x, hx, params)
    ours = grads_of(functional.lstm(x, hx, params, *options), x, hx, params)
    assert_equivalent(ours, theirs)


@every_twin
def test_defaults(name):
    x, hx, params = arguments(name)
    theirs = getattr(torch, name)(x, hx, params, True, 1, 0.0, False, False, False)
    assert_equivalent(getattr(functional, name)(x, hx, params), theirs)


@every_twin
def test_batch_first(name):
    x, hx, params = arguments(name, 2)
    options = {"num_layers": 2, "batch_first": True}
    y, *final = getattr(functional, name)(x.transpose(0, 1), hx, params, **options)
    z, *others = getattr(functional, name)(x, hx, params, num_layers=2)
    assert_equivalent([y.transpose(0, 1), *final], [z, *others])


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@every_twin
def test_dropout(name, train):
    x, hx, params = arguments(name, 3, 2)
    options = (True, 3, 0.5, train, True, False)
    torch.manual_seed(1)
    theirs = getattr(torch, name)(x, hx, params, *options)
    torch.manual_seed(1)
    assert_equivalent(getattr(functional, name)(x, hx, params, *options), theirs)


@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@every_twin
def test_packed(name, D):
    x, hx, params = arguments(name, 2, D)
    sizes = torch.tensor([3, 3, 1])
    data = x.reshape(T * N, I)[:7]
    options = (True, 2, 0.0, False, D == 2)
    theirs = getattr(torch, name)(data, sizes, hx, params, *options)
    ours = getattr(functional, name)(data, hx, params, *options, batch_sizes=sizes)
    assert_equivalent(ours, theirs)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@every_twin
def test_cell(name, bias):
    x, hx, params = arguments(name, bias=bias)
    x, biases = x[0], params[2:] if bias else [None, None]
    state = tuple(s[0] for s in hx) if isinstance(hx, tuple) else hx[0]
    results = []
    for namespace in (functional, torch):
        out = getattr(namespace, f"{name}_cell")(x, state, *params[:2], *biases)
        out = out if isinstance(out, tuple) else (out,)
        results.append(grads_of(out, x, hx, params))
    assert_equivalent(*results)


@every_twin
def test_cell_without_bias_arguments(name):
    x, hx, params = arguments(name, bias=False)
    state = tuple(s[0] for s in hx) if isinstance(hx, tuple) else hx[0]
    ours = getattr(functional, f"{name}_cell")(x[0], state, *params)
    theirs = getattr(torch, f"{name}_cell")(x[0], state, *params)
    assert_equivalent(*(out if isinstance(out, tuple) else (out,) for out in (ours, theirs)))


@every_twin
def test_tied_parameters(name):
    """The same tensor as two layers' weights collects both gradients."""
    x, hx, params = arguments(name, 2)
    params[5:8] = params[1:4]
    unique = params[:5]
    results = []
    for function in (getattr(functional, name), getattr(torch, name)):
        out = function(x, hx, params, True, 2, 0.0, True, False, False)
        results.append(grads_of(out, x, hx, unique))
    assert_equivalent(*results)


@pytest.mark.parametrize("wrong", ["missing", "extra"])
def test_number_of_parameters(cell, wrong):
    x, hx, params = arguments(cell)
    params = params[:-1] if wrong == "missing" else [*params, params[-1], params[-1]]
    with pytest.raises((ValueError, RuntimeError), match=r"param"):
        getattr(functional, cell)(x, hx, params)


@pytest.mark.parametrize("index", range(8))
@every_twin
def test_parameter_of_wrong_shape(name, index):
    """Called by the name it has in the module."""
    x, hx, params = arguments(name, 2)
    kind = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[index % 4]
    params[index] = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises((ValueError, RuntimeError), match=rf"{kind}_l{index // 4}\b.*\[1, 1\]"):
        getattr(functional, name)(x, hx, params, num_layers=2)


@pytest.mark.parametrize("index", [0, 1], ids=["first", "last"])
@every_twin
def test_states_of_wrong_shape(name, index):
    x, hx, params = arguments(name, 2)
    states = list(hx) if isinstance(hx, tuple) else [hx]
    place = -index
    states[place] = states[place][:1]
    with pytest.raises((ValueError, RuntimeError), match=r"hx.*\[1, 3, 6\]"):
        getattr(functional, name)(
            x, tuple(states) if len(states) > 1 else states[0], params, num_layers=2
        )


def test_single_state_where_two_are_needed():
    for name, traits in _C.cells().items():
        x, hx, params = arguments(name)
        if traits["states"] == 2:
            with pytest.raises(TypeError, match="hx"):
                getattr(functional, name)(x, hx[0], params)
            with pytest.raises(RuntimeError, match="two hidden states"):
                getattr(functional, name)(x, (*hx, hx[0]), params)


def test_results_do_not_require_grad_without_reason(cell):
    layer = Problem(cell).layer
    params = [w for w in layer.weights if w is not None]
    hx = tuple(layer.states) if len(layer.states) > 1 else layer.states[0]
    assert not any(out.requires_grad for out in getattr(functional, cell)(layer.x, hx, params))
    with torch.no_grad():
        outputs = getattr(functional, cell)(layer.x.requires_grad_(), hx, params)
    assert not any(out.requires_grad for out in outputs)


@pytest.mark.parametrize("index", range(8))
def test_no_parameter_is_none(index):
    names, params = zip(*torch.nn.GRU(3, 4, num_layers=2).named_parameters(), strict=True)
    params = [None if place == index else param for place, param in enumerate(params)]
    with pytest.raises(ValueError, match=f"params: expected {names[index]}, got None"):
        functional.gru(torch.ones(2, 1, 3), torch.zeros(2, 1, 4), params, num_layers=2)
