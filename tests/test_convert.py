"""Claim: a model of torch.nn changes over to our modules and back, with all that hangs on it."""

import copy

import pytest
import torch
from pairs import CELLS, RNNS, leaves
from tolerances import assert_equivalent, assert_same_bits
from torch import nn
from torch.nn.utils import parametrizations, prune

import rnnkern

KINDS = [
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("GRU", {"bidirectional": True, "batch_first": True}),
    ("LSTM", {"num_layers": 2, "dropout": 0.5, "bias": False}),
    ("LSTM", {"proj_size": 2, "bidirectional": True}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("GRUCell", {"bias": False}),
    ("LSTMCell", {}),
]
every_kind = pytest.mark.parametrize(("name", "options"), KINDS, ids=str)


class Model(nn.Module):
    """Recurrent modules at several depths, one of them in two places, and others."""

    def __init__(self):
        super().__init__()
        double = {"dtype": torch.float64}
        self.embed = nn.Linear(3, 4, **double)
        self.encoder = nn.Sequential(
            nn.Dropout(0.0), nn.LSTM(4, 4, 2, bidirectional=True, **double)
        )
        self.layers = nn.ModuleList([nn.GRU(8, 8, **double), nn.RNN(8, 8, **double)])
        self.cells = nn.ModuleDict({"step": nn.LSTMCell(8, 8, **double)})
        self.again = self.layers[0]

    def forward(self, x):
        y, _ = self.encoder(self.embed(x))
        for layer in [*self.layers, self.again]:
            y, _ = layer(y)
        return self.cells["step"](y[-1])[0]


def build(name, options):
    return getattr(nn, name)(4, 3, dtype=torch.float64, **options)


def inputs():
    return torch.randn(5, 2, 3, dtype=torch.float64)


class TestReplace:
    def test_names_classes_and_parameters(self):
        model = Model()
        parameters, keys = list(model.parameters()), list(model.state_dict())
        names = rnnkern.replace_rnn_(model)
        assert names == ["encoder.1", "layers.0", "layers.1", "cells.step", "again"]
        classes = [type(model.get_submodule(name)) for name in names]
        assert classes == [rnnkern.LSTM, rnnkern.GRU, rnnkern.RNN, rnnkern.LSTMCell, rnnkern.GRU]
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        assert list(model.state_dict()) == keys
        assert model.again is model.layers[0]
        assert type(model.embed) is nn.Linear

    def test_results_and_gradients(self):
        theirs = Model()
        ours = copy.deepcopy(theirs)
        rnnkern.replace_rnn_(ours)
        x, found = inputs(), []
        for model in (theirs, ours):
            y = model(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
        assert_equivalent(found[1], found[0])

    def test_an_optimizer_from_before_goes_on(self):
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        rnnkern.replace_rnn_(model)
        x = inputs()
        before = model(x)
        before.square().sum().backward()
        optimizer.step()
        assert not torch.equal(model(x), before)

    def test_twice_is_once(self):
        model = Model()
        assert rnnkern.replace_rnn_(model)
        assert rnnkern.replace_rnn_(model) == []

    def test_nothing_to_replace(self):
        assert rnnkern.replace_rnn_(nn.Sequential(nn.Linear(2, 2))) == []

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_the_model_itself_is_refused(self, name):
        with pytest.raises(TypeError, match="from_torch"):
            rnnkern.replace_rnn_(getattr(nn, name)(4, 3))

    def test_subclasses_are_left_alone(self):
        class Special(nn.LSTM):
            def forward(self, x):
                return x

        model = nn.Sequential(Special(2, 2))
        assert rnnkern.replace_rnn_(model) == []
        assert type(model[0]) is Special

    def test_training_flags_are_kept(self):
        model = Model()
        model.encoder.eval()
        rnnkern.replace_rnn_(model)
        assert (model.encoder[1].training, model.layers[0].training) == (False, True)

    def test_nothing_happens_when_one_cannot_be_replaced(self):
        model = Model()
        model.layers[1].forward = lambda x: x
        with pytest.raises(ValueError, match="forward"):
            rnnkern.replace_rnn_(model)
        assert type(model.encoder[1]) is nn.LSTM

    def test_tied_across_modules(self):
        model = nn.Sequential(nn.GRUCell(3, 3), nn.GRUCell(3, 3))
        model[1].weight_hh = model[0].weight_hh
        rnnkern.replace_rnn_(model)
        assert model[1].weight_hh is model[0].weight_hh


class TestOneModule:
    @every_kind
    def test_there_and_back(self, name, options):
        theirs = build(name, options)
        ours = rnnkern.from_torch(theirs)
        back = rnnkern.to_torch(ours)
        assert type(ours) is getattr(rnnkern, name)
        assert type(back) is getattr(nn, name)
        assert repr(ours) == repr(theirs) == repr(back)
        for module in (ours, back):
            pairs = zip(module.parameters(), theirs.parameters(), strict=True)
            assert all(a is b for a, b in pairs)
        x = torch.randn(2, 4, dtype=torch.float64)
        results = []
        for module in (theirs, ours, back):
            torch.manual_seed(3)
            results.append(leaves(module(x)))
        assert_equivalent(results[1], results[0])
        assert_same_bits(results[2], results[0])

    @every_kind
    def test_changing_one_leaves_the_other(self, name, options):
        theirs = build(name, options)
        ours = rnnkern.from_torch(theirs)
        kept = dict(theirs.named_parameters())
        for key, p in list(ours.named_parameters()):
            setattr(ours, key, nn.Parameter(torch.zeros_like(p)))
        assert all(p is kept[key] for key, p in theirs.named_parameters())
        x = torch.randn(2, 4, dtype=torch.float64)
        assert leaves(theirs(x))[0].count_nonzero() > 0
        assert leaves(ours(x))[0].count_nonzero() == 0

    @every_kind
    def test_dtype_and_deepcopy_afterwards(self, name, options):
        ours = copy.deepcopy(rnnkern.from_torch(build(name, options))).float()
        assert all(t.dtype == torch.float32 for t in leaves(ours(torch.randn(2, 4))))

    @pytest.mark.parametrize(
        ("convert", "wrong"),
        [
            (rnnkern.from_torch, nn.Linear(2, 2)),
            (rnnkern.from_torch, rnnkern.LSTM(2, 2)),
            (rnnkern.to_torch, nn.LSTM(2, 2)),
            (rnnkern.to_torch, nn.Linear(2, 2)),
        ],
        ids=["Linear", "ours", "theirs", "Linear-back"],
    )
    def test_other_modules_are_refused_by_name(self, convert, wrong):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            convert(wrong)

    @pytest.mark.parametrize("name", RNNS)
    def test_hooks_are_kept_and_can_be_removed(self, name):
        theirs = build(name, {})
        calls = []
        handles = [
            theirs.register_forward_pre_hook(lambda module, args: calls.append("before")),
            theirs.register_forward_hook(lambda module, args, out: calls.append(type(module))),
        ]
        ours = rnnkern.from_torch(theirs)
        x = torch.randn(2, 4, dtype=torch.float64)
        ours(x)
        assert calls == ["before", type(ours)]
        for handle in handles:
            handle.remove()
        ours(x)
        assert len(calls) == 2

    def test_hooks_bound_to_the_module_are_refused(self):
        theirs = nn.LSTM(4, 3)
        theirs.register_load_state_dict_pre_hook(lambda module, *args: None)
        with pytest.raises(ValueError, match="hook"):
            rnnkern.from_torch(theirs)


def old_weight_norm(module):
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(module, "weight_hh_l0")


CHANGES = {
    "old-weight-norm": old_weight_norm,
    "weight-norm": lambda module: parametrizations.weight_norm(module, "weight_hh_l0"),
    "spectral-norm": lambda module: parametrizations.spectral_norm(module, "weight_ih_l0"),
    "pruning": lambda module: prune.l1_unstructured(module, "weight_ih_l0", amount=0.5),
}


def changed(name, change):
    torch.manual_seed(5)
    module = build(name, {})
    CHANGES[change](module)
    return module.eval()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", RNNS)
def test_changed_weights_follow_their_parameters(name, change):
    """After conversion the parameters behind the weight still make it, and get the gradients."""
    theirs, other = changed(name, change), changed(name, change)
    model = nn.Sequential(other)
    assert rnnkern.replace_rnn_(model) == ["0"]
    ours = model[0]
    assert isinstance(ours, getattr(rnnkern, name))
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    for _ in range(2):
        found = []
        for module in (theirs, ours):
            y = module(x)[0]
            grads = torch.autograd.grad(y.square().sum(), list(module.parameters()))
            found.append([y, *grads])
        assert_equivalent(found[1], found[0])
        with torch.no_grad():
            for p in [*theirs.parameters(), *ours.parameters()]:
                p.mul_(1.5)
