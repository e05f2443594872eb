"""Fixtures of the whole suite: what the extension offers, one seed, two threads, dirty memory.

Cells and backends come from the extension itself, so a new one is tested without an edit. A backend
is an instruction set of the CPU, the emulation of the CUDA kernels, or a GPU where there is one;
--backend NAME runs the whole suite on that one, tests that ask for no backend too.
"""

import ctypes
import gc

import problems
import pytest
import torch
from cuda_emulation import build

from rnnkern import _C, autograd

DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}
MALLOPT_PERTURB = -6
EMULATION, GPU = "emulation", "cuda"
BACKENDS = [*_C.backends(), EMULATION]
if torch.cuda.is_available() and _C.cuda_version() is not None:
    BACKENDS.append(GPU)


def pytest_addoption(parser):
    parser.addoption("--backend", choices=BACKENDS, help="run everything on this backend")


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        only = metafunc.config.getoption("backend")
        metafunc.parametrize("backend", [only] if only else BACKENDS, indirect=True)


def pytest_configure(config):
    config.addinivalue_line("markers", "cpu: asks for what only the CPU's kernels have")
    config.addinivalue_line("markers", "own_device: chooses devices itself, whatever the backend")
    # What torch says once about itself, and about the peer in comparisons.
    for text in (
        "LSTM with projections is not supported with oneDNN",
        "RNN module weights are not part of single contiguous chunk",
        "Synchronization debug mode is a prototype feature",
    ):
        config.addinivalue_line("filterwarnings", f"ignore:{text}:UserWarning")


def pytest_collection_finish():
    """Garbage collection leaves out the tests themselves and what they imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def repeatable(request, monkeypatch):
    """The same seed and thread count before every test; whatever a test sets is undone."""
    monkeypatch.delenv("RNNKERN_ISA", raising=False)
    monkeypatch.delenv("RNNKERN_CUDA_STRATEGY", raising=False)
    monkeypatch.setattr(problems, "DEVICE", "cpu")
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    only = request.config.getoption("backend")
    if only and not request.node.get_closest_marker("own_device"):
        if request.node.get_closest_marker("cpu") and only not in _C.backends():
            pytest.skip("a test of the CPU's kernels")
        switch_to(only, monkeypatch)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def backend(request, monkeypatch, repeatable):
    """Every backend this machine has, in turn."""
    switch_to(request.param, monkeypatch)
    return request.param


def switch_to(backend, monkeypatch):
    """Sends every call of a kernel to the backend, whatever calls it."""
    if backend == EMULATION:
        emulated = build.emulated()
        emulated.set_differentiable_backward(autograd._differentiable_backward)
        for name in ("recurrence", "forward", "backward"):
            monkeypatch.setattr(_C, name, getattr(emulated, name))
    elif backend == GPU:
        monkeypatch.setattr(problems, "DEVICE", GPU)
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
        for name in ("forward", "backward"):
            monkeypatch.setattr(_C, name, on_device(getattr(_C, name), GPU))
        # The node in C++ would look for gradients on the other side of the copies.
        monkeypatch.setattr(autograd, "_is_transformed", lambda: True)
    else:
        monkeypatch.setenv("RNNKERN_ISA", backend)


def on_device(function, device):
    """The function on copies of its tensors on a device, with results copied back to the CPU."""

    def call(cell, x, sizes, *rest):
        results = function(cell, moved(x, device), sizes, *moved(rest, device))
        return moved(results, "cpu")

    return call


def moved(value, device):
    """The tensors of a call on a device, with gaps and strides as they are."""
    if isinstance(value, (list, tuple)):
        return [moved(v, device) for v in value]
    if not isinstance(value, torch.Tensor) or value.is_meta:
        return value
    if value.is_contiguous() or value.is_neg() or value.layout != torch.strided:
        return value.to(device)
    whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
    return whole.to(device).as_strided(value.shape, value.stride(), value.storage_offset())


@pytest.fixture(params=sorted(_C.cells()))
def cell(request):
    return request.param


@pytest.fixture(params=DTYPES.values(), ids=DTYPES.keys())
def dtype(request):
    return request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture
def poisoned():
    """Fresh memory is dirty: torch.empty gives NaN, and malloc gives huge numbers under glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
    torch.use_deterministic_algorithms(True)
    mallopt(MALLOPT_PERTURB, 1)
    yield
    mallopt(MALLOPT_PERTURB, 0)
    torch.use_deterministic_algorithms(False)
