"""Claim: `python -m rnnkern` tells what is installed, and a wrong result from a right one."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import EMULATION, switch_to
from cuda_emulation import build

import rnnkern
from rnnkern import _C, __main__, autograd

ROOT = Path(__file__).resolve().parents[1]
NAMES = {str(case) for case in __main__.cases()}


@pytest.fixture(autouse=True)
def single_thread():
    """Quicker where other processes want the cores too."""
    torch.set_num_threads(1)


def spoiled(recurrence, is_spoiled, index):
    """recurrence, with one of its outputs off where the cell and the environment ask for it."""

    def call(cell, x, *rest):
        outputs = recurrence(cell, x, *rest)
        if is_spoiled(cell):
            outputs[index] = outputs[index] * (1 + 1e-4)
        return outputs

    return call


def with_wrong_gradients(recurrence):
    def call(cell, x, batch_sizes, states, weights):
        weights = [weights[0] * 2 - weights[0].detach(), *weights[1:]]
        return recurrence(cell, x, batch_sizes, states, weights)

    return call


def failing(capsys):
    """Names of the cases that main says have failed, and its status."""
    status = __main__.main()
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("self-test:"))
    names = {line.strip().partition(":")[0] for line in lines[start + 1 :]}
    assert f"{len(names)} FAILED" in lines[start] or "all right" in lines[start]
    return names, status


def test_the_command():
    environment = {"RNNKERN_ISA": "scalar", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rnnkern"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part in (rnnkern.__version__, torch.__version__, *_C.backends(), "scalar is active"):
        assert part in done.stdout
    assert "threads:          1 of" in done.stdout
    assert "OMP_NUM_THREADS=1, RNNKERN_ISA=scalar" in done.stdout
    assert f"{len(NAMES)} cases, all right" in done.stdout


def test_it_runs_every_cell_everywhere():
    forms = ("padded", "packed")
    for cell, backend, dtype, form in product(
        _C.cells(), _C.backends(), ("float32", "float64"), forms
    ):
        assert f"{cell} {backend} {dtype} {form}" in NAMES
    assert "lstm scalar float32 projected" in NAMES
    assert "gru scalar float32 projected" not in NAMES


@pytest.mark.parametrize("index", [0, 1])
def test_a_wrong_output_of_a_cell_is_found(index, capsys, monkeypatch):
    wrong = spoiled(autograd.recurrence, lambda cell: cell == "gru", index)
    monkeypatch.setattr(autograd, "recurrence", wrong)
    assert failing(capsys) == ({name for name in NAMES if name.startswith("gru ")}, 1)


def test_a_wrong_instruction_set_is_found(capsys, monkeypatch):
    def is_spoiled(cell):
        return os.environ.get("RNNKERN_ISA") == "scalar"

    monkeypatch.setattr(autograd, "recurrence", spoiled(autograd.recurrence, is_spoiled, 0))
    assert failing(capsys) == ({name for name in NAMES if " scalar " in name}, 1)


def test_a_wrong_gradient_is_found(capsys, monkeypatch):
    monkeypatch.setattr(autograd, "recurrence", with_wrong_gradients(autograd.recurrence))
    assert failing(capsys) == (NAMES, 1)


def test_a_case_that_raises_is_named(capsys, monkeypatch):
    def raising(cell, *rest):
        if cell == "lstm":
            raise RuntimeError("no kernel image")
        return recurrence(cell, *rest)

    recurrence = autograd.recurrence
    monkeypatch.setattr(autograd, "recurrence", raising)
    assert __main__.main() == 1
    assert "lstm scalar float64 packed: no kernel image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wanted", [{}, {"RNNKERN_ISA": "scalar", "RNNKERN_CUDA_STRATEGY": "cluster"}]
)
def test_the_environment_is_left_as_it_was(wanted, capsys, monkeypatch):
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(2)
    __main__._expected.cache_clear()
    before = dict(os.environ)
    assert failing(capsys) == (set(), 0)
    assert (dict(os.environ), torch.get_num_threads()) == (before, 2)


def test_an_unknown_instruction_set_is_an_error(capsys, monkeypatch):
    monkeypatch.setenv("RNNKERN_ISA", "sse9")
    assert __main__.main() == 1
    assert "every call fails: RNNKERN_ISA: expected one of" in capsys.readouterr().out


@pytest.fixture
def gpu(monkeypatch):
    """One that PyTorch tells of."""
    facts = SimpleNamespace(
        name="G1", multi_processor_count=7, total_memory=2**31, major=9, minor=1
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: facts)
    monkeypatch.setattr(rnnkern, "cuda_version", "13.0")


def test_the_strategies_of_a_gpu_are_told(gpu, monkeypatch):
    monkeypatch.setattr(__main__, "_GPU", "H200")
    told = dict(__main__.facts())
    assert told["GPU"] == "G1, compute capability 9.1, 7 multiprocessors, 2 GiB"
    assert told["  strategy"] == "cluster"
    assert "  stepwise" in told
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fastest")
    assert "fastest" in dict(__main__.facts())["  refused"]


@pytest.mark.parametrize(
    ("cell", "dtype", "form", "strategies"),
    [
        ("gru", torch.bfloat16, "padded", {"cluster", "persistent", "fused", "stepwise"}),
        ("lstm", torch.float16, "packed", {"fused", "stepwise"}),
        ("rnn_tanh", torch.float32, "padded", {"cluster", "persistent", "stepwise"}),
        ("lstm", torch.bfloat16, "projected", {"stepwise"}),
        ("lstm", torch.float64, "padded", {"stepwise"}),
    ],
)
def test_all_that_a_gpu_can_do_is_tested(cell, dtype, form, strategies, gpu, monkeypatch):
    monkeypatch.setattr(__main__, "_GPU", "H200")
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "stepwise")
    found = [
        case.strategy
        for case in __main__.cases()
        if (case.cell, case.dtype, case.form, case.backend) == (cell, dtype, form, "H200")
    ]
    assert len(found) == len(strategies)
    assert set(found) == strategies
    assert os.environ["RNNKERN_CUDA_STRATEGY"] == "stepwise"


def test_every_strategy_is_run(gpu, monkeypatch):
    """By the emulated GPU, whose tensors are the CPU's."""
    switch_to(EMULATION, monkeypatch)
    explain = build.emulated().explain
    monkeypatch.setattr(_C, "explain", lambda *problem: explain(*problem[:-1], "cuda"))
    monkeypatch.setattr(__main__, "_GPU", "cpu")
    cases = [case for case in __main__.cases() if case.strategy and case.cell == "gru"]
    assert {case.strategy for case in cases} == {"cluster", "persistent", "fused", "stepwise"}
    assert [(str(case), found) for case in cases if (found := __main__.failure(case))] == []


def test_a_gpu_is_tested(gpu, capsys, monkeypatch):
    """With the CPU in its place."""
    monkeypatch.setattr(__main__, "_GPU", "cpu")
    monkeypatch.setattr(__main__, "_strategies", lambda *case: ["fused", "stepwise"])
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "cluster")

    def is_spoiled(cell):
        is_gpu = "RNNKERN_ISA" not in os.environ
        strategy = os.environ.get("RNNKERN_CUDA_STRATEGY")
        return is_gpu and strategy == "fused" and torch.backends.cudnn.rnn.fp32_precision == "ieee"

    monkeypatch.setattr(autograd, "recurrence", spoiled(autograd.recurrence, is_spoiled, 0))
    before = torch.backends.cudnn.rnn.fp32_precision
    status = __main__.main()
    assert torch.backends.cudnn.rnn.fp32_precision == before
    text = capsys.readouterr().out
    assert "lstm cpu fused float32 padded: error" in text
    assert "gru cpu fused float64 packed: error" in text
    assert "lstm cpu stepwise" not in text
    assert "lstm scalar float32 padded" not in text
    assert status == 1
