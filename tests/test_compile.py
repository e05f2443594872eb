"""Claim: torch.compile, torch.export and torch.jit.trace take the layers whole, with gradients."""

import subprocess
import sys

import pytest
import torch
from pairs import CELLS, RNNS, leaves, pair, states
from problems import Problem
from tolerances import assert_equivalent
from torch.library import opcheck
from torch.nn.utils.rnn import pack_sequence

import rnnkern
from rnnkern import _C

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # torch's own, of what it imports and traces with
    pytest.mark.own_device,  # test_cuda.py has a GPU's
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(module, *inputs, **options):
    """Results, and the gradients of parameters."""
    results = leaves(module(*inputs, **options))
    loss = sum(t.square().sum() for t in results)
    return [*results, *torch.autograd.grad(loss, list(module.parameters()))]


def compiled(module, backend="aot_eager", **options):
    return torch.compile(module, fullgraph=True, backend=backend, **options)


# ---- operators -----------------------------------------------------------------------------------

FORMS = {
    "padded": {},
    "step": {"T": 1},
    "packed": {"lengths": (4, 2, 1)},
    "lengths": {"lengths": (2, 0, 5), "padded": True},
}


def arguments(cell, form):
    """What the operators share."""
    layer = Problem(cell, torch.float32, H=4, D=2, **FORMS[form]).layer
    weights = [w for w in layer.weights if w is not None]
    places = [place for place, w in enumerate(layer.weights) if w is not None]
    x = layer.x.nan_to_num()  # a NaN is not equal to itself
    return cell, x, layer.sizes, layer.states, weights, places


@pytest.mark.parametrize("all_states", [False, True], ids=["", "all-states"])
@pytest.mark.parametrize("form", FORMS)
def test_opcheck(cell, form, all_states):
    """The operators as torch wants them: nothing aliased or mutated, and right for fake tensors."""
    call = (*arguments(cell, form), all_states)
    opcheck(torch.ops.rnnkern.layer, call)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if form != "lengths":  # the residuals of padding have no values that could be compared
        checks.append("test_aot_dispatch_dynamic")
    opcheck(torch.ops.rnnkern.layer_forward, call, test_utils=checks)
    for weight in call[4]:
        weight.requires_grad_()
    opcheck(torch.ops.rnnkern.layer, call)


@pytest.mark.parametrize("form", FORMS)
def test_opcheck_of_backward(cell, form):
    call = arguments(cell, form)
    x, given = call[1], call[3]
    y, *rest = torch.ops.rnnkern.layer_forward(*call, False)
    finals, residuals = rest[: len(given)], rest[len(given) :]
    dstates = [x.new_ones(*x.shape[:-1], 2 * 4) for _ in given[1:]]
    for wanted in (
        [True] * (1 + len(given) + 10),
        [True, *[False] * len(given), *[True, False] * 5],
    ):
        gradients = (y, residuals, y, finals, dstates, wanted)
        opcheck(torch.ops.rnnkern.layer_backward, (*call, *gradients))


def test_meta_tensors_have_shapes():
    lstm = rnnkern.LSTM(3, 4, 2, bidirectional=True, proj_size=2, device="meta")
    y, (h, c), cells = lstm(torch.ones(5, 2, 3, device="meta"), return_cell_states=True)
    found = [tuple(t.shape) for t in (y, h, c, cells)]
    assert found == [(5, 2, 4), (4, 2, 2), (4, 2, 4), (5, 2, 8)]
    assert y.is_meta


# ---- torch.compile -------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", RNNS)
def test_module(name, options):
    module = pair(name, 3, 4, **options)[1]
    x, hx = torch.randn(5, 5, 3, dtype=torch.float64), states(module, 5)
    assert_equivalent(trained(compiled(module), x, hx), trained(module, x, hx))
    with torch.no_grad():
        assert_equivalent(leaves(compiled(module)(x)), leaves(module(x)))


@pytest.mark.parametrize("name", CELLS)
def test_cell(name):
    module = pair(name, 3, 4)[1]
    x = torch.randn(5, 3, dtype=torch.float64)
    assert_equivalent(trained(compiled(module), x), trained(module, x))


@pytest.mark.parametrize("name", RNNS)
def test_variable_lengths(name):
    module = pair(name, 3, 4)[1]
    packed = pack_sequence(
        [torch.randn(n, 3, dtype=torch.float64) for n in (2, 4)], enforce_sorted=False
    )
    assert_equivalent(trained(compiled(module), packed), trained(module, packed))
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    for lengths in ([2, 5, 0], [1, 1, 4]):
        option = {"lengths": torch.tensor(lengths)}
        assert_equivalent(trained(compiled(module), x, **option), trained(module, x, **option))


def test_cell_states():
    module = pair("LSTM", 3, 4, bidirectional=True)[1]
    x, option = torch.randn(5, 2, 3, dtype=torch.float64), {"return_cell_states": True}
    assert_equivalent(trained(compiled(module), x, **option), trained(module, x, **option))


def test_autocast():
    module, x = rnnkern.LSTM(3, 4), torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = module(x)[0], compiled(module)(x)[0]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_sizes_are_dynamic():
    """Other T and N: one more compilation at most."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    module = rnnkern.LSTM(3, 4, 2, bidirectional=True)
    model = torch.compile(module, fullgraph=True, backend=counter)
    for T, N in ((5, 2), (6, 3), (7, 3), (40, 9), (100, 2)):
        y = model(torch.randn(T, N, 3))[0]
        assert y.shape == (T, N, 8)
        y.sum().backward()
    assert counter.frame_count <= 2


def test_the_default_compiler():
    """Inductor, with something to fuse around the layer."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnnkern.GRU(4, 8, 2, bidirectional=True)
            self.head = torch.nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.rnn(x.sin())[0].relu())

    model = Model().double()
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    found = trained(compiled(model, backend="inductor"), x)
    assert_equivalent(found, trained(model, x))


def test_bad_input_under_compile():
    model = compiled(rnnkern.GRU(3, 4))
    with pytest.raises(Exception, match="must be equal to input_size"):
        model(torch.randn(5, 2, 7))


# ---- graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", RNNS)
def test_export(name, strict):
    module = pair(name, 3, 4, num_layers=2, bidirectional=True)[1]
    time, batch = torch.export.Dim("time", min=2, max=500), torch.export.Dim("batch", min=2, max=99)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    program = torch.export.export(
        module, (x,), dynamic_shapes=({0: time, 1: batch},), strict=strict
    )
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.rnnkern.layer.default) == 2
    longer = torch.randn(9, 7, 3, dtype=torch.float64)
    assert_equivalent(leaves(program.module()(longer)), leaves(module(longer)))
    assert_equivalent(trained(program.module(), longer), trained(module, longer))


def test_exported_program_is_saved_and_loaded(tmp_path):
    module, x = pair("LSTM", 3, 4)[1], torch.randn(5, 2, 3, dtype=torch.float64)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert_equivalent(leaves(loaded(x)), leaves(module(x)))


LOAD = """
import sys, torch, rnnkern
x, *expected = torch.load(sys.argv[2])
found = torch._inductor.aoti_load_package(sys.argv[1])(x)
from torch.utils._pytree import tree_leaves
torch.testing.assert_close(tree_leaves(found), expected)
"""


def test_aot_inductor(tmp_path):
    """A package that another process loads and runs."""
    model = rnnkern.LSTM(3, 4, 2, bidirectional=True).eval()
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "model.pt2")
        )
        torch.save([x, *leaves(model(x))], tmp_path / "expected.pt")
    subprocess.run([sys.executable, "-c", LOAD, path, tmp_path / "expected.pt"], check=True)


@pytest.mark.parametrize("name", RNNS)
def test_trace(name, tmp_path):
    module = pair(name, 3, 4, num_layers=2, bidirectional=True)[1]
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    traced = torch.jit.trace(module, x)
    assert "rnnkern::layer" in str(traced.inlined_graph)
    traced.save(tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    longer = torch.randn(7, 3, 3, dtype=torch.float64)
    assert_equivalent(leaves(loaded(longer)), leaves(module(longer)))
    assert_equivalent(trained(loaded, longer), trained(module, longer))


def test_make_fx():
    """A graph made of what runs, without torch.compile."""
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = Problem("gru", torch.float64).layer

    def run(x):
        return _C.recurrence("gru", x, None, layer.states, layer.weights)[0]

    graph = make_fx(run)(layer.x)
    assert "rnnkern.layer" in graph.code
    other = torch.randn_like(layer.x)
    assert_equivalent([graph(other)], [run(other)])
