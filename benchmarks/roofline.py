"""What this machine can do at most: `python -m benchmarks.roofline` measures and prints it.

One thread a core runs roofline.cpp, compiled here for the widest vectors of the machine. Without a
C++ compiler there is no limit, and rows say nothing about it.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from rnnkern import _C

from . import machine
from .shapes import TRAINING, Shape

FLAGS = {
    "avx512": ["-mavx512f", "-DBYTES=64"],
    "avx2": ["-mavx2", "-mfma", "-DBYTES=32"],
    "scalar": ["-DBYTES=16"],
}
SIZES = [2**power for power in range(14, 28)]
"""Bytes that a thread reads again and again: from half of a first-level cache to memory."""
DTYPES = {"float32": 4, "float64": 8}
TRIALS, SECONDS = 15, 0.01
"""The best of so many trials of so many seconds: neighbours and clocks only ever slow one down."""


@dataclass(frozen=True)
class Roofline:
    """Peaks of all threads together."""

    threads: int
    flops: dict[str, float]
    """By dtype: operations per second; a multiply-add is two."""
    bandwidth: list[list[float]]
    """What all threads read together, in bytes, each its own part again and again, and the bytes
    per second: a step for each level of the caches, and last the memory's."""

    def seconds(self, dtype: str, flops: float, read: float, fits: float) -> float:
        """At least what a phase takes that reads `read` bytes from a set of `fits` bytes."""
        at_least = [rate for size, rate in self.bandwidth if size >= fits]
        rate = max(at_least, default=self.bandwidth[-1][1])
        return max(flops / self.flops[dtype], read / rate)

    def limit(self, cell: str, shape: Shape, mode: str) -> float:
        """Seconds in which this machine could run a row at the very best.

        The sum over the phases of each layer and direction of max(flops / peak, bytes / bandwidth),
        where the bandwidth is that of the level of the caches in which the phase's weights fit:

        - input projection: 2 M I GH flops; reads w_ih once;
        - recurrent steps: 2 M R GH flops, and 2 M H P for a projection; read w_hh (w_hr) each step;
        - in training also the same once more for the recurrence backwards, dx (the flops and bytes
          of the input projection), and dW (the flops of both; no weights are read).

        Reading x, writing y, what is kept for backward, packing of weights and the exponentials
        count nothing, and the phases do not overlap. Nothing reaches it, then, and the fewer the
        flops a byte of the sequence, the further from it everything stays.
        """
        steps, rows = len(shape.batch_sizes()), int(shape.batch_sizes().sum())
        size, gates = DTYPES[shape.dtype], _C.cells()[cell]["gates"] * shape.H
        recurrent = gates * shape.R + shape.H * shape.P

        def phase(weights: int, times_read: int) -> float:
            read = size * weights
            return self.seconds(shape.dtype, 2.0 * rows * weights, times_read * read, read)

        total = 0.0
        for layer in range(shape.L):
            inputs = gates * shape.input_size(layer)
            forward = phase(inputs, 1) + phase(recurrent, steps)
            backward = forward + phase(inputs + recurrent, 0) if mode == TRAINING else 0.0
            total += shape.D * (forward + backward)
        return total


class NoCompiler(Exception):
    """Nothing compiled roofline.cpp; the text says why."""


def build(folder: Path) -> ctypes.CDLL:
    """roofline.cpp for the widest vectors that this machine has."""
    library = folder / "roofline.so"
    flags = ["-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC"]
    flags += FLAGS.get(_C.backends()[0], FLAGS["scalar"])
    source = Path(__file__).with_suffix(".cpp")
    try:
        subprocess.run(
            ["c++", *flags, "-o", library, source], check=True, capture_output=True, text=True
        )
    except OSError as error:
        raise NoCompiler(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise NoCompiler(error.stderr) from error
    compiled = ctypes.CDLL(str(library))
    for dtype in DTYPES:
        function = getattr(compiled, f"flops_{dtype}")
        function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    compiled.read_bandwidth.argtypes = [ctypes.c_size_t, ctypes.c_double]
    compiled.read_bandwidth.restype = ctypes.c_double
    return compiled


def together(threads: int, work: Callable[[], float]) -> float:
    """The sum of what all threads reach at the same time, in the best trial."""
    barrier = threading.Barrier(threads)

    def one() -> float:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        trials = [
            sum(run.result() for run in [pool.submit(one) for _ in range(threads)])
            for _ in range(TRIALS)
        ]
    return max(trials)


def measure(threads: int) -> Roofline:
    """Takes a few seconds; raises NoCompiler."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = build(Path(folder))
        flops = {
            dtype: together(threads, partial(getattr(compiled, f"flops_{dtype}"), SECONDS))
            for dtype in DTYPES
        }
        bandwidth = [
            [size * threads, together(threads, partial(compiled.read_bandwidth, size, SECONDS))]
            for size in SIZES
        ]
    return Roofline(threads, flops, bandwidth)


def load(path: Path, threads: int, again: bool = False) -> Roofline:
    """What was measured before with so many threads, else measured now and added to the file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    if again or str(threads) not in known:
        known[str(threads)] = asdict(measure(threads))
        path.write_text(json.dumps(known, indent=1) + "\n")
    return Roofline(**known[str(threads)])


def path_of(cpu: str) -> Path:
    """The machine's file."""
    return machine.results_path(cpu, "roofline")


def main() -> None:
    """Measure afresh, save and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    path = path_of(machine.cpu_facts()[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        roofline = load(path, threads, again=True)
    except NoCompiler as error:
        sys.exit(f"not measured: {error}")
    print("threads", threads)
    for dtype, flops in roofline.flops.items():
        print(f"{dtype}: {flops / 1e9:.0f} GFLOP/s")
    for size, rate in roofline.bandwidth:
        print(f"read from {size / 2**10:>7.0f} KiB: {rate / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
