"""Claim: `rnnkern.onnx.export` gives ONNX's own operators, one a layer, that compute what we do."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from pairs import CELLS, RNNS, leaves, pair
from tolerances import assert_equivalent
from torch import nn

import rnnkern
from rnnkern import functional

REASON = "needs requirements-onnx.txt"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)
onnx_ir = pytest.importorskip("onnx_ir", reason=REASON)

from rnnkern.onnx import TRANSLATIONS, export, layer  # noqa: E402

# torch's own, of what it imports and traces with.
pytestmark = pytest.mark.filterwarnings("ignore")

I, H = 3, 5
DEEP = {"num_layers": 2, "bidirectional": True}
SEQUENCES = ({0: "time", 1: "batch"},)


def exported(model, *inputs, shapes=SEQUENCES):
    program = export(model.eval(), inputs, dynamic_shapes=shapes, verbose=False)
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program


def run(program, *inputs):
    """The results of ONNX Runtime on a CPU."""
    proto = program.model_proto
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {each.name: x.numpy() for each, x in zip(proto.graph.input, inputs, strict=True)}
    return [torch.from_numpy(result) for result in session.run(None, feed)]


def recurrent_nodes(program):
    return [n for n in program.model.graph.all_nodes() if n.op_type in {"LSTM", "GRU", "RNN"}]


# ---- results: a model with a case of each kind, as every export takes most of a second -----------


class Inputs(NamedTuple):
    x: torch.Tensor  # [T, N, I]
    lengths: torch.Tensor  # [N]
    h: torch.Tensor  # [4, N, H]
    c: torch.Tensor  # [4, N, H]


def states(module, inputs):
    rows = module.num_layers * (1 + module.bidirectional)
    h, c = inputs.h[:rows], inputs.c[:rows]
    return (h, c) if isinstance(module, rnnkern.LSTM) else h


def with_lengths(module, inputs):
    """The padding is NaN."""
    x, lengths, *_ = inputs
    padding = torch.arange(x.shape[0])[:, None, None] >= lengths[:, None]
    x = x.masked_fill(padding, torch.nan)
    return module(x, states(module, inputs), lengths=lengths)


def step(module, inputs):
    h, c = inputs.h[0], inputs.c[0]
    return module(inputs.x[0], (h, c) if isinstance(module, rnnkern.LSTMCell) else h)


def step_with_one_bias(cell, inputs):
    w_ih, w_hh, _, b_hh = cell.parameters()
    return functional.gru_cell(inputs.x[0], inputs.h[0], w_ih, w_hh, None, b_hh)


def with_computed_weights(module, inputs):
    params = [param * inputs.c[0, 0, 0] for param in module.parameters()]
    return functional.lstm(inputs.x, (inputs.h[:1], inputs.c[:1]), params)


NETWORK_CALLS = {
    "plain": ({}, lambda module, inputs: module(inputs.x)),
    "no-bias": ({"bias": False, "bidirectional": True}, lambda module, inputs: module(inputs.x)),
    "states": (
        {"bidirectional": True},
        lambda module, inputs: module(inputs.x, states(module, inputs)),
    ),
    "lengths": ({}, with_lengths),
    "deep-lengths": (DEEP, with_lengths),
    "batch-first": (
        {"batch_first": True, "num_layers": 2},
        lambda module, inputs: module(inputs.x.transpose(0, 1), lengths=inputs.lengths),
    ),
    "unbatched": ({}, lambda module, inputs: module(inputs.x[:, 0])),
}
CELL_CALLS = {
    "plain": ({}, lambda module, inputs: module(inputs.x[0])),
    "no-bias": ({"bias": False}, lambda module, inputs: module(inputs.x[0])),
    "states": ({}, step),
    "unbatched": ({}, lambda module, inputs: module(inputs.x[0, 0])),
}
NETWORKS = {name: partial(getattr(rnnkern, name), I, H) for name in RNNS}
STEPS = {name: partial(getattr(rnnkern, name), I, H) for name in CELLS}

CASES = {
    f"{name}-{case}": (partial(kind, **options), call)
    for kinds, calls in ((NETWORKS, NETWORK_CALLS), (STEPS, CELL_CALLS))
    for name, kind in kinds.items()
    for case, (options, call) in calls.items()
}
CASES["relu"] = partial(NETWORKS["RNN"], nonlinearity="relu", **DEEP), with_lengths
CASES["relu-cell"] = partial(STEPS["RNNCell"], nonlinearity="relu"), step
CASES["fixed-lengths"] = NETWORKS["GRU"], lambda rnn, inputs: rnn(inputs.x[:, :1], lengths=[1])
CASES["one-bias"] = STEPS["GRUCell"], step_with_one_bias
CASES["computed-weights"] = NETWORKS["LSTM"], with_computed_weights

SIZES = {
    "as-exported": (6, (6, 1, 0, 4)),
    "longer": (40, tuple(i * 7 % 41 for i in range(17))),
    "shorter": (3, (0, 0)),
    "one": (1, (1,)),
}


class Collection(nn.Module):
    """Every case, called with the same inputs."""

    def __init__(self):
        super().__init__()
        self.rnns = nn.ModuleDict({name: make() for name, (make, _) in CASES.items()})

    def forward(self, *inputs):
        calls = ((call, self.rnns[name]) for name, (_, call) in CASES.items())
        return [leaves(call(module, Inputs(*inputs))) for call, module in calls]


def inputs_of(T, lengths):
    N = len(lengths)
    x, h, c = torch.randn(T, N, I), torch.randn(4, N, H), torch.randn(4, N, H)
    return Inputs(x, torch.tensor(lengths), h, c)


@pytest.fixture(scope="module")
def collection():
    torch.manual_seed(0)
    model = Collection().eval().requires_grad_(False)
    shapes = ({0: "time", 1: "batch"}, {0: "batch"}, {1: "batch"}, {1: "batch"})
    return model, exported(model, *inputs_of(*SIZES["as-exported"]), shapes=(shapes,))


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES.keys())
def results(collection, request):
    """(ONNX Runtime's, ours) of every case."""
    model, program = collection
    torch.manual_seed(1)
    inputs = inputs_of(*request.param)
    ours = model(*inputs)
    found = iter(run(program, *inputs))
    pairs = [([next(found) for _ in tensors], tensors) for tensors in ours]
    return dict(zip(CASES, pairs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_results(results, case):
    torch.testing.assert_close(*results[case])


def test_a_layer_is_one_node(collection):
    model, program = collection
    layers = sum(getattr(module, "num_layers", 1) for module in model.rnns.values())
    assert len(recurrent_nodes(program)) == layers
    assert all(node.domain == "" for node in program.model.graph.all_nodes())


# ---- weights, types, models ----------------------------------------------------------------------


class Networks(nn.Module):
    """RNN, GRU and LSTM of the same input; what goes in and out of 16 bits is float32."""

    def __init__(self, dtype, hidden_size, **options):
        super().__init__()
        made = [pair(name, I, hidden_size, dtype=dtype, **options)[1] for name in RNNS]
        self.rnns, self.dtype = nn.ModuleList(made).requires_grad_(False), dtype
        self.outside = torch.promote_types(dtype, torch.float32)

    def forward(self, x):
        results = [leaves(rnn(x.to(self.dtype))) for rnn in self.rnns]
        return [result.to(self.outside) for result in leaves(results)]


class UsedTwice(Networks):
    """Returns the sum of a recurrent weight too."""

    def forward(self, x):
        return [*super().forward(x), self.rnns[-1].weight_hh_l0.sum()]


def test_weights_are_constants():
    """In ONNX's form and nothing beside them, also where torch does not fold."""
    model = UsedTwice(torch.float32, 520, bidirectional=True)
    program = exported(model, torch.randn(4, 2, I))
    nodes = recurrent_nodes(program)
    weights = [value for node in nodes for value in node.inputs[1:4]]
    assert all(value.is_initializer() for value in weights)
    initializers = program.model.graph.initializers
    floats = {value for value in initializers.values() if value.dtype.is_floating_point()}
    assert floats - set(weights) == {initializers["rnns.2.weight_hh_l0"]}
    held = sum(value.const_value.size for value in weights)
    assert held == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_16_bits(dtype):
    model, x = Networks(dtype, H, **DEEP), torch.randn(6, 3, I)
    program = exported(model, x)
    one_rounding = {"atol": torch.finfo(dtype).eps, "rtol": 0}  # of values up to 1
    torch.testing.assert_close(run(program, x), model(x), **one_rounding)


def test_float64():
    """As ONNX has it; ONNX Runtime has no such kernels."""
    model, x = Networks(torch.float64, H), torch.randn(6, 3, I, dtype=torch.float64)
    program = exported(model, x)
    found = onnx.reference.ReferenceEvaluator(program.model_proto).run(None, {"x": x.numpy()})
    assert_equivalent([torch.from_numpy(result) for result in found], model(x))
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        run(program, x)


class Model(nn.Module):
    """Frames [N, T, 8] to classes [N, 4]."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(2000, 8))
        self.conv = nn.Conv1d(8, 6, 3, padding=1)
        self.rnns = nn.ModuleList(
            [rnnkern.LSTM(6, 5, batch_first=True, **DEEP), rnnkern.GRU(10, 7, batch_first=True)]
        )
        self.norm = nn.LayerNorm(10)
        self.step = rnnkern.RNNCell(7, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, x, lengths):
        x = x + (2 * self.table).sum(0)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2).relu()
        y = self.norm(self.rnns[0](x, lengths=lengths)[0])
        _, h = self.rnns[1](y, lengths=lengths)
        return self.head(self.step(h[0], h[0]))


def test_inside_a_model(tmp_path):
    model = Model().eval().requires_grad_(False)
    inputs = torch.randn(3, 9, 8), torch.tensor([9, 0, 4])
    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    program = torch.export.export(
        model, inputs, dynamic_shapes=({0: batch, 1: time}, {0: batch}), strict=True
    )
    onnx_program = export(program, verbose=False)
    assert "table" in onnx_program.model.graph.initializers  # only weights are computed ahead
    onnx_program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = torch.randn(5, 12, 8), torch.tensor([3, 12, 7, 1, 11])
    (found,) = session.run(None, {"x": inputs[0].numpy(), "lengths": inputs[1].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(*inputs))


def test_translations_alone():
    """For those who call torch.onnx.export themselves: the gates are put in order later."""
    model, x = rnnkern.GRU(I, 64).eval().requires_grad_(False), torch.randn(4, 2, I)
    program = torch.onnx.export(
        model, (x,), dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False
    )
    torch.testing.assert_close(run(program, x), leaves(model(x)))


# ---- what ONNX has not ---------------------------------------------------------------------------


def test_a_projection_is_refused():
    """With this text, not torch's advice to report it."""
    with pytest.raises(NotImplementedError, match=r"^ONNX's LSTM has no projection"):
        export(rnnkern.LSTM(I, H, proj_size=2), (torch.randn(4, 2, I),), verbose=False)


REFUSED = {
    "packed": (("gru", [8, I], "sizes", False), "packed sequences: .* padded input and lengths"),
    "cell-states": (("lstm", [4, 2, I], None, True), "cell state of every step"),
    "cell": (("leaky", [4, 2, I], None, False), "ONNX has no leaky, only lstm, gru"),
}


@pytest.mark.parametrize(("given", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_onnx_has_not(given, text):
    cell, shape, sizes, all_states = given
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape(shape))
    with pytest.raises(NotImplementedError, match=text):
        layer(cell, x, sizes, [], [], [0, 1], all_states)


def test_other_failures_are_those_of_torch():
    def broken(*arguments):
        raise ValueError("a translation of the user's")

    table = {torch.ops.rnnkern.layer.default: broken}
    with pytest.raises(torch.onnx.OnnxExporterError, match="of the user's"):
        export(
            rnnkern.GRU(I, H),
            (torch.randn(4, 2, I),),
            custom_translation_table=table,
            verbose=False,
        )
