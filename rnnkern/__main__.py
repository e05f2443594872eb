"""What is installed here, and whether it computes what it should: `python -m rnnkern`.

The self-test runs every cell on every instruction set, and where the build has CUDA by every
strategy of the GPU, forward and backward against `rnnkern.reference` in float64. The status is 1
where something is off.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import rnnkern
from rnnkern import _C, accuracy, autograd, reference

_READ_BY_US = ("RNNKERN_ISA", "RNNKERN_CUDA_STRATEGY")
_OF_INTEREST = ("RNNKERN_", "OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "CUDA_VISIBLE_DEVICES")

# Several chunks of registers with a rest, and lengths with gaps between them.
_T, _N, _I, _H, _P, _D = 9, 10, 5, 35, 11, 2
_LENGTHS = torch.tensor([9, 9, 7, 7, 6, 3, 3, 2, 1, 1])

_GPU = "cuda"


def main() -> int:
    """Prints facts and the result of the self-test; the status to exit with."""
    for term, value in facts():
        print(f"{term + ':':<18}{value}")
    start = time.perf_counter()
    found = {str(case): failure(case) for case in cases()}
    failures = [f"{name}: {text}" for name, text in found.items() if text is not None]
    if (refusal := _refusal()) is not None:
        failures.append(refusal)
    verdict = f"{len(failures)} FAILED" if failures else "all right"
    print(f"{'self-test:':<18}{len(found)} cases, {verdict}, {time.perf_counter() - start:.1f} s")
    for text in failures:
        print(f"  {text}")
    return 1 if failures else 0


# ---- facts ---------------------------------------------------------------------------------------


def facts() -> Iterator[tuple[str, str]]:
    """What tells one installation from another, as terms and values."""
    yield "rnnkern", f"{rnnkern.__version__}, {_C.__file__}"
    yield (
        "PyTorch",
        f"{torch.__version__}, Python {platform.python_version()}, {platform.platform()}",
    )
    yield "built for CUDA", rnnkern.cuda_version or "no"
    active = _refusal() or f"{_C.active_backend()} is active"
    yield "instruction sets", f"{', '.join(_C.backends())}; {active}"
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    yield from _gpu_facts()
    names = sorted(name for name in os.environ if name.startswith(_OF_INTEREST))
    yield "environment", ", ".join(f"{name}={os.environ[name]}" for name in names) or "nothing set"


def _refusal() -> str | None:
    """Why every call fails, if the environment asks for an instruction set that is not here."""
    try:
        _C.active_backend()
    except RuntimeError as error:
        return f"every call fails: {error}"
    return None


def _gpu_facts() -> Iterator[tuple[str, str]]:
    if not torch.cuda.is_available():
        yield "GPU", "none that PyTorch can use"
        return
    gpu = torch.cuda.get_device_properties()
    size = f"{gpu.multi_processor_count} multiprocessors, {gpu.total_memory / 2**30:.0f} GiB"
    yield "GPU", f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {size}"
    if rnnkern.cuda_version is None:
        return
    yield "", "where an LSTM of T=100 N=32 H=256 in bfloat16 would run so:"
    try:
        lines = _C.explain("lstm", torch.bfloat16, [32] * 100, 256, 256, 0, 1, _GPU)
    except RuntimeError as error:
        lines = [("", ""), ("refused", str(error))]
    yield from ((f"  {term}", value) for term, value in lines[1:])


# ---- self-test -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One layer in both directions: of a cell, on an instruction set or a GPU, in a dtype.

    form is "padded", "packed" or "projected"; strategy is a GPU's.
    """

    cell: str
    backend: str
    dtype: torch.dtype
    form: str
    strategy: str | None = None

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return " ".join(filter(None, (self.cell, self.backend, self.strategy, dtype, self.form)))


def cases() -> list[Case]:
    """Whatever can run here."""
    layers = [
        (cell, form)
        for cell, traits in _C.cells().items()
        for form in ["padded", "packed", *["projected"] * traits["projection"]]
    ]
    found = [
        Case(cell, backend, dtype, form)
        for backend in _C.backends()
        for dtype in (torch.float32, torch.float64)
        for cell, form in layers
    ]
    if torch.cuda.is_available() and rnnkern.cuda_version is not None:
        found += [
            Case(cell, _GPU, dtype, form, strategy)
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
            for cell, form in layers
            for strategy in _strategies(cell, dtype, form)
        ]
    return found


def _strategies(cell: str, dtype: torch.dtype, form: str) -> list[str]:
    """Those by which the GPU can run a case."""
    sizes = _batch_sizes().tolist() if form == "packed" else [_N] * _T
    with _running_on(_GPU, None):
        lines = dict(_C.explain(cell, dtype, sizes, _I, _H, _P * (form == "projected"), _D, _GPU))
    return [
        lines["strategy"],
        *(name for name, why in lines.items() if why.startswith("possible, ")),
    ]


def failure(case: Case) -> str | None:
    """What is wrong with a case, by the rule of `rnnkern.accuracy`; None if nothing is."""

    def draw(number: int) -> list[float]:
        device = _GPU if case.backend == _GPU else "cpu"
        problem = case.cell, case.form, number, case.dtype
        ours = _results(autograd.recurrence, *problem, case.dtype, device)
        peer, exact = _expected(*problem, case.dtype), _expected(*problem, torch.float64)
        return [accuracy.excess(*each) for each in zip(ours, peer, exact, strict=True)]

    try:
        with _running_on(case.backend, case.strategy):
            # 16 bits may put a state on the other side of a jump, as of relu's derivative.
            jumps = case.dtype.itemsize == 2
            found = max(accuracy.settled(draw, only_median=jumps))
    except RuntimeError as error:
        return str(error)
    return None if found <= 1 else f"error {found:.2f} times what is allowed"


@contextmanager
def _running_on(backend: str, strategy: str | None) -> Iterator[None]:
    """Without what the environment asks for, nor TF32."""
    before = {name: os.environ.pop(name, None) for name in _READ_BY_US}
    cudnn: Any = torch.backends.cudnn.rnn
    precision = cudnn.fp32_precision
    if backend == _GPU:
        cudnn.fp32_precision = "ieee"
    else:
        os.environ["RNNKERN_ISA"] = backend
    if strategy is not None:
        os.environ["RNNKERN_CUDA_STRATEGY"] = strategy
    try:
        yield
    finally:
        cudnn.fp32_precision = precision
        for name in _READ_BY_US:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


@cache
def _expected(
    cell: str, form: str, draw: int, drawn: torch.dtype, dtype: torch.dtype
) -> list[Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where other processes want the cores, threads wait for each other
    try:
        return _results(reference.layer, cell, form, draw, drawn, dtype, "cpu")
    finally:
        torch.set_num_threads(threads)


def _results(
    layer: Callable[..., list[Tensor]],
    cell: str,
    form: str,
    draw: int,
    drawn: torch.dtype,
    dtype: torch.dtype,
    device: str,
) -> list[Tensor]:
    """Outputs and gradients of a layer, the same whoever computes them but for rounding.

    Its inputs are numbers of the dtype `drawn`, and it computes in `dtype`.
    """
    generator = torch.Generator().manual_seed(draw)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        numbers = (scale * torch.randn(shape, generator=generator)).to(drawn)
        return numbers.to(device, dtype).requires_grad_()

    traits = _C.cells()[cell]
    R = _P if form == "projected" else _H
    batch_sizes = None
    x = normal(_T, _N, _I)
    if form == "packed":
        batch_sizes = _batch_sizes()
        x = normal(int(_LENGTHS.sum()), _I)
    states = [normal(_D, _N, size) for size in [R, *[_H] * (traits["states"] - 1)]]
    rows = traits["gates"] * _H
    shapes = [(rows, _I), (rows, R), (rows,), (rows,), *[(_P, _H)] * (form == "projected")]
    weights: list[Tensor | None] = []
    for _ in range(_D):
        weights += [normal(*shape, scale=_H**-0.5) for shape in shapes]
        weights += [None] * (5 - len(shapes))
    outputs = layer(cell, x, batch_sizes, states, weights)
    wanted = [x, *states, *(weight for weight in weights if weight is not None)]
    cotangents = [normal(*output.shape).detach() for output in outputs]
    gradients = torch.autograd.grad(outputs, wanted, cotangents)
    return [result.detach().cpu() for result in (*outputs, *gradients)]


def _batch_sizes() -> Tensor:
    """Sequences that are alive at each step."""
    return (torch.arange(_T)[:, None] < _LENGTHS).sum(1)


if __name__ == "__main__":
    sys.exit(main())
