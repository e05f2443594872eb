"""Fixtures of the whole suite: what the extension offers, one seed, two threads, dirty memory.

Cells and instruction sets come from the extension itself, so a new one is tested without an edit.
"""

import ctypes

import pytest
import torch

from rnnkern import _C

DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}
MALLOPT_PERTURB = -6


def pytest_configure(config):
    """What torch.nn, the peer in comparisons, says once about itself."""
    text = "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
    config.addinivalue_line("filterwarnings", text)


@pytest.fixture(autouse=True)
def repeatable(monkeypatch):
    """The same seed and thread count before every test; whatever a test sets is undone."""
    monkeypatch.delenv("RNNKERN_ISA", raising=False)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=_C.backends())
def isa(request, monkeypatch):
    """Every instruction set this machine has, forced in turn."""
    monkeypatch.setenv("RNNKERN_ISA", request.param)
    return request.param


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
