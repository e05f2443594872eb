"""Claim: rnnkern.compare says what is true of a user's model, and leaves it as it was."""

import copy
import random
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import rnnkern
from rnnkern import convert, functional, replay

WHOLE = "the whole model"
ALL = ["outputs", "input gradients", "weight gradients"]
TIMES = ["forward", "forward + backward"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Times are measured, but not well; threads would wait for each other."""
    torch.set_num_threads(1)
    module = sys.modules["rnnkern.compare"]
    monkeypatch.setattr(module, "_BUDGET", 0.0)
    monkeypatch.setattr(module, "_BLOCK", 1e-9)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, 8, 2, bidirectional=True, dropout=0.5)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(16, 3)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.out(self.drop(torch.cat([h[-1], h[-2]], dim=1)))


class Decoder(nn.Module):
    """A cell in a loop, which draws in all three ways whether it reads the input."""

    def __init__(self, steps=5):
        super().__init__()
        self.cell = nn.LSTMCell(6, 6)
        self.steps = steps

    def forward(self, *, x):
        h, c = x, torch.zeros_like(x)
        outputs = []
        for _ in range(self.steps):
            reads = random.random() + np.random.rand() + torch.rand(()).item() < 1.5
            h, c = self.cell(x if reads else h, (h, c))
            outputs.append(h)
        return {"outputs": outputs, "last": (c,)}


@dataclass
class Result:
    loss: torch.Tensor
    packed: PackedSequence
    name: str = "result"


class Normed(nn.Module):
    """Buffers, a module that is not called, a state, a counter."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.gru = nn.GRU(6, 7, batch_first=True)
        self.other = nn.RNN(3, 3)
        self.state = None
        self.calls = 0

    def forward(self, x, lengths):
        self.calls += 1
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        y, self.state = self.gru(packed, self.state)
        self.state = self.state.detach()
        return Result(y.data.square().mean(), y)


def classifier():
    return Classifier(), (torch.randint(9, (5, 4)), torch.tensor([2, 5, 1, 4])), {}


def decoder():
    return Decoder(), (), {"x": torch.randn(3, 6, requires_grad=True)}


def normed():
    return Normed(), (torch.randn(4, 5, 6), torch.tensor([5, 4, 4, 2])), {}


def sequential(dtype=torch.float32):
    model = nn.Sequential(nn.Linear(5, 6), nn.GRU(6, 8)).to(dtype)
    return model, (torch.randn(7, 2, 5, dtype=dtype),), {}


def compared(model, inputs, kwargs):
    return {row.name: row for row in rnnkern.compare(model, *inputs, **kwargs).rows}


def error(results, exact):
    return max((a.double() - b).abs().max().item() for a, b in zip(results, exact, strict=True))


@pytest.mark.parametrize(
    ("make", "kind", "calls"),
    [
        (
            classifier,
            "lstm: LSTM(6, 8, num_layers=2, dropout=0.5, bidirectional=True) without its dropout, "
            "packed float32 [12, 6]",
            1,
        ),
        (decoder, "cell: LSTMCell(6, 6), float32 [3, 6]", 5),
        (normed, "gru: GRU(6, 7, batch_first=True), packed float32 [15, 6]", 1),
        (sequential, "1: GRU(6, 8), float32 [7, 2, 6]", 1),
        (lambda: sequential(torch.bfloat16), "1: GRU(6, 8), bfloat16 [7, 2, 6]", 1),
        (lambda: sequential(torch.float64), "1: GRU(6, 8), float64 [7, 2, 6]", 1),
    ],
)
def test_every_layer_and_the_model_have_a_row(make, kind, calls, capsys):
    model, inputs, kwargs = make()
    result = rnnkern.compare(model, *inputs, **kwargs)
    assert capsys.readouterr().out == f"{result}\n"
    assert result.is_accurate
    row, *_, whole = result.rows
    assert f"{row.name}: {row.kind}".startswith(kind)
    assert row.calls == calls
    assert list(row.errors) == ALL
    assert list(row.milliseconds) == list(whole.milliseconds) == TIMES
    assert all(time > 0 for pair in row.milliseconds.values() for time in pair)
    assert f"instruction set: {rnnkern.backends()[0]}" in row.plan[0]
    assert whole.name == WHOLE
    assert list(whole.errors) == [what for what in ALL if what != "input gradients" or kwargs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_errors_are_those_against_float64(dtype):
    """With one layer and one call they can be had by hand."""
    theirs = nn.LSTM(5, 6, 2, bidirectional=True).to(dtype)
    x, hx = torch.randn(7, 3, 5).to(dtype), tuple(torch.randn(2, 4, 3, 6).to(dtype))
    dy = torch.randn(7, 3, 12, generator=torch.Generator().manual_seed(0)).to(dtype)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = theirs

        def forward(self, x, hx):
            return self.lstm(x, hx)[0]

    def results(layer, cast):
        inputs = [cast(t).requires_grad_() for t in (x, *hx)]
        y, (h, c) = layer(inputs[0], tuple(inputs[1:]))
        grads = torch.autograd.grad(y, [*inputs, *layer.parameters()], cast(dy))
        return [y, h, c], list(grads[:3]), list(grads[3:])

    exact = results(copy.deepcopy(theirs).double(), torch.Tensor.double)
    row, whole = compared(Model(), (x, hx), {}).values()
    rounded = [exact[0][0].to(dtype).double()]
    for index, layer in enumerate((theirs, rnnkern.from_torch(theirs))):
        found = results(layer, torch.clone)
        for what, mine, right in zip(ALL, found, exact, strict=True):
            assert row.errors[what][index] == error(mine, right) > 0
        assert whole.errors["outputs"][index] == error(found[0][:1], rounded)


def test_a_layer_alone_does_what_it_does_in_the_model():
    """The same arguments and the same gradients of its outputs."""
    model, inputs, kwargs = normed()
    task = replay.model_task(model, (inputs, kwargs), convert.replace_by_torch_)
    recording = replay.record(task.layers["gru"])
    _, gradients = task.step()
    names = [name for name, _ in model.named_parameters()]
    _, found = replay.layer_task(recording, recording.calls[0], nn.GRU).step()
    assert len(found) == 5  # of the input, and of the weights
    weights = dict(zip(names, gradients, strict=True))
    for name, gradient in zip(recording.weights, found[1:], strict=True):
        assert torch.equal(gradient, weights[f"gru.{name}"])


def spoil(monkeypatch, name, change=lambda outputs: outputs, before=lambda x: x):
    """Makes one of rnnkern's functions wrong: change gets its outputs, before gets its input."""
    original = getattr(functional, name)

    def wrong(x, *args, **kwargs):
        return change(original(before(x), *args, **kwargs))

    monkeypatch.setattr(functional, name, wrong)
    module = sys.modules["rnnkern.modules"]
    monkeypatch.setattr(module, "_NETWORKS", {**module._NETWORKS, name.upper(): wrong})


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(5, 6), nn.GRU(6, 7)

    def forward(self, x):
        return self.second(torch.relu(self.first(x + 1)[0]))[0]


@pytest.mark.parametrize("index", [0, 1], ids=["y", "h_n"])
def test_a_wrong_output_is_found_in_its_layer(index, monkeypatch):
    def change(outputs):
        return tuple(out * (1 + 1e-5 * (i == index)) for i, out in enumerate(outputs))

    spoil(monkeypatch, "lstm", change)
    rows = compared(TwoLayers(), (torch.randn(7, 3, 5),), {})
    assert not rows["first"].is_accurate
    assert "NOT ACCURATE" in str(rows["first"])
    assert rows["second"].is_accurate
    assert rows[WHOLE].is_accurate == (index == 1)  # which the model does not use


class Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient), None


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_a_wrong_gradient_is_found_in_its_layer(size, monkeypatch):
    def change(outputs):
        return tuple(Backward.apply(output, lambda g: g * (1 + 1e-5)) for output in outputs)

    class Scaled(TwoLayers):
        def forward(self, x):
            return size * super().forward(x)

    spoil(monkeypatch, "gru", change)
    rows = compared(Scaled(), (torch.randn(7, 3, 5),), {})
    assert [rows[name].is_accurate for name in ("first", "second", WHOLE)] == [True, False, False]


@pytest.mark.parametrize(("eps", "is_accurate"), [(2.5, True), (10.0, False)])
@pytest.mark.parametrize("where", ["outputs", "gradients"])
def test_what_is_small_beside_what_was_added_up_is_no_error(where, eps, is_accurate, monkeypatch):
    """Outputs and gradients are a hundredth here of gates and of the gradients of outputs."""
    off = eps * torch.finfo(torch.float32).eps
    if where == "outputs":
        spoil(monkeypatch, "gru", lambda outputs: (outputs[0] + off, outputs[1]))
    else:
        spoil(monkeypatch, "gru", before=lambda x: Backward.apply(x, lambda g: g + off))
    layer = nn.GRU(5, 6)
    with torch.no_grad():
        for weight in layer.parameters():
            weight *= 0.01
    (row,) = rnnkern.compare(layer, torch.randn(7, 3, 5)).rows
    assert row.is_accurate == is_accurate


def test_a_wrong_later_call_is_found(monkeypatch):
    calls = iter(range(1000))
    spoil(monkeypatch, "lstm_cell", lambda hc: (hc[0] + 1e-4 * (next(calls) % 3 == 2), hc[1]))
    assert not compared(*decoder())["cell"].is_accurate


def test_not_a_number_is_found(monkeypatch):
    spoil(monkeypatch, "lstm", lambda outputs: (outputs[0] * torch.nan, *outputs[1:]))
    assert not compared(TwoLayers(), (torch.randn(7, 3, 5),), {})["first"].is_accurate


def test_times_are_of_the_right_one(monkeypatch):
    modes = set()

    def slow(outputs):
        modes.add(torch.is_grad_enabled())
        time.sleep(0.05)
        return outputs

    spoil(monkeypatch, "gru", slow)
    rows = compared(TwoLayers(), (torch.randn(7, 3, 5),), {})
    for name in ("second", WHOLE):
        for pair in rows[name].milliseconds.values():
            assert pair.rnnkern >= 50 > pair.torch
    assert all(pair.rnnkern < 50 for pair in rows["first"].milliseconds.values())
    assert modes == {True, False}


def test_the_last_call_that_gradients_reach_is_timed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(5, 6)

        def forward(self, x):
            first, second, third = (self.gru(x[:T])[0] for T in (3, 4, 5))
            return first, second, third.detach()

    row = compared(Model(), (torch.randn(7, 3, 5),), {})["gru"]
    assert row.kind == "GRU(5, 6), float32 [4, 3, 5]"
    assert list(row.milliseconds) == TIMES


def test_copies_differ_from_the_model_in_what_they_must():
    model, inputs, kwargs = classifier()
    model.eval()
    layer = replay.model_task(model, (inputs, kwargs), convert.replace_rnn_).layers["lstm"]
    assert (layer.dropout, layer.training) == (0.0, True)  # cuDNN has no backward in eval mode
    assert (model.lstm.dropout, model.lstm.training) == (0.5, False)


def test_draws_are_near_each_other():
    model, inputs, kwargs = sequential()

    def outputs(draw):
        task = replay.model_task(model, (inputs, kwargs), convert.replace_rnn_, draw)
        recording = replay.record(task.layers["1"])
        return task.step()[0][0], recording

    _, recording = outputs(0)
    call = recording.calls[0]

    def alone(draw):
        return replay.layer_task(recording, call, rnnkern.GRU, draw=draw).step()[0][0]

    for results in ([outputs(draw)[0] for draw in (0, 1, 1, 2)], [*map(alone, (0, 1, 1, 2))]):
        assert torch.equal(results[1], results[2])
        for other in (results[0], results[3]):
            assert 1e-4 < (results[1] - other).abs().max() < 0.1


def test_several_draws_decide(monkeypatch):
    """What is off in one draw only is luck."""
    draws, results = [], iter(range(1000))
    original = replay.layer_task

    def counting(*args, draw=0, **options):
        draws.append(draw)
        return original(*args, draw=draw, **options)

    monkeypatch.setattr(replay, "layer_task", counting)
    assert compared(*sequential())["1"].is_accurate
    assert set(draws) == {0}
    spoil(monkeypatch, "gru", lambda outputs: (outputs[0] + (next(results) == 0), outputs[1]))
    row = compared(*sequential())["1"]
    assert row.is_accurate
    assert row.errors["outputs"].rnnkern > 0.5
    assert set(draws) == {0, 1, 2, 3, 4}


def snapshot(model):
    """Everything that a run could change."""
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "identities": [id(each) for each in (*model.parameters(), *model.modules())],
        "training": [module.training for module in model.modules()],
        "attributes": str([sorted(vars(module)) for module in model.modules()]),
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "draws": (torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())),
        "counter": (model.calls, model.state.clone()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [None, "theirs", "ours"])
def test_the_model_stays_as_it_was(training, fails):
    model, inputs, kwargs = normed()
    model(*inputs).loss.backward()
    model.norm.eval()
    model.gru.train(training)
    inputs[0].requires_grad_()

    def hook(module, args, output):
        random.random(), np.random.rand(), torch.rand(())
        if fails and isinstance(module, nn.GRU) == (fails == "theirs"):
            raise OSError("stop")

    model.gru.register_forward_hook(hook)
    before = snapshot(model)
    if fails:
        with pytest.raises(OSError, match="stop"):
            rnnkern.compare(model, *inputs, **kwargs)
    else:
        assert rnnkern.compare(model, *inputs, **kwargs).is_accurate
    assert inputs[0].grad is None
    for what, now in snapshot(model).items():
        assert same(now, before[what]), what


def test_frozen_layers_have_no_backward():
    model, inputs, kwargs = sequential()
    rows = compared(model.requires_grad_(False), inputs, kwargs)
    for row in rows.values():
        assert (list(row.errors), list(row.milliseconds)) == (ALL[:1], TIMES[:1])


def test_a_layer_that_is_not_called_says_so():
    rows = compared(*normed())
    assert (rows["other"].calls, rows["other"].errors) == (0, {})
    text = "other: RNN(3, 3), 0 calls\n  NOT COMPARED: the model did not call it"
    assert str(rows["other"]) == text
    assert not rows["other"].is_accurate


def test_nothing_compared_is_not_accurate():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x):
            return None

    assert not rnnkern.compare(Idle(), torch.randn(5, 2, 3)).is_accurate


@pytest.mark.parametrize("namespace", [nn, rnnkern])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_a_layer_is_a_model(kind, namespace):
    layer = getattr(namespace, kind)(5, 6)
    x = torch.randn(3, 5) if kind.endswith("Cell") else torch.randn(7, 3, 5)
    (row,) = rnnkern.compare(layer, x).rows
    assert (row.name, row.kind) == ("the model", f"{kind}(5, 6), float32 {list(x.shape)}")
    assert row.is_accurate
    assert list(row.errors) == ALL


def old_weight_norm(layer):
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(layer, "weight_hh_l0")


@pytest.mark.parametrize(
    "prepare",
    [lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0"), old_weight_norm],
    ids=["parametrized", "hook"],
)
def test_weights_may_be_computed(prepare):
    model, inputs, kwargs = sequential()
    prepare(model[1])
    rows = compared(model, inputs, kwargs)
    assert rows["1"].is_accurate
    assert rows[WHOLE].is_accurate


def test_a_layer_may_be_run_again_in_backward():
    class Checkpointed(TwoLayers):
        def forward(self, x):
            return checkpoint(self.second, self.first(x)[0], use_reentrant=False)[0]

    rows = compared(Checkpointed(), (torch.randn(7, 3, 5),), {})
    assert all(list(row.errors) == ALL for row in (rows["first"], rows["second"]))
    assert all(row.is_accurate for row in rows.values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_outside_it_has_them_inside(mode):
    model, inputs, kwargs = sequential()
    with mode():
        assert list(compared(model, inputs, kwargs)["1"].errors) == ALL


def test_a_compiler_is_left_out():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model, inputs, kwargs = sequential()
    model[0] = torch.compile(model[0], backend=backend)
    assert compared(model, inputs, kwargs)["1"].is_accurate
    assert compiled == []
    model(*inputs)
    assert compiled != []


def test_bad_input():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
        rnnkern.compare(3)
    with pytest.raises(ValueError, match=r"model: expected one with an RNN.*got Linear without"):
        rnnkern.compare(nn.Linear(3, 3), torch.randn(3))


@pytest.mark.own_device
@pytest.mark.skipif(
    not torch.cuda.is_available() or rnnkern.cuda_version is None,
    reason="no GPU here, or a build without CUDA",
)
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu(training):
    model, inputs, _ = sequential()
    row, whole = rnnkern.compare(model.cuda().train(training), inputs[0].cuda()).rows
    assert row.is_accurate
    assert whole.is_accurate
    assert "strategy: " in row.plan[0]
