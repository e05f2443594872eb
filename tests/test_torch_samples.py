"""Claim: torch's own samples for its recurrent modules, and its checks of them, hold for ours.

The samples are those of torch.testing._internal.common_modules; the checks follow torch's
test/test_modules.py.
"""

import copy
import io
import itertools
import sys
import types
import unittest
import warnings
from functools import partial

import pytest
import torch
from pairs import leaves
from tolerances import assert_equivalent, assert_same_bits
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import rnnkern


def common_modules():
    """torch's module of samples, without the package expecttest, of which it only uses a class."""
    absent = "expecttest" not in sys.modules
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    sys.modules.setdefault("expecttest", stand_in)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # it asks for hypothesis
            from torch.testing._internal import common_modules
    finally:
        if absent:
            del sys.modules["expecttest"]
    return common_modules


torch_samples = common_modules()
packed_too = {"with_packed_sequence": True}
SAMPLES = {
    "RNN": partial(torch_samples.module_inputs_torch_nn_RNN_GRU, is_rnn=True, **packed_too),
    "GRU": partial(torch_samples.module_inputs_torch_nn_RNN_GRU, is_rnn=False, **packed_too),
    "LSTM": torch_samples.module_inputs_torch_nn_LSTM,
    "RNNCell": partial(torch_samples.module_inputs_torch_nn_RNN_GRU_Cell, is_rnn=True),
    "GRUCell": torch_samples.module_inputs_torch_nn_RNN_GRU_Cell,
    "LSTMCell": torch_samples.module_inputs_torch_nn_LSTMCell,
}
ERRORS = {
    "RNN": torch_samples.module_error_inputs_torch_nn_RNN_GRU,
    "GRU": torch_samples.module_error_inputs_torch_nn_RNN_GRU,
    "LSTM": torch_samples.module_error_inputs_torch_nn_RNN_GRU,
    "RNNCell": torch_samples.module_error_inputs_torch_nn_RNN_GRU_Cell,
    "GRUCell": torch_samples.module_error_inputs_torch_nn_RNN_GRU_Cell,
    "LSTMCell": torch_samples.module_error_inputs_torch_nn_LSTMCell,
}


def samples(name, functions=SAMPLES, dtype=torch.float64):
    torch.manual_seed(0)
    return functions[name](None, torch.device("cpu"), dtype, True, True)


def numbered(functions, step=lambda name: 1):
    """(name, index) of every sample; the sample is made inside the test, from the seed."""
    cases = [
        (name, i) for name in functions for i in range(0, len(samples(name, functions)), step(name))
    ]
    return pytest.mark.parametrize(("name", "index"), cases)


every_sample = numbered(SAMPLES)
# Samples of layers are products of options of two values each: every third has all pairs of those.
some_samples = numbered(SAMPLES, lambda name: 1 if name.endswith("Cell") else 3)


def build(namespace, name, sample, dtype=torch.float64):
    torch.manual_seed(1)
    arguments = sample.constructor_input
    return getattr(namespace, name)(*arguments.args, **{**arguments.kwargs, "dtype": dtype})


def call(module, sample):
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


@every_sample
def test_forward_and_reference_function(name, index):
    sample = samples(name)[index]
    ours, theirs = (build(ns, name, sample) for ns in (rnnkern, nn))
    found = leaves(call(ours, sample))
    assert_equivalent(found, leaves(call(theirs, sample)))
    packed = isinstance(sample.forward_input.args[0], nn.utils.rnn.PackedSequence)
    if sample.reference_fn is not None and not packed:
        args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
        assert_equivalent(leaves(sample.reference_fn(ours, *args, **kwargs)), found)


@every_sample
def test_train_and_eval(name, index):
    """Without dropout the mode changes no bit."""
    sample = samples(name)[index]
    ours = build(rnnkern, name, sample)
    assert_same_bits(leaves(call(ours.train(), sample)), leaves(call(ours.eval(), sample)))


@every_sample
def test_repr_and_parameters(name, index):
    sample = samples(name)[index]
    ours, theirs = (build(ns, name, sample) for ns in (rnnkern, nn))
    assert repr(ours) == repr(theirs)
    assert_equivalent(list(ours.parameters()), list(theirs.parameters()))


@every_sample
def test_pickle(name, index):
    sample = samples(name)[index]
    ours = build(rnnkern, name, sample)
    expected = leaves(call(ours, sample))
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert_same_bits(leaves(call(torch.load(file, weights_only=False), sample)), expected)


def strided(value):
    """The same values with gaps between them; leaves again."""
    if isinstance(value, torch.Tensor):
        copied = torch.repeat_interleave(value.detach(), 2, dim=-1)[..., ::2]
        return copied.requires_grad_(value.requires_grad)
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=strided(value.data))
    return tuple(map(strided, value))


@every_sample
def test_non_contiguous(name, index):
    """Inputs and parameters: outputs and gradients are those of contiguous ones."""
    sample = samples(name)[index]
    ours = build(rnnkern, name, sample)
    loose = copy.deepcopy(ours)
    with torch.no_grad():
        for p in loose.parameters():
            p.set_(strided(p.detach()))
    results = []
    for module, args in (
        (ours, sample.forward_input.args),
        (loose, strided(sample.forward_input.args)),
    ):
        outputs = leaves(module(*args))
        wrt = [t for t in [*leaves(args), *module.parameters()] if t.requires_grad]
        grads = torch.autograd.grad(sum(t.square().sum() for t in outputs), wrt)
        results.append([*outputs, *grads])
    assert_same_bits(*results)


def differentiable(name, index):
    """The sample as a function of its input tensors and parameters, and these."""
    sample = samples(name)[index]
    ours = build(rnnkern, name, sample)
    args = sample.forward_input.args
    inputs = [t for t in leaves(args) if t.requires_grad]
    names = [key for key, _ in ours.named_parameters()]

    def rebuilt(value, remaining):
        if isinstance(value, torch.Tensor):
            return next(remaining)
        if isinstance(value, nn.utils.rnn.PackedSequence):
            return value._replace(data=next(remaining))
        return tuple(rebuilt(part, remaining) for part in value)

    def run(*tensors):
        given = rebuilt(args, iter(tensors[: len(inputs)]))
        params = dict(zip(names, tensors[len(inputs) :], strict=True))
        return tuple(leaves(torch.func.functional_call(ours, params, given)))

    return run, [*inputs, *ours.parameters()]


@every_sample
def test_grad(name, index):
    run, tensors = differentiable(name, index)
    assert gradcheck(run, tensors, check_batched_grad=False, fast_mode=True)


@some_samples
def test_gradgrad(name, index):
    run, tensors = differentiable(name, index)
    assert gradgradcheck(run, tensors, check_batched_grad=False, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@numbered(ERRORS)
def test_errors(name, index, dtype):
    case = samples(name, ERRORS, dtype)[index]
    sample, construction = case.module_error_input, torch_samples.ModuleErrorEnum.CONSTRUCTION_ERROR
    arguments = sample.constructor_input
    cls = getattr(rnnkern, name)
    if case.error_on == construction:
        with pytest.raises(case.error_type, match=case.error_regex):
            cls(*arguments.args, **arguments.kwargs)
        return
    module = cls(*arguments.args, **{"dtype": dtype, **arguments.kwargs})
    with pytest.raises(case.error_type, match=case.error_regex):
        call(module, sample)


@pytest.mark.parametrize("name", SAMPLES)
def test_there_are_samples(name):
    assert len(samples(name)) >= 2
    assert len(samples(name, ERRORS)) >= 4


@pytest.mark.parametrize("name", SAMPLES)
def test_factory_arguments(name):
    sample = samples(name)[0]
    for dtype, device in itertools.product((torch.float32, torch.bfloat16), ("cpu", "meta")):
        arguments = sample.constructor_input
        cls = getattr(rnnkern, name)
        module = cls(*arguments.args, **{**arguments.kwargs, "dtype": dtype, "device": device})
        assert {(p.dtype, p.device.type) for p in module.parameters()} == {(dtype, device)}
