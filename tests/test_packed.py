"""Claim: a PackedSequence gives what each of its sequences gives alone."""

import copy
import itertools

import pytest
import torch
from problems import Problem, exact, ours, peer
from tolerances import (
    assert_all_accurate,
    assert_equivalent,
    assert_gradients_accurate,
    assert_same_bits,
)
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)

import rnnkern
from rnnkern import _C

LENGTHS = {
    "one-step": (1,),
    "one-sequence": (6,),
    "equal": (4, 4, 4),
    "steps": (5, 4, 3, 2, 1),
    "long-and-short": (30, 1, 1, 1, 1, 1, 1, 1),
    "all-of-length-one": (1,) * 9,
    "many": tuple(sorted((1 + i * 7 % 13 for i in range(37)), reverse=True)),
}
UNSORTED = [(2, 5, 1, 5, 3), (1, 4), (3, 3, 3), (1, 2, 3, 4, 5, 6, 7, 8, 9)]
NAMES = ["RNN", "GRU", "LSTM"]
OPTIONS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]
PROJECTED = {"num_layers": 2, "bidirectional": True, "proj_size": 2}
MODULES = [*itertools.product(NAMES, OPTIONS), ("LSTM", PROJECTED)]


@pytest.fixture(params=LENGTHS.values(), ids=LENGTHS.keys())
def lengths(request):
    return request.param


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
def test_layer(cell, dtype, lengths, D):
    problem = Problem(cell, dtype, H=17, D=D, lengths=lengths)
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
    assert_same_bits(ours(problem, training=True), ours(problem))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
def test_layer_gradients(cell, dtype, lengths, D):
    problem = Problem(cell, dtype, H=17, D=D, lengths=lengths)
    assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend", "poisoned", "threads")
def test_wide_layer_with_few_rows_left(cell):
    """The number of rows falls below what was worth splitting over threads by rows."""
    problem = Problem(cell, H=130, I=20, D=2, lengths=(9, 9, 5, *(2,) * 20, 1))
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
    assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend", "poisoned")
def test_projected(lengths):
    for cell, traits in _C.cells().items():
        if traits["projection"]:
            problem = Problem(cell, H=9, P=4, D=2, lengths=lengths)
            assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)


@pytest.mark.usefixtures("backend")
def test_equal_lengths_are_a_padded_batch(cell):
    problem = Problem(cell, H=17, D=2, lengths=(5, 5, 5))
    packed = problem.layer
    padded = packed._replace(x=packed.x.view(5, 3, -1), sizes=None)
    y, *final = _C.forward(cell, *packed, False)
    z, *others = _C.forward(cell, *padded, False)
    assert_same_bits([y, *final], [z.view_as(y), *others])


def build(name, **options):
    """torch's module in float64 and ours with the same weights."""
    theirs = getattr(nn, name)(4, 5, dtype=torch.float64, **options)
    return theirs, rnnkern.from_torch(copy.deepcopy(theirs))


def states(name, module, N):
    D = 1 + module.bidirectional
    h = torch.randn(module.num_layers * D, N, module.proj_size or 5, dtype=torch.float64)
    c = torch.randn(module.num_layers * D, N, 5, dtype=torch.float64)
    return (h, c) if name == "LSTM" else h


def tensors(result):
    """Output and states of a module as a list, a PackedSequence by its data."""
    y, final = result
    y = y.data if isinstance(y, PackedSequence) else y
    return [y, *final] if isinstance(final, tuple) else [y, final]


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("lengths", UNSORTED, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_each_sequence_alone(name, lengths, options):
    """Forward and gradients, unsorted, with initial states: one by one against all packed."""
    _, module = build(name, **options)
    sequences = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in lengths]
    hx = states(name, module, len(lengths))
    wrt = [*sequences, *module.parameters()]

    packed = pack_sequence(sequences, enforce_sorted=False)
    y, final = module(packed, hx)
    padded, found_lengths = pad_packed_sequence(y)
    assert found_lengths.tolist() == list(lengths)
    together = [padded[:n, i] for i, n in enumerate(lengths)]
    final = torch.cat([final[0], final[1]] if isinstance(final, tuple) else [final], -1)
    grads = torch.autograd.grad(sum(t.square().sum() for t in [*together, final]), wrt)

    alone, finals = [], []
    for i, sequence in enumerate(sequences):
        h0 = tuple(s[:, i] for s in hx) if isinstance(hx, tuple) else hx[:, i]
        out, last = module(sequence, h0)
        alone.append(out)
        finals.append(torch.cat(last, -1) if isinstance(last, tuple) else last)
    finals = torch.stack(finals, 1)
    expected = torch.autograd.grad(sum(t.square().sum() for t in [*alone, finals]), wrt)

    assert_equivalent([*together, final, *grads], [*alone, finals, *expected])


@pytest.mark.parametrize("given", [False, True], ids=["zero-states", "given-states"])
@pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_module_against_torch(name, options, enforce_sorted, given):
    theirs, module = build(name, **options)
    lengths = torch.tensor([6, 5, 5, 2, 1] if enforce_sorted else [2, 5, 1, 6, 5])
    x = torch.randn(6, 5, 4, dtype=torch.float64, requires_grad=True)
    hx = states(name, module, 5) if given else None
    results, grads = [], []
    for one in (theirs, module):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
        result = one(packed, hx)
        loss = sum(t.square().sum() for t in tensors(result))
        results.append(result)
        grads.append(torch.autograd.grad(loss, [x, *one.parameters()]))
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        want, found = (getattr(result[0], field) for result in results)
        assert (want is None and found is None) or torch.equal(want, found)
    expected, found = ([*tensors(r), *g] for r, g in zip(results, grads, strict=True))
    assert_equivalent(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_follows_torch(name):
    theirs, module = build(name, num_layers=3, dropout=0.4)
    packed = pack_sequence([torch.randn(n, 4, dtype=torch.float64) for n in (5, 3, 1)])
    found = []
    for one in (theirs, module):
        torch.manual_seed(3)
        found.append(one(packed)[0].data)
    assert_equivalent(found[1:], found[:1])


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_packed_data(name):
    """A leaf PackedSequence: its data gets the gradient."""
    theirs, module = build(name)
    data = torch.randn(9, 4, dtype=torch.float64)
    grads = []
    for one in (theirs, module):
        leaf = data.clone().requires_grad_()
        one(PackedSequence(leaf, torch.tensor([4, 3, 2])))[0].data.sum().backward()
        grads.append(leaf.grad)
    assert_equivalent(grads[1:], grads[:1])
