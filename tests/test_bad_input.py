"""Claim: what does not fit is a Python exception that names it, never a crash or a wrong number."""

import gc
import re
import weakref

import pytest
import torch
from pairs import RNNS, leaves, pair
from problems import Layer, Problem, batch_sizes_of, cotangents, torch_layer
from tolerances import assert_accurate, assert_same_bits
from torch._subclasses.fake_tensor import FakeTensorMode

import rnnkern
from rnnkern import _C
from rnnkern.autograd import recurrence

RAISED = (RuntimeError, ValueError, TypeError)
T, N, I, H = 3, 2, 4, 5


def good(cell="lstm", **options):
    return Problem(cell, T=T, N=N, I=I, H=H, **options).layer


def packed():
    return Problem("lstm", I=I, H=H, lengths=(3, 2)).layer


def change(index: int, replace) -> Layer:
    """The good LSTM layer with input `index` (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr) changed."""
    layer = good()
    inputs = layer.inputs()
    inputs[index] = replace(inputs[index])
    return Layer(inputs[0], None, inputs[1:3], inputs[3:])


def sizes(*values, **options):
    return packed()._replace(sizes=torch.tensor(values, **options))


X, H0, C0, W_IH, W_HH, B_IH, B_HH, W_HR = range(8)

# The arguments go by torch.nn's names where the text is torch.nn's.
INPUT, HIDDEN, CELL = r"\binput\b", r"hx|hidden(\[0\]| tensor)", r"hx|hidden\[1\]"

# Name: (layer, and what the message has to say: the argument, what is expected, what it got).
BAD = {
    "x-0D": (change(X, lambda t: t[0, 0, 0]), INPUT, "3", "0"),
    "x-2D": (change(X, lambda t: t[0]), INPUT, "3", "2"),
    "x-4D": (change(X, lambda t: t[None]), INPUT, "3", "4"),
    "x-width": (change(X, lambda t: t[..., :3]), INPUT, "3", "4"),
    "x-integers": (change(X, torch.Tensor.long), INPUT, "(?i)long|int64"),
    "x-complex": (change(X, lambda t: t.to(torch.complex64)), INPUT, "(?i)complex"),
    "x-double": (change(X, torch.Tensor.double), "(?i)double|float64", r"(?i)\bfloat\b|float32"),
    "x-float8": (change(X, lambda t: t.to(torch.float8_e5m2)), INPUT, "(?i)float8"),
    "x-sparse": (change(X, torch.Tensor.to_sparse), INPUT, "(?i)sparse|strided|layout"),
    "x-meta": (change(X, lambda t: t.to("meta")), INPUT, "(?i)cpu", "meta"),
    "x-no-steps": (change(X, lambda t: t[:0]), "(?i)sequence length|steps", "0"),
    "h0-2D": (change(H0, lambda t: t[0]), HIDDEN, "3|1, 2, 5", "2"),
    "h0-batch": (change(H0, lambda t: t[:, :1]), HIDDEN, "1, 2, 5", "1, 1, 5"),
    "h0-width": (change(H0, lambda t: t[..., :4]), HIDDEN, "1, 2, 5|20, 4", "1, 2, 4|20, 5"),
    "h0-directions": (change(H0, lambda t: t.expand(2, -1, -1)), HIDDEN, "1, 2, 5", "2, 2, 5"),
    "h0-dtype": (
        change(H0, torch.Tensor.double),
        HIDDEN,
        r"(?i)\bfloat\b|float32",
        "(?i)double|64",
    ),
    "h0-meta": (change(H0, lambda t: t.to("meta")), HIDDEN, "cpu", "meta"),
    "c0-width": (change(C0, lambda t: t[..., :4]), CELL, "1, 2, 5", "1, 2, 4"),
    "c0-batch": (change(C0, lambda t: t[:, :1]), CELL, "1, 2, 5", "1, 1, 5"),
    "c0-integers": (change(C0, torch.Tensor.int), CELL, r"(?i)float", r"(?i)\bint"),
    "w_ih-rows": (change(W_IH, lambda t: t[:19]), "w_ih", "multiple of 4", "19, 4"),
    "w_ih-1D": (change(W_IH, torch.Tensor.flatten), "w_ih", "matrix", "80"),
    "w_ih-turned": (change(W_IH, lambda t: t.T), "w_ih|w_hh", r"4, 1\b", "4, 20|20, 5"),
    "w_ih-None": (change(W_IH, lambda t: None), "w_ih", "."),
    "w_hh-width": (change(W_HH, lambda t: t[:, :4]), "w_hh", "20, 5", "20, 4"),
    "w_hh-rows": (change(W_HH, lambda t: t[:15]), "w_hh", "20, 5", "15, 5"),
    "w_hh-None": (change(W_HH, lambda t: None), "w_hh", "."),
    "w_hh-dtype": (change(W_HH, torch.Tensor.half), "w_hh", r"(?i)float", "(?i)half|float16"),
    "w_hh-meta": (change(W_HH, lambda t: t.to("meta")), "parameter", "cpu", "meta"),
    "b_ih-size": (change(B_IH, lambda t: t[:5]), "b_ih", "20", "5"),
    "b_ih-2D": (change(B_IH, lambda t: t[None]), "b_ih", "20", "1, 20"),
    "b_hh-size": (change(B_HH, lambda t: t[:5]), "b_hh", "20", "5"),
    "b_hh-dtype": (change(B_HH, torch.Tensor.bfloat16), "b_hh", r"(?i)float", "(?i)bfloat16"),
    "w_hr-not-projecting": (change(W_HR, lambda t: torch.ones(2, 5)), "w_hh|w_hr|hidden", "2", "5"),
    "w_hr-width": (change(W_HR, lambda t: torch.ones(5, 4)), "w_hr", "5, 5", "5, 4"),
    "one-state": (good()._replace(states=good().states[:1]), "states|weights", ".", "."),
    "three-states": (good()._replace(states=good().states * 2), "states|weights", ".", "."),
    "no-weights": (good()._replace(weights=[]), "weights", "5", "0"),
    "four-weights": (good()._replace(weights=good().weights[:4]), "weights", "5", "4"),
    "three-directions": (good()._replace(weights=good().weights * 3), "weights|direction", "3|15"),
    "sizes-growing": (sizes(1, 2, 2), "batch_sizes", "(?i)increas|descend|sorted"),
    "sizes-sum": (sizes(2, 2, 2), "batch_sizes", "5", "6"),
    "sizes-negative": (sizes(6, -1), "batch_sizes", "."),
    "sizes-int32": (sizes(2, 2, 1, dtype=torch.int32), "batch_sizes", "(?i)int64|long", "(?i)int"),
    "sizes-float": (sizes(2.0, 2.0, 1.0), "batch_sizes", "(?i)int64|long", "(?i)float"),
    "sizes-2D": (packed()._replace(sizes=torch.tensor([[2, 2, 1]])), "batch_sizes", "1", "2"),
    "sizes-empty": (sizes(dtype=torch.long), "(?i)batch_sizes|sequence length", "."),
    "sizes-meta": (sizes(2, 2, 1, device="meta"), "batch_sizes", "(?i)cpu", "meta"),
    "sizes-first": (sizes(1, 1, 1, 1, 1), "hidden|batch_sizes", "1", "2"),
    "packed-3D": (packed()._replace(x=good().x), INPUT, "2", "3"),
}


def assert_says(call, *parts):
    with pytest.raises(RAISED) as caught:
        call()
    text = str(caught.value)
    missing = [part for part in parts if not re.search(part, text)]
    assert not missing, f"{text!r} lacks {missing}"


@pytest.mark.parametrize("name", BAD)
def test_forward(name):
    layer, *parts = BAD[name]
    assert_says(lambda: _C.forward("lstm", *layer, False), *parts)
    assert_says(lambda: _C.forward("lstm", *layer, True), *parts)


@pytest.mark.parametrize("name", BAD)
def test_with_gradients(name):
    """The same texts through autograd."""
    layer, *parts = BAD[name]
    layer = layer.map(lambda t: t.requires_grad_() if t.is_floating_point() else t)
    assert_says(lambda: recurrence("lstm", *layer), *parts)


UNSUPPORTED = ["bool", "uint8", "int64", "complex64"]
UNSUPPORTED += ["float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz"]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_all_tensors_of_an_unsupported_dtype(name):
    layer = good().map(lambda t: t.to(getattr(torch, name)))
    assert_says(lambda: _C.forward("lstm", *layer, False), INPUT, "float32, float64, bfloat16")


def test_unknown_cell():
    assert_says(lambda: _C.forward("perceptron", *good(), False), "perceptron", *_C.cells())


def backward_arguments():
    problem = Problem("lstm", T=T, N=N, I=I, H=H)
    layer = problem.layer
    y, *rest = _C.forward("lstm", *layer, True)
    dy, *dfinal = cotangents(problem)
    wanted = [True] * len(layer.inputs())
    arguments = {"y": y, "residuals": rest[2:], "dy": dy, "dfinal": dfinal, "wanted": wanted}
    return layer, arguments


BAD_BACKWARD = {
    "y-shape": ("y", lambda t: t[:2], r"\by\b", "3, 2, 5", "2, 2, 5"),
    "dy-shape": ("dy", lambda t: t[..., :4], "dy", "3, 2, 5", "3, 2, 4"),
    "dy-dims": ("dy", lambda t: t[0], "dy", "3", "2"),
    "dy-dtype": ("dy", torch.Tensor.double, "dy", "(?i)float", "(?i)double|float64"),
    "dy-meta": ("dy", lambda t: t.to("meta"), "dy|gradient", "cpu", "meta"),
    "dfinal-count": ("dfinal", lambda l: l[:1], "dfinal", "2", "1"),
    "dfinal-shape": ("dfinal", lambda l: [l[0], l[1][:, :1]], "dc|dfinal", "1, 2, 5", "1, 1, 5"),
    "residuals-count": ("residuals", lambda l: [*l, *l, l[0]], "residuals", "."),
    "residuals-none": ("residuals", lambda l: [], "residuals", "0"),
    "residuals-shape": ("residuals", lambda l: [r.flatten()[:1] for r in l], "residual", "1"),
    "wanted-count": ("wanted", lambda l: l[:-1], "wanted", "8", "7"),
}


@pytest.mark.parametrize("name", BAD_BACKWARD)
def test_backward(name):
    key, replace, *parts = BAD_BACKWARD[name]
    layer, arguments = backward_arguments()
    arguments[key] = replace(arguments[key])
    assert_says(lambda: _C.backward("lstm", *layer, *arguments.values()), *parts)


@pytest.mark.parametrize("name", BAD)
def test_backward_checks_what_forward_checks(name):
    layer, *_ = BAD[name]
    _, arguments = backward_arguments()
    with pytest.raises(RAISED):
        _C.backward("lstm", *layer, *arguments.values())


@pytest.mark.cpu
@pytest.mark.parametrize("value", ["pentium", "AVX-512", "scalar,avx2"])
def test_unknown_instruction_set(value, monkeypatch):
    monkeypatch.setenv("RNNKERN_ISA", value)
    for call in (_C.active_backend, lambda: _C.forward("lstm", *good(), False)):
        assert_says(call, "RNNKERN_ISA", re.escape(value), *_C.backends())


@pytest.mark.cpu
def test_instruction_set_of_another_machine(monkeypatch):
    """Names that exist, but not here: an x86 has no neon, an Arm no avx2."""
    absent = {"neon", "avx2", "avx512"} - set(_C.backends())
    assert absent
    for name in absent:
        monkeypatch.setenv("RNNKERN_ISA", name)
        assert_says(lambda: _C.forward("lstm", *good(), False), "RNNKERN_ISA", *_C.backends())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("where", ["x", "h0", "w_ih", "w_hh", "b_ih"])
@pytest.mark.usefixtures("backend")
def test_what_is_not_finite_shows_where_torch_shows_it(cell, where, value):
    """In the outputs: NaN and infinity at the same places, the same numbers elsewhere."""
    layer = Problem(cell, N=3, H=19).layer
    x, h0, w_ih, w_hh, b_ih = layer.x, layer.states[0], *layer.weights[:3]
    target = {"x": x, "h0": h0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih}[where]
    target.view(-1)[target.numel() // 2] = value
    for mine, other in zip(_C.forward(cell, *layer, False), torch_layer(cell, layer), strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.usefixtures("backend")
def test_nan_stays_in_its_row(cell):
    """A NaN in one row of the batch changes no bit of the others, forward or backward."""
    problem = Problem(cell, N=9, H=19)
    clean, dirty = problem.layer, problem.layer
    dirty.x[1, 4] = torch.nan
    rows = [n for n in range(9) if n != 4]
    results = []
    for layer in (clean, dirty):
        layer.x.requires_grad_()
        y = recurrence(cell, *layer)[0]
        (dx,) = torch.autograd.grad(y.square().sum(), layer.x)
        results.append([y[:, rows].detach(), dx[:, rows]])
        assert torch.isnan(y[1:, 4]).all() == (layer is dirty)
    assert_same_bits(*results)


@pytest.mark.parametrize("name", RNNS)
def test_nan_of_padding_does_not_leak(name):
    """What lies behind the end of a sequence in the padded tensor is never read."""
    _, module = pair(name, 4, 3)
    x = torch.full((5, 2, 4), torch.nan, dtype=torch.float64)
    x[:3, 0] = x[:1, 1] = 0.5
    sequences = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 1]))
    assert all(torch.isfinite(t).all() for t in leaves(module(sequences)))


# A process has 2**47 bytes of addresses, so 2**48 cannot be had on any machine; the other is a
# number of bytes beyond 64 bits.
@pytest.mark.parametrize("T", [2**24, 2**40], ids=["2**48-bytes", "2**64-bytes"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_more_memory_than_there_is(cell, T, training):
    N = 2**22
    x, _, states, weights = Problem(cell, T=1, N=1, I=1, H=1).layer
    huge = Layer(x.expand(T, N, 1), None, [s.expand(1, N, 1) for s in states], weights)
    with pytest.raises((RuntimeError, MemoryError), match=r"(?i)memory|alloc|overflow|too large"):
        _C.forward(cell, *huge, training)


def test_negative_views_are_read_as_their_values(cell):
    """Tensors with the lazy minus sign, as the imaginary part of a conjugate has."""
    layer = Problem(cell).layer
    negative = layer.map(lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag)
    assert negative.x.is_neg()
    assert_same_bits(_C.forward(cell, *negative, False), _C.forward(cell, *layer, False))


def test_unused_memory_around_a_view_does_not_matter(cell):
    """Weights cut out of larger tensors that hold NaN."""
    problem = Problem(cell, N=5, H=9)
    layer = problem.layer

    def frame(t):
        around = torch.full([n + 6 for n in t.shape], torch.nan)
        inner = around[tuple(slice(3, 3 + n) for n in t.shape)]
        return inner.copy_(t)

    assert_same_bits(_C.forward(cell, *layer.map(frame), False), _C.forward(cell, *layer, False))


@pytest.mark.parametrize("name", RNNS)
def test_weights_of_wrong_shape_in_a_module(name):
    _, module = pair(name, 4, 3)
    module.weight_hh_l0 = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(RAISED, match=r"w(eight)?_hh"):
        module(torch.zeros(5, 2, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", RNNS)
def test_module_and_input_on_different_devices(name):
    module = getattr(rnnkern, name)(4, 3)
    with pytest.raises(RAISED, match=r"(?i)device"):
        module(torch.zeros(5, 2, 4, device="meta"))
    with pytest.raises(RAISED, match=r"(?i)device"):
        module.to("meta")(torch.zeros(5, 2, 4))


def test_zero_rows_and_bad_sizes_still_raise():
    """No shortcut for N = 0 before the checks."""
    layer = Problem("lstm", T=T, N=0, I=I, H=H).layer
    assert_says(lambda: _C.forward("lstm", *layer._replace(x=layer.x[..., :3]), False), INPUT)
    with pytest.raises(RAISED):
        _C.forward("lstm", *layer._replace(states=[s[..., :2] for s in layer.states]), False)


def test_batch_sizes_are_checked_by_the_functions():
    layer = packed()
    params = layer.weights[:4]
    hx = tuple(layer.states)
    for wrong in ([1, 2, 2], [2, 2, 2], [5]):
        with pytest.raises(RAISED, match=r"batch_sizes|hidden"):
            rnnkern.functional.lstm(layer.x, hx, params, batch_sizes=torch.tensor(wrong))
    right = batch_sizes_of((3, 2))
    y = rnnkern.functional.lstm(layer.x, hx, params, batch_sizes=right)[0]
    assert_accurate(y, y, y.double())


def test_zeros_without_memory():
    """autograd makes such tensors; torch's functions take them."""
    gru = rnnkern.GRU(3, 4)
    zeros = torch._efficientzerotensor((5, 2, 3))
    with torch.no_grad():
        expected = gru(torch.zeros(5, 2, 3))[0]
        assert torch.equal(gru(zeros)[0], expected)
        assert torch.equal(
            gru(torch.zeros(5, 2, 3), torch._efficientzerotensor((1, 2, 4)))[0], expected
        )


def test_a_failed_call_keeps_nothing_alive():
    x, hx = torch.ones(5, 2, 3), torch.ones(2, 2, 4)
    gone = weakref.ref(hx)
    with pytest.raises(RuntimeError, match="hidden size"):
        rnnkern.GRU(3, 4)(x, hx)
    gc.disable()
    try:
        del hx
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=str)
def test_autocast_does_not_make_floats_of_integers(dtype):
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="dtype"):
        rnnkern.GRU(3, 4)(torch.ones(2, 1, 3, dtype=dtype))


@pytest.mark.cpu
@pytest.mark.skipif(_C.cuda_version() is not None, reason="this build has CUDA")
def test_a_tensor_of_a_gpu_in_a_build_without_cuda():
    """Such a PyTorch makes only fake ones; the kernel is called past what is there for those."""
    with FakeTensorMode():
        layer = good().map(lambda t: torch.empty(t.shape, device="cuda"))
    text = "input: expected device cpu, got cuda:0. This build .* no CUDA.* install it .* nvcc"
    kernel = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    call = ("lstm", layer.x, None, layer.states, layer.weights[:4], [0, 1, 2, 3], False)
    with pytest.raises(RuntimeError, match=text):
        torch.ops.rnnkern.layer.default.redispatch(kernel, *call)


def test_the_package_says_whether_it_has_cuda():
    version = rnnkern.cuda_version
    assert version is None or re.fullmatch(r"\d+\.\d+", version)
