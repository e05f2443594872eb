"""Claim: chunks through a Stream are one long call."""

import threading

import pytest
import torch
from pairs import RNNS, leaves, states
from tolerances import assert_equivalent, assert_same_bits
from torch.fx.experimental.proxy_tensor import make_fx

import rnnkern
from rnnkern import _C, Stream

SIZES = [(1, 1, 1), (1, 5, 17), (3, 20, 64), (9, 33, 40)]  # N, I, H
CHUNKS = [1, 4, 2, 1, 7, 1, 25]


def build(name, I, H, dtype=torch.float32, **options):
    return getattr(rnnkern, name)(I, H, dtype=dtype, **options).requires_grad_(False)


@pytest.mark.cpu
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("isa", _C.backends())
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", RNNS)
def test_same_bits_as_one_call(name, size, dtype, isa, monkeypatch):
    monkeypatch.setenv("RNNKERN_ISA", isa)
    N, I, H = size
    module = build(name, I, H, dtype, num_layers=2)
    x = torch.randn(sum(CHUNKS), N, I).to(dtype)
    expected, final = module(x)
    stream = Stream(module, N)
    found = torch.cat([stream(chunk) for chunk in x.split(CHUNKS)])
    assert_same_bits([found, *leaves(stream.state)], [expected, *leaves(final)])


@pytest.mark.cpu
def test_same_bits_with_a_projection():
    module = build("LSTM", 20, 33, num_layers=2, proj_size=5)
    x = torch.randn(sum(CHUNKS), 2, 20)
    stream = Stream(module, 2)
    assert_same_bits([torch.cat([stream(chunk) for chunk in x.split(CHUNKS)])], [module(x)[0]])


@pytest.mark.parametrize("options", [{"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("name", RNNS)
def test_against_the_module(name, options):
    module = build(name, 3, 4, torch.float64, num_layers=3, **options)
    time = 1 if module.batch_first else 0
    x = torch.randn(*((2, 10) if time else (10, 2)), 3, dtype=torch.float64)
    stream = Stream(module, 2)
    hx = states(module, 2)
    stream.state = hx
    expected, final = module(x, hx)
    found = torch.cat([stream(chunk) for chunk in x.split([1, 9], time)], time)
    assert_equivalent([found, *leaves(stream.state)], [expected, *leaves(final)])


def test_steps():
    """[N, I] is one step."""
    module = build("GRU", 3, 4, torch.float64)
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    stream = Stream(module, 2)
    assert_equivalent([torch.stack([stream(step) for step in x])], [module(x)[0]])


@pytest.mark.parametrize("name", RNNS)
def test_reset_and_refresh(name):
    module = build(name, 3, 4, torch.float64, num_layers=2)
    x = torch.randn(9, 1, 3, dtype=torch.float64)
    stream = Stream(module)
    first, state = stream(x), stream.state
    for weight in module.parameters():
        weight.mul_(0.5)
    stream.reset()
    assert_same_bits([stream(x)], [first])  # the weights are those from before
    stream.refresh()
    assert_same_bits(leaves(stream.state), leaves(state))
    assert_equivalent([stream(x)], [module(x, state)[0]])


def test_weights_of_torch_are_taken_after_conversion():
    theirs = torch.nn.LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(9, 1, 3, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"module: expected an rnnkern.RNN.*got torch.*LSTM: use rnnkern.from_torch"
    ):
        Stream(theirs)
    assert_equivalent([Stream(rnnkern.from_torch(theirs))(x)], [theirs(x)[0]])


def test_the_state_is_a_copy_both_ways():
    stream = Stream(rnnkern.GRU(3, 4))
    given = torch.ones(1, 1, 4)
    stream.state = given
    given.zero_()
    stream.state.zero_()
    assert torch.equal(stream.state, torch.ones(1, 1, 4))


@pytest.mark.cpu
@pytest.mark.parametrize("isa", _C.backends())
@pytest.mark.parametrize(("T", "N"), [(25, 1), (13, 2), (7, 4), (4, 7), (1, 25)])
def test_same_bits_as_soon_as_promised(T, N, isa, monkeypatch):
    monkeypatch.setenv("RNNKERN_ISA", isa)
    module = build("LSTM", 19, 40)
    x = torch.randn(T, N, 19)
    stream = Stream(module, N)
    assert_same_bits([torch.cat([stream(step[None]) for step in x])], [module(x)[0]])


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_nothing_changes_in_between(dtype, monkeypatch):
    """Another instruction set for other calls, weights read again."""
    module = build("GRU", 8, 16, dtype)
    x = torch.randn(40, 1, 8).to(dtype)
    expected, stream, found = module(x)[0], Stream(module), []
    for step in x:
        monkeypatch.setenv("RNNKERN_ISA", _C.backends()[len(found) % len(_C.backends())])
        found.append(stream(step))
        monkeypatch.delenv("RNNKERN_ISA")
        stream.refresh()
    assert_same_bits([torch.stack(found)], [expected])


def test_threads_take_turns():
    module = build("LSTM", 30, 64)
    stream, x = Stream(module), torch.randn(3, 1, 30)

    def run():
        for _ in range(300):
            stream(x)
            _ = stream.state

    workers = [threading.Thread(target=run) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same_bits([stream(x)], [module(x.repeat(901, 1, 1))[0][-3:]])


def test_results_are_not_in_a_graph():
    stream = Stream(rnnkern.GRU(3, 4))
    assert not stream(torch.randn(2, 1, 3, requires_grad=True)).requires_grad
    assert not stream.state.requires_grad


def test_what_is_refused():
    with pytest.raises(ValueError, match="module: expected one direction"):
        Stream(rnnkern.GRU(3, 4, bidirectional=True))
    with pytest.raises(ValueError, match="batch_size: expected a positive number, got 0"):
        Stream(rnnkern.GRU(3, 4), 0)
    with pytest.raises(TypeError, match=r"batch_size: expected an integer, got 2\.5"):
        Stream(rnnkern.GRU(3, 4), 2.5)
    with pytest.raises(TypeError, match=r"got rnnkern\.modules\.GRUCell$"):
        Stream(rnnkern.GRUCell(3, 4))
    with pytest.raises(TypeError, match="takes the layer"):
        Stream(torch.nn.Sequential(rnnkern.GRU(3, 4)))

    class Doubled(rnnkern.GRU):
        def forward(self, input, hx=None):
            return super().forward(2 * input, hx)

    with pytest.raises(TypeError, match="a forward of its own"):
        Stream(Doubled(3, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_graphs_are_refused():
    """They would hold the allocation of the results, not the kernel."""
    stream, x = Stream(rnnkern.GRU(3, 4)), torch.randn(2, 1, 3)
    with pytest.raises(RuntimeError, match=r"torch.jit.trace does not see"):
        torch.jit.trace(lambda x: stream(x), x)
    with pytest.raises(RuntimeError, match=r"input: .*plain"):
        make_fx(stream)(x)
    with pytest.raises(RuntimeError, match=r"input: .*plain"):
        torch.func.vmap(stream)(x[None])


BAD = {
    "features": (torch.randn(5, 2, 4), r"input.size\(-1\) must be equal to input_size"),
    "batch": (torch.randn(5, 3, 3), r"expected batch_size 2, got 3"),
    "step": (torch.randn(3, 3), r"expected batch_size 2, got 3"),
    "dtype": (torch.randn(5, 2, 3).double(), r"input: expected dtype Float.*got Double"),
    "dims": (torch.randn(3), r"expected a chunk of 3 dimensions, or a step .*got 1"),
    "no-steps": (torch.randn(0, 2, 3), r"sequence length to be larger than 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_the_state(name):
    bad, text = BAD[name]
    stream = Stream(rnnkern.GRU(3, 4, 2), 2)
    stream(torch.randn(3, 2, 3))
    before = stream.state
    with pytest.raises(RuntimeError, match=text):
        stream(bad)
    assert torch.equal(stream.state, before)


def test_bad_state():
    stream = Stream(rnnkern.LSTM(3, 4), 2)
    with pytest.raises(
        ValueError, match=r"state: expected torch.float32 on cpu, got torch.float64"
    ):
        stream.state = tuple(state.double() for state in stream.state)
    with pytest.raises(ValueError, match=r"state: expected \[1, 2, 4\], got \[1, 3, 4\]"):
        stream.state = (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="state: expected 2"):
        stream.state = torch.zeros(1, 2, 4)
