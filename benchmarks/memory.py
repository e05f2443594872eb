"""Peak memory of a training step: `python -m benchmarks.memory` asks a fresh process each.

The figure is how far the step raises the process's peak of resident memory above what it was with
the module and its input built and one small step done. Linux's VmHWM tells it; ru_maxrss would
start from the peak of the process that started this one.
"""

import re
import subprocess
import sys
from pathlib import Path

import torch

from .contenders import BASELINE, MODULES, OURS, contenders
from .shapes import CELLS, TRAINING, Shape, make_problem

SHAPE = Shape(1000, 32, 256)
WARM_UP = Shape(2, 32, 256)
STATUS = Path("/proc/self/status")


def peak() -> int:
    """This process's highest resident memory so far, in bytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
    assert found, "Linux has this line"
    return int(found[1]) * 1024


def measure_here(name: str, cell: str, shape: Shape) -> int:
    """Bytes that a training step of a contender adds to this process's peak."""
    (contender,) = (each for each in contenders() if each.name == name)
    contender.job(make_problem(cell, WARM_UP), TRAINING).run()
    job = contender.job(make_problem(cell, shape), TRAINING)
    before = peak()
    job.run()
    return peak() - before


def measure(threads: int) -> dict[str, dict[str, int]]:
    """Bytes by cell and contender; nothing where the system does not tell."""
    if not STATUS.exists():
        return {}
    return {cell: {name: ask(name, cell, threads) for name in (OURS, BASELINE)} for cell in CELLS}


def ask(name: str, cell: str, threads: int) -> int:
    """`measure_here` in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, name, cell, str(threads)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    return int(done.stdout)


def as_text(found: dict[str, dict[str, int]]) -> str:
    """A line a cell, in MiB."""
    lines = [f"peak memory of a training step, {SHAPE}, MiB above the module and its input"]
    for cell, sizes in found.items():
        each = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in sizes.items())
        lines.append(f"{MODULES[cell]:<5} {each}, ratio {sizes[BASELINE] / sizes[OURS]:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:]:
        name, cell, threads = sys.argv[1:]
        torch.set_num_threads(int(threads))
        print(measure_here(name, cell, SHAPE))
    else:
        print(as_text(measure(torch.get_num_threads())))
