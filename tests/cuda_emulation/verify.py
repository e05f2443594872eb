"""Runs an emulated extension on small problems: `python -m cuda_emulation.verify LIBRARY`.

Exit status 0: every result is right; 1: one is wrong, or a call failed.
"""

import importlib.util
import sys
from types import ModuleType

import torch
from problems import Problem, exact, exact_gradients, our_gradients, ours

from rnnkern import _C

NAME = "rnnkern_emulated"
LENGTHS = (7, 5, 5, 2, 1)


def load(library: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_problems() -> list[Problem]:
    """Every cell padded and packed, in both directions, over several chunks and blocks."""
    problems = []
    for cell, traits in _C.cells().items():
        problems += [
            Problem(cell, torch.float64, T=9, N=3, H=140, D=2),
            Problem(cell, torch.float64, H=8, D=2, lengths=LENGTHS),
            Problem(cell, torch.float64, T=130, N=5, H=40),
        ]
        if traits["projection"]:
            problems += [
                Problem(cell, torch.float64, N=5, H=33, P=7, D=2),
                Problem(cell, torch.float64, H=9, P=4, D=2, lengths=LENGTHS),
            ]
    return problems


def first_wrong(problem: Problem) -> str | None:
    """The name of a result that is not right to 1e-9 of its size."""
    names = [*problem.output_names, *problem.names]
    found = [*ours(problem, training=True), *our_gradients(problem)]
    truth = [*exact(problem), *exact_gradients(problem)]
    inference = ours(problem)
    for name, mine, right in zip(
        [*names, *problem.output_names],
        [*found, *inference],
        [*truth, *exact(problem)],
        strict=True,
    ):
        if right is None:
            continue
        size = max(1.0, right.abs().max().item())
        if not torch.isfinite(mine).all() or (mine - right).abs().max().item() > 1e-9 * size:
            return name
    return None


def main(library: str) -> int:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fresh tensors are NaN
    emulated = load(library)
    _C.forward, _C.backward = emulated.forward, emulated.backward  # type: ignore[attr-defined]
    for problem in small_problems():
        try:
            wrong = first_wrong(problem)
        except RuntimeError as error:
            wrong = str(error)
        if wrong is not None:
            print(f"{problem}: {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
