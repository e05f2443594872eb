"""Claim: the gradient of every input, state and parameter is right, whatever is asked for."""

import itertools

import pytest
import torch
from problems import (
    MANY_CHUNKS,
    MANY_CHUNKS_LENGTHS,
    Problem,
    cotangents,
    exact_gradients,
    our_gradients,
    peer_gradients,
)
from tolerances import (
    assert_all_accurate,
    assert_equivalent,
    assert_gradients_accurate,
    assert_same_bits,
)
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from rnnkern import _C, reference
from rnnkern.autograd import recurrence

SIZES = [
    (1, 1, 1, 1),
    (1, 3, 4, 16),
    (1, 40, 19, 70),
    (7, 1, 5, 17),
    (2, 1, 33, 65),
    (3, 7, 9, 33),
    (2, 13, 6, 5),
    (3, 33, 17, 32),
    (6, 4, 1, 3),
]
BIG = [(3, 5, 200, 129), (2, 35, 70, 130), (200, 2, 3, 16), (2, 1, 5, 260)]
IDS = ["T{}-N{}-I{}-H{}".format(*size) for size in SIZES]
BIG_IDS = ["T{}-N{}-I{}-H{}".format(*size) for size in BIG]


def flatten(problem):
    """The inputs that are tensors, and a function of them for gradcheck."""
    layer = problem.layer
    inputs = layer.inputs()
    present = [i for i, t in enumerate(inputs) if t is not None]
    states = len(layer.states)

    def run(*tensors):
        full = [None] * len(inputs)
        for i, t in zip(present, tensors, strict=True):
            full[i] = t
        x, given, weights = full[0], full[1 : 1 + states], full[1 + states :]
        return tuple(recurrence(problem.cell, x, layer.sizes, given, weights))

    return run, [inputs[i].clone().requires_grad_() for i in present]


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_matches_reference(cell, dtype, size, D):
    assert_gradients_accurate(Problem(cell, dtype, *size, D=D))


@pytest.mark.usefixtures("backend", "poisoned", "threads")
@pytest.mark.parametrize("size", BIG, ids=BIG_IDS)
def test_matches_reference_at_larger_sizes(cell, size):
    assert_gradients_accurate(Problem(cell, torch.float32, *size, D=2))


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("lengths", [None, MANY_CHUNKS_LENGTHS], ids=["padded", "packed"])
def test_across_chunks(cell, D, lengths):
    projection = 9 if _C.cells()[cell]["projection"] and lengths else 0
    assert_gradients_accurate(
        Problem(cell, torch.float64, **MANY_CHUNKS, D=D, P=projection, lengths=lengths)
    )


@pytest.mark.usefixtures("backend")
def test_more_rows_than_a_grid_has(cell):
    """At a step, and in the sums over a chunk of steps."""
    problem = Problem(cell, torch.float64, T=1, N=70_000, I=1, H=1)
    assert_equivalent(our_gradients(problem), exact_gradients(problem))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("N", [1, 3, 33])
def test_without_biases(cell, dtype, N):
    assert_gradients_accurate(Problem(cell, dtype, N=N, H=17, D=2, bias=False))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("P", [1, 3, 16])
@pytest.mark.parametrize("N", [1, 3, 33])
def test_projection(dtype, N, P):
    for cell, traits in _C.cells().items():
        if traits["projection"]:
            assert_gradients_accurate(Problem(cell, dtype, N=N, H=33, P=P, D=2))
            assert_gradients_accurate(Problem(cell, dtype, T=1, N=N, H=17, P=P))


@pytest.mark.usefixtures("backend")
def test_empty_batch(cell, dtype):
    problem = Problem(cell, dtype, N=0)
    for mine, truth in zip(our_gradients(problem), exact_gradients(problem), strict=True):
        assert (mine is None) == (truth is None)
        assert mine is None or torch.equal(mine.double(), truth)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("N", [1, 9])
def test_only_what_is_wanted(cell, N):
    """Each gradient alone, all but each, and none."""
    problem = Problem(cell, torch.float64, N=N, H=9)
    names = problem.names
    alone = [[name == one for name in names] for one in names]
    without = [[name != one for name in names] for one in names]
    for wanted in [*alone, *without, [False] * len(names)]:
        found = our_gradients(problem, wanted)
        truth = [g if w else None for g, w in zip(exact_gradients(problem), wanted, strict=True)]
        assert_all_accurate(found, peer_gradients(problem), truth, names)


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("size", [SIZES[7], BIG[0]], ids=[IDS[7], BIG_IDS[0]])
def test_two_runs_give_the_same_bits(cell, dtype, size):
    problem = Problem(cell, dtype, *size)
    once, twice = our_gradients(problem), our_gradients(problem)
    assert_same_bits([g for g in once if g is not None], [g for g in twice if g is not None])


@pytest.mark.usefixtures("backend")
def test_strided_gradients_of_the_outputs(cell, dtype):
    problem = Problem(cell, dtype, N=5, H=7)
    layer = problem.layer
    y, *rest = _C.forward(cell, *layer, True)
    n = len(layer.states)
    wanted = [True] * len(layer.inputs())
    plain = cotangents(problem)
    gaps = [torch.stack([g, torch.full_like(g, torch.nan)], -1)[..., 0] for g in plain]
    once, twice = (
        _C.backward(cell, *layer, y, rest[n:], dy, dfinal, wanted) for dy, *dfinal in (plain, gaps)
    )
    assert_same_bits([g for g in once if g is not None], [g for g in twice if g is not None])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("T", [1, 3])
def test_gradients_share_no_memory(cell, T, D):
    problem = Problem(cell, T=T, D=D)
    layer, (dy, *dfinal) = problem.layer, cotangents(problem)
    y, *rest = _C.forward(cell, *layer, True)
    inputs = [*layer.inputs(), y, *rest, dy, *dfinal]
    wanted = [True] * len(layer.inputs())
    residuals = rest[len(layer.states) :]
    found = _C.backward(cell, *layer, y, residuals, dy, dfinal, wanted)
    tensors = [t for t in [*inputs, *found] if t is not None and t.numel()]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)


@pytest.mark.parametrize("size", [SIZES[3], SIZES[5]], ids=[IDS[3], IDS[5]])
def test_forward_and_backward_on_different_instruction_sets(cell, size, monkeypatch):
    """What is kept for backward means the same to all of them."""
    problem = Problem(cell, torch.float64, *size, D=2)
    layer, (dy, *dfinal) = problem.layer, cotangents(problem)
    wanted = [True] * len(layer.inputs())
    for one, other in itertools.permutations(_C.backends(), 2):
        monkeypatch.setenv("RNNKERN_ISA", one)
        y, *rest = _C.forward(cell, *layer, True)
        monkeypatch.setenv("RNNKERN_ISA", other)
        residuals = rest[len(layer.states) :]
        found = _C.backward(cell, *layer, y, residuals, dy, dfinal, wanted)
        assert_equivalent(found, exact_gradients(problem))


def test_some_outputs_unused(cell):
    """Gradients come in for any subset of y and the final states."""
    problem = Problem(cell, torch.float64, H=5, D=2)
    run, inputs = flatten(problem)
    outputs = run(*inputs)
    weights = cotangents(problem)
    every = range(len(outputs))
    subsets = itertools.chain(*(itertools.combinations(every, k + 1) for k in every))
    for subset in subsets:
        kept = [w if i in subset else torch.zeros_like(w) for i, w in enumerate(weights)]
        full = torch.autograd.grad(outputs, inputs, kept, retain_graph=True)
        part = torch.autograd.grad(
            [outputs[i] for i in subset], inputs, [weights[i] for i in subset], retain_graph=True
        )
        assert_equivalent(part, full)


def test_some_inputs_without_gradient(cell):
    """Only one input requires a gradient, and it gets the one it gets among all."""
    problem = Problem(cell, torch.float64, H=5, D=2)
    run, inputs = flatten(problem)
    full = torch.autograd.grad(run(*inputs), inputs, cotangents(problem))
    for i, expected in enumerate(full):
        only = [t.detach().requires_grad_(i == k) for k, t in enumerate(inputs)]
        (found,) = torch.autograd.grad(run(*only), only[i], cotangents(problem))
        assert_equivalent([found], [expected])


def test_same_tensor_as_two_weights(cell):
    """Tied parameters get the sum of their gradients."""
    problem = Problem(cell, torch.float64, I=6, H=6)
    run, inputs = flatten(problem)
    states = _C.cells()[cell]["states"]
    b_ih, b_hh = 1 + states + 2, 1 + states + 3
    tied = [*inputs]
    tied[b_hh] = tied[b_ih]
    apart = [t.detach().clone().requires_grad_() for t in tied]
    grads = torch.autograd.grad(run(*apart), apart, cotangents(problem))
    (together,) = torch.autograd.grad(run(*tied), tied[b_ih], cotangents(problem))
    assert_equivalent([together], [grads[b_ih] + grads[b_hh]])


def test_backward_twice(cell):
    run, inputs = flatten(Problem(cell, H=9))
    loss = sum(out.square().sum() for out in run(*inputs))
    once = torch.autograd.grad(loss, inputs, retain_graph=True)
    twice = torch.autograd.grad(loss, inputs)
    assert_same_bits(once, twice)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)


def test_change_in_place_before_backward_is_noticed(cell):
    run, inputs = flatten(Problem(cell))
    loss = run(*inputs)[0].sum()
    with torch.no_grad():
        inputs[-1].add_(1)
        inputs[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_all_that_is_saved_passes_the_saved_tensor_hooks(cell):
    """So activations can be offloaded: with NaN handed back, every gradient shows it."""
    run, inputs = flatten(Problem(cell, H=9))

    def grads(unpack):
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.clone, unpack):
            loss = sum(out.sum() for out in run(*inputs))
        return torch.autograd.grad(loss, inputs)

    kept = grads(lambda t: t)
    lost = grads(lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t)
    assert all(torch.isfinite(g).all() for g in kept)
    assert not any(torch.equal(a, b) for a, b in zip(kept, lost, strict=True))


def test_checkpoint(cell):
    run, inputs = flatten(Problem(cell, H=9))
    plain = torch.autograd.grad(run(*inputs)[0].sum(), inputs)
    again = checkpoint(run, *inputs, use_reentrant=False)
    assert_same_bits(torch.autograd.grad(again[0].sum(), inputs), plain)


TINY = {"T": 3, "N": 2, "I": 2, "H": 3}
FORMS = {
    "plain": {},
    "one-step": {"T": 1, "N": 1},
    "both-directions": {"D": 2},
    "without-biases": {"bias": False},
    "packed": {"lengths": (3, 2, 2)},
    "packed-both-directions": {"lengths": (3, 1), "D": 2},
    "projected": {"P": 2},
    "projected-packed-both-directions": {"lengths": (3, 2, 2), "D": 2, "P": 2},
}


def tiny_cases():
    for name, traits in _C.cells().items():
        for form, options in FORMS.items():
            if "P" not in options or traits["projection"]:
                yield pytest.param(
                    Problem(name, torch.float64, **{**TINY, **options}), id=f"{name}-{form}"
                )


@pytest.mark.parametrize("problem", [*tiny_cases()])
def test_gradcheck(problem):
    run, inputs = flatten(problem)
    assert gradcheck(run, inputs, check_batched_grad=False)


@pytest.mark.usefixtures("backend")
def test_gradcheck_on_each_instruction_set(cell):
    run, inputs = flatten(Problem(cell, torch.float64, **{**TINY, "N": 5, "H": 9}))
    assert gradcheck(run, inputs, check_batched_grad=False, fast_mode=True)


@pytest.mark.parametrize("problem", [*tiny_cases()])
def test_gradgradcheck(problem):
    run, inputs = flatten(problem)
    assert gradgradcheck(run, inputs, check_batched_grad=False)


def test_third_derivative(cell):
    """Backward of backward of backward: the same as the reference's, which autograd derives."""
    problem = Problem(cell, torch.float64, **TINY)
    layer = problem.layer

    def third(call):
        x = layer.x.clone().requires_grad_()
        value = call(cell, x, None, layer.states, layer.weights)[0].pow(3).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            value = grad.pow(2).sum()
        return grad.detach()

    assert_equivalent([third(recurrence)], [third(reference.layer)])
