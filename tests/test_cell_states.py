"""Claim: `return_cell_states=True` gives the LSTM's c_t at every step, with gradients."""

import pytest
import torch
from pairs import pair, states
from problems import MANY_CHUNKS, Problem, exact, ours, peer
from tolerances import assert_all_accurate, assert_equivalent, assert_gradients_accurate
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnkern
from rnnkern import _C
from rnnkern.autograd import recurrence

FORMS = {
    "padded": {},
    "one-step": {"T": 1},
    "packed": {"lengths": (5, 3, 3, 1)},
    "lengths": {"lengths": (3, 0, 5, 1), "padded": True},
}


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_layer(cell, dtype, form):
    """The states behind h of any cell, and what their gradients give."""
    problem = Problem(cell, dtype, D=2, all_states=True, **form)
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
    assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", [MANY_CHUNKS, {"T": 300, "N": 3}], ids=["cpu", "emulated-gpu"])
def test_across_chunks(cell, size):
    """Several chunks of several steps: the smaller GPU has them at another size."""
    assert_gradients_accurate(Problem(cell, torch.float64, **size, all_states=True))


@pytest.mark.usefixtures("backend", "poisoned")
def test_projected_layer():
    for cell, traits in _C.cells().items():
        if traits["projection"]:
            problem = Problem(cell, torch.float64, P=3, D=2, all_states=True)
            assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
            assert_gradients_accurate(problem)


@pytest.mark.usefixtures("backend")
def test_gradients_by_autograd(cell):
    """Of one output alone, and twice."""
    layer = Problem(cell, torch.float64, T=3, N=2, I=2, H=2, D=2).layer
    weights = layer.weights

    def run(x, w_hh):
        return tuple(
            recurrence(cell, x, None, layer.states, [weights[0], w_hh, *weights[2:]], True)
        )

    inputs = layer.x.clone().requires_grad_(), weights[1].clone().requires_grad_()
    assert gradcheck(run, inputs)
    assert gradcheck(lambda *given: run(*given)[-1], inputs)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize("batch_first", [False, True])
def test_module_against_cells(batch_first):
    """torch.nn.LSTMCell in a loop above a first layer."""
    theirs, module = pair("LSTM", 3, 4, num_layers=2, batch_first=batch_first)
    x, hx = torch.randn(2, 2, 3, dtype=torch.float64), states(module, 2)
    output, (_, c_n), c = module(x, hx, return_cell_states=True)
    assert_equivalent([output], [theirs(x, hx)[0]])
    assert c.shape == output.shape

    first = torch.nn.LSTM(3, 4, batch_first=batch_first, dtype=torch.float64)
    first.load_state_dict({n: p for n, p in theirs.state_dict().items() if n.endswith("l0")})
    below = first(x, tuple(state[:1] for state in hx))[0]
    cell = torch.nn.LSTMCell(4, 4, dtype=torch.float64)
    cell.load_state_dict({n[:-3]: p for n, p in theirs.state_dict().items() if n.endswith("l1")})
    state, expected = tuple(state[1] for state in hx), []
    for step in below.unbind(1 if batch_first else 0):
        state = cell(step, state)
        expected.append(state[1])
    assert_equivalent([c, c_n[1]], [torch.stack(expected, int(batch_first)), expected[-1]])


def test_forms_of_input():
    """Unbatched, packed, nested and projected input have cell states of the output's form."""
    module = rnnkern.LSTM(3, 4, bidirectional=True, proj_size=2)
    output, _, c = module(torch.randn(5, 3), return_cell_states=True)
    assert (output.shape, c.shape) == ((5, 4), (5, 8))
    packed = pack_sequence([torch.randn(3, 3), torch.randn(1, 3)])
    output, _, c = module(packed, return_cell_states=True)
    assert isinstance(c, PackedSequence)
    assert torch.equal(c.batch_sizes, output.batch_sizes)
    assert c.data.shape == (4, 8)


def test_final_states_are_among_them():
    module = rnnkern.LSTM(3, 4, bidirectional=True)
    _, (_, c_n), c = module(torch.randn(5, 2, 3), lengths=[2, 5], return_cell_states=True)
    forwards, backwards = c.split(4, -1)
    assert torch.equal(
        c_n, torch.stack([torch.stack([forwards[1, 0], forwards[4, 1]]), backwards[0]])
    )
    assert not c[2:, 0].any()


def test_only_the_lstm_has_them():
    with pytest.raises(TypeError, match="return_cell_states"):
        rnnkern.GRU(3, 4)(torch.randn(2, 1, 3), return_cell_states=True)
