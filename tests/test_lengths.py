"""Claim: padded input with `lengths=` gives what each sequence gives alone, in any order."""

import numpy as np
import pytest
import torch
from pairs import RNNS, pair, states
from problems import Problem, exact, ours, peer
from tolerances import (
    assert_all_accurate,
    assert_equivalent,
    assert_gradients_accurate,
    assert_same_bits,
)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnkern
from rnnkern import _C
from rnnkern.autograd import recurrence

LENGTHS = {
    "one": (3,),
    "full": (5, 5, 5),
    "unsorted": (2, 5, 1, 5, 3),
    "shorter-than-T-and-empty": (0, 3, 0, 4),
    "all-empty": (0, 0),
    "many": tuple(i * 7 % 6 for i in range(37)),
}


@pytest.fixture(params=LENGTHS.values(), ids=LENGTHS.keys())
def lengths(request):
    return request.param


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_layer(cell, dtype, lengths):
    """Outputs and gradients; the padding is NaN."""
    problem = Problem(cell, dtype, H=17, D=2, lengths=lengths, padded=True)
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
    assert_same_bits(ours(problem, training=True), ours(problem))
    assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend", "poisoned")
def test_projected_layer():
    lengths = LENGTHS["unsorted"]
    for cell, traits in _C.cells().items():
        if traits["projection"]:
            problem = Problem(cell, H=9, P=4, D=2, lengths=lengths, padded=True)
            assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
            assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend", "poisoned")
def test_double_backward(cell):
    layer = Problem(cell, torch.float64, T=3, I=2, H=2, lengths=(1, 3, 0), padded=True).layer
    padding = layer.x.isnan()

    def run(x, w_hh):
        return recurrence(
            cell, x, layer.sizes, layer.states, [layer.weights[0], w_hh, *layer.weights[2:]]
        )[0]

    x = torch.where(padding, 0, layer.x).requires_grad_()
    assert torch.autograd.gradgradcheck(run, (x, layer.weights[1].clone().requires_grad_()))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", RNNS)
def test_module_against_packing(name, batch_first):
    """torch.nn with pack_padded_sequence; two layers, two directions, given states."""
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    theirs, module = pair(name, 4, 5, **options)
    lengths = torch.tensor([2, 5, 1, 6, 5])
    x = torch.randn(*((5, 6) if batch_first else (6, 5)), 4, dtype=torch.float64)
    x.requires_grad_()
    hx = states(module, 5)

    packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    output, hidden = theirs(packed, hx)
    expected = [pad_packed_sequence(output, batch_first)[0], *tuple_of(hidden)]
    output, hidden = module(x, hx, lengths=lengths)
    found = [output, *tuple_of(hidden)]
    assert_equivalent(found, expected)
    gradients = [
        torch.autograd.grad(sum(t.square().sum() for t in results), [x, *one.parameters()])
        for results, one in ((found, module), (expected, theirs))
    ]
    assert_equivalent(*gradients)


def tuple_of(hidden):
    return hidden if isinstance(hidden, tuple) else (hidden,)


@pytest.mark.parametrize("name", RNNS)
def test_forms_of_lengths(name):
    module = getattr(rnnkern, name)(3, 4)
    x = torch.randn(5, 3, 3)
    expected = module(x, lengths=torch.tensor([4, 0, 5]))[0]
    for lengths in ([4, 0, 5], torch.tensor([4, 0, 5], dtype=torch.int32)):
        assert_same_bits([module(x, lengths=lengths)[0]], [expected])
    full = module(x, lengths=[5, 5, 5])[0]
    assert_same_bits([full], [module(x)[0]])


@pytest.mark.parametrize("name", RNNS)
def test_lengths_may_change_after_the_call(name):
    module = getattr(rnnkern, name)(3, 4)
    x = torch.randn(50, 3, 3)
    found = []
    for lengths in (np.array([2, 30, 3]), torch.tensor([2, 30, 3]), [2, 30, 3]):
        y = module(x, lengths=lengths)[0]
        lengths[0] = 50
        found.append(torch.autograd.grad(y.sum(), list(module.parameters())))
    assert_same_bits(found[0], found[2])
    assert_same_bits(found[1], found[2])


def test_no_sequences_at_all():
    assert rnnkern.GRU(3, 4)(torch.randn(5, 0, 3), lengths=[])[0].shape == (5, 0, 4)


@pytest.mark.parametrize("lengths", [None, [2, 0, 5]], ids=["all", "lengths"])
def test_cell_states_may_be_changed_in_place(lengths):
    """They are no views, whose change autograd would forbid, and backward does not read them."""
    lstm, x = rnnkern.LSTM(3, 4, dtype=torch.float64), torch.randn(5, 3, 3, dtype=torch.float64)
    gradients = []
    for double in (lambda c: 2 * c, lambda c: c.mul_(2)):
        c = double(lstm(x, lengths=lengths, return_cell_states=True)[2])
        gradients.append(torch.autograd.grad(c.square().sum(), list(lstm.parameters())[:2]))
    assert_same_bits(*gradients)


BAD = {
    "too-few": ([5, 5], r"lengths: expected a 1-D tensor of 3 integers.*got \[2\]"),
    "too-long": ([5, 6, 1], r"lengths: expected values from 0 to 5.*got 6 at 1"),
    "negative": ([5, -1, 1], r"lengths: expected values from 0 to 5.*got -1 at 1"),
    "fractions": ([5.0, 1.0, 1.0], r"lengths: expected .* integers.*[Ff]loat"),
    "2-D": ([[5, 1, 1]], r"lengths: expected a 1-D tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lengths(name):
    lengths, text = BAD[name]
    with pytest.raises(RuntimeError, match=text):
        rnnkern.GRU(3, 4)(torch.randn(5, 3, 3), lengths=torch.tensor(lengths))


def test_lengths_where_they_have_no_meaning():
    gru = rnnkern.GRU(3, 4)
    with pytest.raises(ValueError, match=r"lengths: .*unbatched"):
        gru(torch.randn(5, 3), lengths=[5])
    packed = pack_padded_sequence(torch.randn(5, 2, 3), [5, 2])
    with pytest.raises(ValueError, match="lengths: expected None"):
        gru(packed, lengths=[5, 2])
    params, data = [p.detach() for p in gru.parameters()], packed.data
    with pytest.raises(ValueError, match="lengths: expected None"):
        rnnkern.functional.gru(
            data, torch.zeros(1, 2, 4), params, batch_sizes=packed.batch_sizes, lengths=[5, 2]
        )
    with pytest.raises(RuntimeError, match="input must have 3 dimensions"):
        rnnkern.functional.gru(data, torch.zeros(1, 2, 4), params, lengths=[5, 2])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("name", RNNS)
def test_nested_input(name):
    """A jagged tensor in, a jagged tensor out."""
    module = pair(name, 4, 5, num_layers=2, bidirectional=True, batch_first=True)[1]
    sequences = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (2, 5, 1, 3)]
    nested = torch.nested.as_nested_tensor(sequences, layout=torch.jagged)
    output, hidden = module(nested)
    assert output.is_nested
    assert output.shape[:2] == nested.shape[:2]  # the same ragged size: they can be added
    wrt = [*sequences, *module.parameters()]
    found = [*output.unbind(), *tuple_of(hidden)]
    gradients = torch.autograd.grad(sum(t.square().sum() for t in found), wrt)

    alone = [module(sequence) for sequence in sequences]
    finals = zip(*(tuple_of(last) for _, last in alone), strict=True)
    expected = [*(y for y, _ in alone), *(torch.stack(final, 1) for final in finals)]
    assert_equivalent(found, expected)
    expected_gradients = torch.autograd.grad(sum(t.square().sum() for t in expected), wrt)
    assert_equivalent(gradients, expected_gradients)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_nested_input_that_is_refused():
    jagged = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged)
    strided = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    with pytest.raises(ValueError, match="batch_first=False"):
        rnnkern.GRU(3, 4)(jagged)
    with pytest.raises(ValueError, match="strided"):
        rnnkern.GRU(3, 4, batch_first=True)(strided)
    with pytest.raises(ValueError, match="lengths: expected None"):
        rnnkern.GRU(3, 4, batch_first=True)(jagged, lengths=[2, 1])
