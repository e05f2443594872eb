"""Claim: the CPU kernels of every instruction set touch no byte that is not theirs, do nothing
undefined and nothing that another thread could see half done, whatever the shape; and a mistake of
those kinds, made in a copy of a source, is seen.

The program is sanitizers/kernels.cpp. It compares results with a reference of its own too.
"""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
from sanitizers import build
from sanitizers.build import Change, Program

from rnnkern import _C

pytestmark = pytest.mark.cpu

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
RACE = "WARNING: ThreadSanitizer: data race"
ADDRESS = "ERROR: AddressSanitizer: "
UNDEFINED = "runtime error: "
NUMBERS = "FAILED: "


class Mutation(NamedTuple):
    """A mistake and how what sees it begins; `others` are what another thread may say first."""

    name: str
    report: str
    source: str
    before: str
    after: str
    isa: str = "scalar"
    others: tuple[str, ...] = ()

    @property
    def sanitizer(self) -> str:
        return "address" if self.report in (ADDRESS, UNDEFINED) else "thread"

    @property
    def program(self) -> Program:
        change = Change(f"cpu/{self.source}", self.before, self.after)
        return build.mutated(self.sanitizer, self.isa, change, self.name)


MUTATIONS = [
    Mutation(
        "no barrier within a step",
        RACE,
        "schedule.inl",
        "    if (!by_batch) team.sync();\n",
        "",
    ),
    Mutation(
        "no barrier after packing",
        RACE,
        "forward.inl",
        "    prepare();\n    team_.sync();\n    for",
        "    prepare();\n    for",
    ),
    Mutation(
        "no barrier after a chunk",
        RACE,
        "backward.inl",
        "      carry(chunk);\n      team_.sync();\n",
        "      carry(chunk);\n",
    ),
    Mutation(
        "row too many",
        ADDRESS,
        "forward.inl",
        "{continuing, active}), h0)",
        "{continuing, active + 1}), h0)",
    ),
    Mutation(
        "lane too many of a masked vector",
        ADDRESS,
        "gemm.inl",
        "load_units(source + column * V::kLanes, lanes)",
        "load_units(source + column * V::kLanes, lanes + 1)",
        "avx2",
    ),
    Mutation(
        "array of the scratch a row too short",
        ADDRESS,
        "backward.inl",
        "carried_ = arena.take<T>(shape_.batch * gate_stride_)",
        "carried_ = arena.take<T>((shape_.batch - 1) * gate_stride_)",
    ),
    Mutation(
        "biases that are not there",
        UNDEFINED,
        "gemm.inl",
        "bias != nullptr && unit < units",
        "unit < units",
        others=(ADDRESS,),  # of a load a little beyond the null pointer
    ),
    Mutation(
        "scratch read before it is written",
        NUMBERS,
        "backward.inl",
        "      carry(chunk);\n",
        "",
    ),
    Mutation(
        "later chunks overwrite weight gradients",
        NUMBERS,
        "backward.inl",
        "store_units(first ? value : value +",
        "store_units(true ? value : value +",
    ),
]


def here(program: Program, isa: str) -> bool:
    return isa in _C.backends() and build.missing(program.sanitizer) is None


def run(program: Program, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program.path],
        env={**os.environ, **OPTIONS, "RNNKERN_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@cache
def outcomes() -> dict[tuple[Program, str], subprocess.CompletedProcess[str]]:
    """How each program ended on each instruction set: built and run together, on all cores."""
    runs = [(program, isa) for program in build.PROGRAMS.values() for isa in _C.backends()]
    runs += [(mutation.program, mutation.isa) for mutation in MUTATIONS]
    runs = [(program, isa) for program, isa in runs if here(program, isa)]
    build.build(list(dict.fromkeys(program for program, _ in runs)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(runs, pool.map(lambda pair: run(*pair), runs), strict=True))


def outcome(program: Program, isa: str) -> subprocess.CompletedProcess[str]:
    if isa not in _C.backends():
        pytest.skip(f"this CPU has no {isa}")
    if reason := build.missing(program.sanitizer):
        pytest.skip(f"the {program.sanitizer} sanitizer does not work here: {reason}")
    return outcomes()[program, isa]


@pytest.mark.parametrize("isa", _C.backends())
@pytest.mark.parametrize("sanitizer", build.SANITIZERS)
def test_kernels(sanitizer, isa):
    result = outcome(build.PROGRAMS[sanitizer], isa)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr
    types = {"address": "48", "thread": "4"}[sanitizer]
    ran = re.findall(r"in (\d) bytes, \d of \d threads, (\w+) ", result.stdout)
    assert set(ran) == set(product(types, _C.cells()))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_is_caught(mutation):
    result = outcome(mutation.program, mutation.isa)
    assert result.returncode != 0, "not caught"
    assert any(report in result.stderr for report in (mutation.report, *mutation.others))
