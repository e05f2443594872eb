"""Claim: the modules are drop-in for torch.nn's: construction, parameters, calls and errors."""

import copy
import inspect
import io
import pickle
import re
import subprocess
import sys

import pytest
import torch
from pairs import CELLS, RNNS, leaves, pair, run, states
from tolerances import assert_accurate, assert_equivalent, assert_same_bits
from torch import nn
from torch.nn.utils import prune

import rnnkern
from rnnkern import _C

OPTIONS = [
    {},
    {"num_layers": 2},
    {"bias": False},
    {"bidirectional": True},
    {"batch_first": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]
KINDS = [
    *[(name, options) for name in RNNS for options in OPTIONS],
    ("RNN", {"nonlinearity": "relu"}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"proj_size": 1, "num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bias": False}),
]
CELL_KINDS = [
    *[(name, options) for name in CELLS for options in ({}, {"bias": False})],
    ("RNNCell", {"nonlinearity": "relu"}),
]
every_kind = pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
every_cell = pytest.mark.parametrize(("name", "options"), CELL_KINDS, ids=str)
every_rnn = pytest.mark.parametrize("name", RNNS)


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def cell_states(name, *shape):
    return (inputs(*shape), inputs(*shape)) if name == "LSTMCell" else inputs(*shape)


def error_of(call):
    """Type and text of what a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (type and text are compared below)
        call()
    return caught.type, str(caught.value)


def assert_same_error(call):
    """`call(namespace)` fails in the same way with torch.nn and with rnnkern."""
    assert error_of(lambda: call(rnnkern)) == error_of(lambda: call(nn))


class TestConstruction:
    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_signature(self, name):
        """The keywords of torch.nn, in its order; what torch takes as **kwargs may be spelled."""
        module = getattr(rnnkern, name)
        assert issubclass(module, nn.modules.rnn.RNNBase if name in RNNS else nn.RNNCellBase)
        assert not issubclass(module, getattr(nn, name))
        if name in CELLS:
            ours, theirs = (
                list(inspect.signature(c).parameters) for c in (module, getattr(nn, name))
            )
            assert ours == theirs

    @every_kind
    def test_same_parameters_from_the_same_seed(self, name, options):
        theirs, ours = pair(name, 3, 5, **options)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert_same_bits(list(ours.parameters()), list(theirs.parameters()))
        assert ours._flat_weights_names == theirs._flat_weights_names
        assert [len(w) for w in ours.all_weights] == [len(w) for w in theirs.all_weights]
        assert repr(ours) == repr(theirs)

    @every_cell
    def test_same_cell_parameters_from_the_same_seed(self, name, options):
        theirs, ours = pair(name, 3, 5, **options)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert_same_bits(list(ours.parameters()), list(theirs.parameters()))
        assert (ours.bias_ih is None) == (theirs.bias_ih is None)
        assert repr(ours) == repr(theirs)

    def test_nonlinearity_is_the_fourth_argument_of_rnn(self):
        theirs, ours = pair("RNN", 3, 5, 2, "relu", False, True)
        assert repr(ours) == repr(theirs)
        assert (ours.mode, ours.nonlinearity) == ("RNN_RELU", "relu")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"dropout": -0.1},
            {"dropout": 1.1},
            {"dropout": True},
            {"dropout": "much"},
            {"bias": 1},
            {"bias": "True"},
            {"batch_first": 0},
            {"input_size": 3.0},
            {"input_size": 0},
            {"input_size": "3"},
            {"hidden_size": 5.0},
            {"hidden_size": 0},
            {"hidden_size": -1},
            {"num_layers": 0},
            {"proj_size": -1},
            {"proj_size": 5},
            {"nonlinearity": "sigmoid"},
            {"color": "red"},
        ],
        ids=str,
    )
    @every_rnn
    def test_errors(self, name, arguments):
        arguments = {"input_size": 3, "hidden_size": 5, **arguments}
        assert_same_error(lambda namespace: getattr(namespace, name)(**arguments))

    @every_rnn
    def test_missing_arguments(self, name):
        assert error_of(getattr(rnnkern, name))[0] is TypeError
        assert error_of(lambda: getattr(rnnkern, name)(3))[0] is TypeError

    @every_rnn
    def test_dropout_on_one_layer_warns_as_torch(self, name):
        texts = []
        for namespace in (nn, rnnkern):
            with pytest.warns(UserWarning, match="non-zero dropout") as caught:
                getattr(namespace, name)(3, 5, dropout=0.5)
            texts.append(str(caught[0].message))
        assert texts[0] == texts[1]

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_device_and_dtype(self, name):
        module = getattr(rnnkern, name)(3, 5, device="meta", dtype=torch.float64)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}
        with torch.device("meta"):
            module = getattr(rnnkern, name)(3, 5)
        assert {p.device.type for p in module.parameters()} == {"meta"}


class TestCall:
    @pytest.mark.parametrize("given", [False, True], ids=["zero-states", "given-states"])
    @every_kind
    def test_batched(self, name, options, given):
        theirs, ours = pair(name, 4, 3, **options)
        arguments = (inputs(5, 5, 4), *([states(ours, 5)] if given else []))
        assert_equivalent(run(ours, *arguments), run(theirs, *arguments))

    @pytest.mark.parametrize("given", [False, True], ids=["zero-states", "given-states"])
    @every_kind
    def test_unbatched(self, name, options, given):
        theirs, ours = pair(name, 4, 3, **options)
        arguments = (inputs(5, 4), *([states(ours)] if given else []))
        assert_equivalent(run(ours, *arguments), run(theirs, *arguments))

    def test_states_as_a_list(self):
        theirs, ours = pair("LSTM", 4, 3)
        x, hx = inputs(5, 2, 4), list(states(ours, 2))
        assert_equivalent(leaves(ours(x, hx)), leaves(theirs(x, hx)))

    @every_kind
    def test_structure_of_the_result(self, name, options):
        theirs, ours = pair(name, 4, 3, **options)
        want, found = theirs(inputs(2, 6, 4)), ours(inputs(2, 6, 4))
        assert type(found) is type(want) is tuple
        assert type(found[1]) is type(want[1])
        assert [t.shape for t in leaves(found)] == [t.shape for t in leaves(want)]

    @every_kind
    def test_float32(self, name, options):
        theirs, ours = pair(name, 20, 33, dtype=torch.float32, **options)
        precise = copy.deepcopy(theirs).double()
        x = torch.randn(7, 7, 20)
        found, peer, truth = run(ours, x), run(theirs, x), run(precise, x.double())
        for mine, other, exact in zip(found, peer, truth, strict=True):
            assert_accurate(mine, other, exact)

    @pytest.mark.parametrize("short", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
    @every_rnn
    def test_short_types(self, name, short):
        theirs, ours = pair(name, 20, 33, 2, bidirectional=True, dtype=short)
        x = torch.randn(7, 4, 20).to(short)
        with torch.no_grad():
            found, peer = leaves(ours(x)), leaves(theirs(x))
            truth = leaves(theirs.double()(x.double()))
        for mine, other, exact in zip(found, peer, truth, strict=True):
            assert_accurate(mine, other, exact)

    @every_rnn
    def test_strided_input_and_states(self, name):
        theirs, ours = pair(name, 4, 3, 2, bidirectional=True)
        x = inputs(4, 5, 6).permute(2, 1, 0)
        hx = states(ours, 10)
        hx = tuple(s[:, ::2] for s in hx) if isinstance(hx, tuple) else hx[:, ::2]
        assert not x.is_contiguous()
        assert_equivalent(leaves(ours(x, hx)), leaves(theirs(x, hx)))

    @every_kind
    def test_empty_batch(self, name, options):
        theirs, ours = pair(name, 4, 3, **options)
        x = inputs(0, 5, 4) if options.get("batch_first") else inputs(5, 0, 4)
        assert_equivalent(run(ours, x), run(theirs, x))

    @every_kind
    def test_backward_in_eval_mode(self, name, options):
        theirs, ours = (module.eval() for module in pair(name, 4, 3, **options))
        x = inputs(5, 5, 4)
        assert_equivalent(run(ours, x), run(theirs, x))

    @every_rnn
    def test_without_gradients(self, name):
        _, ours = pair(name, 4, 3, 2)
        x = inputs(5, 2, 4)
        with_grad = leaves(ours(x))
        with torch.no_grad():
            without = leaves(ours(x))
        with torch.inference_mode():
            inference = leaves(ours(x))
        assert all(t.requires_grad for t in with_grad)
        assert not any(t.requires_grad for t in without)
        assert all(t.is_inference() for t in inference)
        assert_same_bits(with_grad, without)
        assert_same_bits(with_grad, inference)

    @every_rnn
    def test_frozen_parameters(self, name):
        theirs, ours = pair(name, 4, 3, 2)
        x = inputs(5, 2, 4).requires_grad_()
        grads = []
        for module in (theirs, ours):
            module.requires_grad_(False)
            grads.append(torch.autograd.grad(module(x)[0].square().sum(), x)[0])
        assert_equivalent(grads[1:], grads[:1])

    @every_rnn
    def test_gradient_penalty(self, name):
        """The double backward of a loss on a gradient, down to the parameters."""
        found = []
        for module in pair(name, 4, 3, 2, bidirectional=True):
            x = inputs(5, 2, 4).fill_(0.3).requires_grad_()
            (grad,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(grad.norm(), list(module.parameters())))
        assert_equivalent(found[1], found[0])

    @pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of torch.backends.mkldnn.flags
    @pytest.mark.parametrize("short", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
    @every_rnn
    def test_autocast(self, name, short):
        theirs, ours = pair(name, 20, 33, 2, dtype=torch.float32)
        x = torch.randn(7, 4, 20)
        with torch.no_grad(), torch.autocast("cpu", short):
            found = leaves(ours(x))
            with torch.backends.mkldnn.flags(enabled=False):  # fails where the CPU lacks the type
                peer = leaves(theirs(x))
        truth = leaves(theirs.double()(x.double()))
        assert all(t.dtype == short for t in found)
        for mine, other, exact in zip(found, peer, truth, strict=True):
            assert_accurate(mine, other.to(mine.dtype), exact)

    @every_rnn
    def test_autocast_trains_float32_parameters(self, name):
        _, ours = pair(name, 4, 3, 2, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = ours(torch.randn(5, 2, 4).bfloat16())[0].float().sum()
        loss.backward()
        for p in ours.parameters():
            assert p.grad.dtype == torch.float32
            assert torch.isfinite(p.grad).all()


class TestCallErrors:
    """Type and text are torch.nn's."""

    @pytest.mark.parametrize(
        ("x", "h", "c"),
        [
            ((4,), None, None),
            ((2, 3, 4, 4), None, None),
            ((5, 2, 3), None, None),
            ((5, 3), None, None),
            ((5, 2, 4), (1, 2), (1, 2)),
            ((5, 2, 4), (1, 3, 3), (1, 3, 3)),
            ((5, 2, 4), (1, 2, 4), (1, 2, 4)),
            ((5, 2, 4), (2, 2, 3), (2, 2, 3)),
            ((5, 2, 4), (1, 2, 3), (1, 2, 4)),
            ((5, 4), (1, 1, 3), (1, 1, 3)),
            ((5, 4), (1, 4), (1, 3)),
        ],
        ids=str,
    )
    @every_rnn
    def test_shapes(self, name, x, h, c):
        if name != "LSTM" and h is not None and h == (1, 2, 3):
            c = h = (1, 2, 5)

        def call(namespace):
            module = getattr(namespace, name)(4, 3)
            hx = None
            if h is not None:
                hx = (torch.zeros(h), torch.zeros(c)) if name == "LSTM" else torch.zeros(h)
            module(torch.zeros(x), hx)

        assert_same_error(call)

    @every_rnn
    def test_dtype_of_the_input(self, name):
        assert_same_error(lambda ns: getattr(ns, name)(4, 3)(torch.zeros(5, 2, 4).double()))

    @every_rnn
    def test_no_steps(self, name):
        assert_same_error(lambda ns: getattr(ns, name)(4, 3)(torch.zeros(0, 2, 4)))

    @every_rnn
    def test_packed_input_of_the_wrong_width(self, name):
        packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 5)])
        if name == "LSTM":  # torch does not check it there, and fails inside the product
            with pytest.raises(RuntimeError, match="input"):
                rnnkern.LSTM(4, 3)(packed)
        else:
            assert_same_error(lambda ns: getattr(ns, name)(4, 3)(packed))

    @pytest.mark.parametrize(
        ("x", "h"),
        [
            ((3, 11), (3, 20)),
            ((3, 10), (3, 21)),
            ((3, 10), (5, 20)),
            ((3, 10), (3, 1, 1, 20)),
            ((1, 3, 10), (3, 20)),
            ((11,), (20,)),
            ((10,), (21,)),
            ((3, 11), None),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("name", CELLS)
    def test_cells(self, name, x, h):
        def call(namespace):
            hx = None if h is None else torch.zeros(h)
            if name == "LSTMCell" and hx is not None:
                hx = (hx, hx)
            getattr(namespace, name)(10, 20)(torch.zeros(x), hx)

        assert_same_error(call)

    def test_unknown_nonlinearity_of_a_cell(self):
        assert_same_error(lambda ns: ns.RNNCell(2, 3, nonlinearity="cube")(torch.zeros(1, 2)))


class TestCells:
    @pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3), (0, 3)], ids=str)
    @every_cell
    def test_matches_torch(self, name, options, shape):
        theirs, ours = pair(name, 3, 5, **options)
        arguments = (inputs(*shape), cell_states(name, *shape[:-1], 5))
        assert_equivalent(run(ours, *arguments), run(theirs, *arguments))
        assert_equivalent(run(ours, arguments[0]), run(theirs, arguments[0]))

    @every_cell
    def test_a_loop_over_the_cell_is_the_layer(self, name, options):
        _, ours = pair(name, 3, 5, **options)
        layer = getattr(rnnkern, name.removesuffix("Cell"))(3, 5, **options, dtype=torch.float64)
        layer.load_state_dict({f"{k}_l0": v for k, v in ours.state_dict().items()})
        x = inputs(6, 2, 3)
        hx, steps = None, []
        for step in x:
            hx = ours(step, hx)
            steps.append(hx[0] if name == "LSTMCell" else hx)
        assert_equivalent([torch.stack(steps)], [layer(x)[0]])

    @pytest.mark.parametrize("name", CELLS)
    def test_only_one_output_used(self, name):
        theirs, ours = pair(name, 3, 5)
        x, hx = inputs(2, 3), cell_states(name, 2, 5)
        for output in range(2 if name == "LSTMCell" else 1):
            found = []
            for module in (theirs, ours):
                loss = leaves(module(x, hx))[output].square().sum()
                grads = torch.autograd.grad(loss, list(module.parameters()))
                found.append(grads)
            assert_equivalent(found[1], found[0])

    @pytest.mark.parametrize("name", CELLS)
    def test_autocast(self, name):
        theirs, ours = pair(name, 3, 5, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            want, found = leaves(theirs(torch.randn(2, 3))), leaves(ours(torch.randn(2, 3)))
        assert len(want) == len(found)
        assert all(t.dtype == torch.bfloat16 for t in found)


class TestDropout:
    @pytest.mark.parametrize("bidirectional", [False, True], ids=["D1", "D2"])
    @pytest.mark.parametrize("p", [0.3, 1.0])
    @every_rnn
    def test_same_random_numbers_as_torch(self, name, p, bidirectional):
        x, found = inputs(5, 4, 4), []
        for module in pair(name, 4, 3, 3, dropout=p, bidirectional=bidirectional):
            torch.manual_seed(11)
            found.append([*leaves(module(x)), torch.rand(3, dtype=torch.float64)])
        assert_equivalent(found[1], found[0])

    @every_rnn
    def test_without_gradients(self, name):
        """The training flag decides, not the grad mode."""
        x, found = inputs(5, 4, 4), []
        for module in pair(name, 4, 3, 2, dropout=0.5):
            torch.manual_seed(11)
            with torch.no_grad():
                found.append(leaves(module(x)))
        assert_equivalent(found[1], found[0])

    @every_rnn
    def test_off_in_eval_mode(self, name):
        _, ours = pair(name, 4, 3, 3, dropout=0.5)
        _, plain = pair(name, 4, 3, 3)
        x = inputs(5, 4, 4)
        assert_same_bits(leaves(ours.eval()(x)), leaves(plain(x)))

    @every_rnn
    def test_changed_after_construction(self, name):
        theirs, ours = pair(name, 4, 3, 2)
        x, found = inputs(5, 4, 4), []
        for module in (theirs, ours):
            for p in (0.9, 0.0, 0.5):
                module.dropout = p
                torch.manual_seed(2)
                found.append(module(x)[0])
        assert_equivalent(found[3:], found[:3])
        assert not torch.equal(found[4], found[5])

    def test_scaled_and_whole_units(self):
        """With relu and weights of one each path is kept and scaled, or lost: 10 units in two
        layers give multiples of 1 / (1 - p)."""
        rnn = rnnkern.RNN(10, 1000, 2, bias=False, dropout=0.5, nonlinearity="relu")
        for p in rnn.parameters():
            nn.init.ones_(p)
        y = rnn(torch.ones(1, 1, 10))[0]
        kept = y / (10 / 0.5)
        assert torch.equal(kept, kept.round())
        assert 400 < kept[0, 0, 0] < 600


class TestLifeOfAModule:
    @every_kind
    def test_state_dict_both_ways(self, name, options):
        x = inputs(3, 3, 4)
        theirs, ours = pair(name, 4, 3, **options)
        for source, target in ((theirs, ours), (ours, theirs)):
            for p in source.parameters():
                nn.init.normal_(p)
            target.load_state_dict(source.state_dict())
            assert_equivalent(leaves(target(x)), leaves(source(x)))

    @every_kind
    def test_deepcopy_is_independent(self, name, options):
        _, ours = pair(name, 4, 3, **options)
        x = inputs(3, 3, 4)
        twin = copy.deepcopy(ours)
        before = leaves(twin(x))
        nn.init.zeros_(ours.weight_hh_l0)
        assert_same_bits(leaves(twin(x)), before)
        assert not torch.equal(leaves(ours(x))[0], before[0])

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_pickle_and_torch_save(self, name):
        _, ours = pair(name, 4, 3)
        x = inputs(2, 4)
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        for twin in (pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
            assert type(twin) is type(ours)
            assert_same_bits(leaves(twin(x)), leaves(ours(x)))
            assert_same_bits(list(twin.parameters()), list(ours.parameters()))

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_changing_dtype(self, name):
        for convert in (nn.Module.double, nn.Module.half, nn.Module.bfloat16, nn.Module.float):
            _, ours = pair(name, 4, 3, dtype=torch.float32)
            ours = convert(ours)
            dtype = next(ours.parameters()).dtype
            assert all(t.dtype == dtype for t in leaves(ours(torch.randn(2, 4).to(dtype))))

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_to_and_to_empty(self, name):
        theirs, ours = pair(name, 4, 3)
        ours = ours.to("meta").to_empty(device="cpu")
        ours.load_state_dict(theirs.state_dict())
        x = inputs(2, 4)
        assert_equivalent(leaves(ours(x)), leaves(theirs(x)))

    @every_rnn
    def test_flatten_parameters_changes_nothing(self, name):
        _, ours = pair(name, 4, 3)
        before = [p.data_ptr() for p in ours.parameters()]
        assert ours.flatten_parameters() is None
        assert [p.data_ptr() for p in ours.parameters()] == before

    @every_rnn
    def test_parameters_are_trained_in_place(self, name):
        """No copy of the weights goes stale: an optimizer, .data and numpy all show at once."""
        theirs, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        for module in (theirs, ours):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                module(x)[0].square().sum().backward()
                optimizer.step()
            module.weight_hh_l0.data.copy_(torch.ones_like(module.weight_hh_l0) / 7)
            with torch.no_grad():
                module(x)
            module.weight_ih_l0.detach().numpy()[0] = 0.5
        with torch.no_grad():
            assert_equivalent(leaves(ours(x)), leaves(theirs(x)))

    @every_rnn
    def test_reassigned_weight(self, name):
        _, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        before = leaves(ours(x))
        ours.weight_hh_l0 = nn.Parameter(torch.zeros_like(ours.weight_hh_l0))
        ours(x)[0].sum().backward()
        assert ours.weight_hh_l0.grad is not None
        assert not torch.equal(leaves(ours(x))[0], before[0])

    @every_rnn
    def test_deleted_weight_put_back(self, name):
        _, ours = pair(name, 4, 3, dtype=torch.float32)
        x = torch.randn(3, 2, 4)
        weight = ours.weight_hh_l0
        precise = leaves(copy.deepcopy(ours).double()(x.double()))
        del ours.weight_hh_l0
        assert not hasattr(ours, "weight_hh_l0")
        ours.double()
        ours.weight_hh_l0 = nn.Parameter(weight.double())
        assert_equivalent(leaves(ours(x.double())), precise)

    @every_rnn
    def test_weight_set_to_other_memory(self, name):
        _, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        before = leaves(ours(x))
        with torch.no_grad():
            for p in ours.parameters():
                p.set_(p.clone())
        assert_same_bits(leaves(ours(x)), before)

    @every_rnn
    def test_tied_weights(self, name):
        theirs, ours = pair(name, 4, 3, 2, bidirectional=True)
        for module in (theirs, ours):
            module.bias_ih_l0_reverse = module.bias_ih_l0
            module.weight_hh_l1 = module.weight_hh_l0
        x = inputs(3, 2, 4)
        assert len(list(ours.parameters())) == len(list(theirs.parameters())) == 14
        assert_equivalent(run(ours, x), run(theirs, x))

    @every_rnn
    def test_old_weight_norm(self, name):
        theirs, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        for module in (theirs, ours):
            with pytest.warns(FutureWarning, match="weight_norm"):
                nn.utils.weight_norm(module, "weight_hh_l0")
        assert_equivalent(run(ours, x), run(theirs, x))
        for module in (theirs, ours):
            nn.init.ones_(module.weight_hh_l0_g)
        assert_equivalent(run(ours, x), run(theirs, x))

    @every_rnn
    def test_parametrizations(self, name):
        theirs, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        for module in (theirs, ours):
            torch.manual_seed(4)
            nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
            nn.utils.parametrizations.spectral_norm(module, "weight_ih_l0")
            module.eval()
        assert_equivalent(run(ours, x), run(theirs, x))
        for module in (theirs, ours):
            nn.init.ones_(module.parametrizations.weight_hh_l0.original0)
        assert_equivalent(run(ours, x), run(theirs, x))
        nn.utils.parametrize.remove_parametrizations(ours, "weight_hh_l0")
        assert_equivalent(leaves(ours(x)), leaves(theirs(x)))

    @every_rnn
    def test_pruning(self, name):
        theirs, ours = pair(name, 4, 3)
        x = inputs(3, 2, 4)
        for module in (theirs, ours):
            prune.l1_unstructured(module, "weight_ih_l0", amount=0.5)
        assert_equivalent(run(ours, x), run(theirs, x))

    @pytest.mark.parametrize("name", [*RNNS, *CELLS])
    def test_functional_call(self, name):
        theirs, ours = pair(name, 4, 3)
        x = inputs(2, 4)
        other = {k: torch.randn_like(v).requires_grad_() for k, v in ours.named_parameters()}
        found = []
        for module in (theirs, ours):
            out = leaves(torch.func.functional_call(module, other, (x,)))
            found.append([*out, *torch.autograd.grad(sum(t.sum() for t in out), other.values())])
        assert_equivalent(found[1], found[0])
        assert_equivalent(leaves(ours(x)), leaves(theirs(x)))

    @pytest.mark.parametrize("name", RNNS)
    def test_data_parallel_replica(self, name):
        _, ours = pair(name, 4, 3)
        replica = ours._replicate_for_data_parallel()
        assert replica._flat_weights is not ours._flat_weights

    @every_rnn
    def test_state_of_old_checkpoints(self, name):
        """Pickles from before projections have no proj_size."""
        _, ours = pair(name, 4, 3)
        state = ours.__getstate__()
        del state["proj_size"]
        twin = getattr(rnnkern, name).__new__(getattr(rnnkern, name))
        twin.__setstate__(state)
        x = inputs(3, 2, 4)
        assert_same_bits(leaves(twin(x)), leaves(ours(x)))

    @every_rnn
    def test_hooks_and_training_flag(self, name):
        _, ours = pair(name, 4, 3)
        seen = []
        ours.register_forward_hook(lambda module, args, result: seen.append(len(result)))
        ours(inputs(3, 2, 4))
        assert seen == [2]


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", rnnkern.__version__)


def test_backends():
    assert rnnkern.backends() == _C.backends()


def test_missing_extension_says_how_to_build():
    code = (
        "import sys; sys.modules['rnnkern._C'] = None\n"
        "try: import rnnkern\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in out.stdout
    assert "_C" in out.stdout
