"""Runs an emulated extension on small problems.

    python -m cuda_emulation.verify LIBRARY [STRATEGY ...]

With all strategies, or those that are named. Exit status 0: every result is right; 1: one is wrong,
or a call failed.
"""

import os
import sys
from pathlib import Path

import torch
from problems import Problem, exact, exact_gradients, our_gradients, ours

from cuda_emulation import build
from rnnkern import _C

LENGTHS = (7, 5, 5, 2, 1)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}


def small_problems() -> list[tuple[str, Problem]]:
    """A strategy and a problem: every cell in both directions, over several blocks and chunks."""
    problems = []
    for cell, traits in _C.cells().items():
        stepwise = [
            Problem(cell, torch.float64, T=9, N=3, H=140, D=2),
            Problem(cell, torch.float64, H=8, D=2, lengths=LENGTHS),
            Problem(cell, torch.float64, T=20, N=5, H=40),
            Problem(cell, torch.float64, T=130, N=5, I=1, H=2),
        ]
        if traits["projection"]:
            stepwise += [
                Problem(cell, torch.float64, N=5, H=33, P=7, D=2),
                Problem(cell, torch.float64, H=9, P=4, D=2, lengths=LENGTHS),
            ]
        problems += [("stepwise", problem) for problem in stepwise]
    for cell in ("lstm", "gru"):
        resident = [
            Problem(cell, torch.float32, T=3, N=70, H=40, D=2),
            Problem(cell, torch.bfloat16, T=3, N=3, H=75),
            Problem(cell, torch.float32, T=12, N=2, H=33),
        ]
        problems += [(name, problem) for name in ("cluster", "persistent") for problem in resident]
        projection = 4 if _C.cells()[cell]["projection"] else 0
        mixed = Problem(cell, torch.bfloat16, H=9, P=projection, D=2, lengths=LENGTHS)
        problems.append(("stepwise", mixed))
        fused = [
            Problem(cell, torch.bfloat16, T=3, N=40, H=75, D=2),
            Problem(cell, torch.bfloat16, T=20, N=3, H=33),
            Problem(cell, torch.bfloat16, H=40, D=2, lengths=LENGTHS),
        ]
        problems += [("fused", problem) for problem in fused]
    # Weights that do not all fit into registers.
    problems.append(("persistent", Problem("lstm", torch.float32, T=2, N=3, H=240)))
    return problems


def first_wrong(problem: Problem) -> str | None:
    """The name of a result that is not right to the tolerance of its type."""
    outputs = problem.output_names
    found = [*ours(problem), *ours(problem, training=True), *our_gradients(problem)]
    truth = [*exact(problem), *exact(problem), *exact_gradients(problem)]
    for name, mine, right in zip([*outputs, *outputs, *problem.names], found, truth, strict=True):
        if right is None:
            continue
        allowed = TOLERANCE[problem.dtype] * max(1.0, right.abs().max().item())
        if not torch.isfinite(mine).all() or (mine - right).abs().max().item() > allowed:
            return name
    return None


def main(library: str, *strategies: str) -> int:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fresh tensors are NaN
    emulated = build.load(Path(library))
    _C.forward, _C.backward = emulated.forward, emulated.backward  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    for strategy, problem in small_problems():
        if strategies and strategy not in strategies:
            continue
        os.environ["RNNKERN_CUDA_STRATEGY"] = strategy
        try:
            wrong = first_wrong(problem)
        except RuntimeError as error:
            wrong = str(error)
        if wrong is not None:
            print(f"{strategy} {problem}: {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
