"""Claim: the emulation catches mistakes. Each is made in a copy of one source, and must be seen."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cuda_emulation import build

TESTS = Path(__file__).resolve().parent


class Mutation(NamedTuple):
    """Text of a source of csrc/cuda/, which stands there once, and what replaces it."""

    name: str
    source: str
    before: str
    after: str


MUTATIONS = [
    Mutation("dropped barrier", "rows.cuh", "  sync_block();\n", ""),
    Mutation("lost lane of a sum", "rows.cuh", "lane < kSumLanes;", "lane < kSumLanes - 1;"),
    Mutation("sum not added to", "rows.cuh", "job.accumulate ? *out : T(0)", "T(0)"),
    Mutation(
        "swapped gates",
        "pointwise.cuh",
        "x[g] = load<T>(step.x_gates, gate);",
        "x[g] = load<T>(step.x_gates, (n * Cell::kGates + (g ^ 1) % Cell::kGates) * H + unit);",
    ),
    Mutation(
        "off-by-one tile", "elements.cuh", "(ceil_div(columns, threads))", "(columns / threads)"
    ),
    Mutation(
        "row not written",
        "pointwise.cuh",
        "n < step.rows; n += gridDim.y) forward_unit",
        "n + 1 < step.rows; n += gridDim.y) forward_unit",
    ),
    Mutation(
        "gradient of a row not written",
        "pointwise.cuh",
        "n < step.rows; n += gridDim.y) backward_unit",
        "n + 1 < step.rows; n += gridDim.y) backward_unit",
    ),
    Mutation(
        "bias of the other product",
        "pointwise.cuh",
        "r[g] = r[g] + load<S>(step.b_hh, bias)",
        "r[g] = r[g] + load<S>(step.b_ih, bias)",
    ),
    Mutation(
        "row starts a step late",
        "pointwise.cuh",
        "fresh = n >= step.continuing, ends",
        "fresh = n > step.continuing, ends",
    ),
    Mutation(
        "row ends a step late", "pointwise.cuh", "ends = n >= step.ending", "ends = n > step.ending"
    ),
    Mutation(
        "direct path of h forgotten",
        "pointwise.cuh",
        "if (Cell::kDirectH || !goes_on)",
        "if (!goes_on)",
    ),
    Mutation(
        "later chunks overwrite weight gradients",
        "stepwise.cpp",
        "const bool add = chunk_.steps.end < shape.steps;",
        "const bool add = false;",
    ),
    Mutation(
        "product of the wrong rows",
        "stepwise.cpp",
        "matrix(dr_gates_, row_in_chunk() + rows.begin)",
        "matrix(dr_gates_, rows.begin)",
    ),
    Mutation(
        "initial state's gradient overwritten",
        "stepwise.cpp",
        "compute_bytes), cell.direct_h);",
        "compute_bytes), false);",
    ),
    Mutation(
        "final state of a projection not copied",
        "stepwise.cpp",
        "if (ending == active) return;",
        "return;",
    ),
]


def verify(library: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which a mistake may crash."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.run(
        [sys.executable, "-m", "cuda_emulation.verify", str(library)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_without_a_mutation_all_is_right():
    result = verify(build.build())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_is_caught(mutation, tmp_path):
    original = build.CSRC / "cuda" / mutation.source
    text = original.read_text(encoding="utf-8")
    assert text.count(mutation.before) == 1
    copy = tmp_path / "cuda" / mutation.source
    copy.parent.mkdir()
    copy.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    result = verify(build.build(tmp_path))
    assert result.returncode != 0, "not caught"
    assert "Error" not in result.stderr, result.stderr  # it has to be the results
