"""Claim: each primitive of the CUDA kernels does what the PTX manual says, in the emulation and on
a GPU where there is one; and the emulation shows what a GPU would leave undefined.

The tests are C++ programs, primitive_tests.cu and emulation_tests.cpp in cuda_emulation/, that
print one line a test. Each is a case here.
"""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import cuda_compile
import pytest
import torch
from cuda_emulation import build

PRIMITIVES = build.HERE / "primitive_tests.cu"
EMULATION = build.HERE / "emulation_tests.cpp"
SEEDS = range(3)

gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or cuda_compile.nvcc() is None, reason="there is no GPU or nvcc"
)


def names_in(source: Path) -> list[str]:
    """The names in the table at the end of a program of tests."""
    return re.findall(r'^ +\{"(\w+)", \d+,', source.read_text(encoding="utf-8"), re.MULTILINE)


@cache
def emulated(source: Path) -> Path:
    """The program of a source on the emulation; built where it is missing or old."""
    sources = [source, build.HERE / "emulation.cpp", build.HERE / "runtime.cpp"]
    build.BUILD.mkdir(parents=True, exist_ok=True)
    objects = [build.compiled(path, None) for path in sources]
    program = build.BUILD / source.stem
    if build.is_older(program, objects):
        build.run(["g++", "-pthread", *map(str, objects), "-o", str(program)])
    return program


@cache
def on_gpu() -> Path:
    """The program of the primitives for the GPU of this machine."""
    build.BUILD.mkdir(parents=True, exist_ok=True)
    program = build.BUILD / f"{PRIMITIVES.stem}-gpu"
    command = [str(cuda_compile.nvcc()), "-std=c++20", "-O3", "-Werror", "all-warnings"]
    command += ["-arch=native", f"-I{build.CSRC}", str(PRIMITIVES), "-o", str(program)]
    build.run(command)
    return program


@cache
def outcomes(program: Path, seed: int) -> dict[str, str]:
    """The line that a program prints for each of its tests."""
    result = subprocess.run(
        [program],
        env={**os.environ, "RNNKERN_EMULATION_SEED": str(seed)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = {line.split()[1].rstrip(":"): line for line in result.stdout.splitlines()}
    failed = any(line.startswith("FAILED ") for line in lines.values())
    if failed != (result.returncode != 0):
        lines[""] = f"exit status {result.returncode} after {list(lines)[-1:]}: {result.stderr}"
    return lines


def check(program: Path, name: str, seed: int = 0) -> None:
    lines = outcomes(program, seed)
    line = lines.get(name, "no outcome")
    if line.startswith("skipped "):
        pytest.skip(line)
    assert line == f"ok {name}", lines.get("", f"seed {seed}")


@pytest.mark.parametrize("name", names_in(PRIMITIVES))
def test_primitive(name):
    for seed in SEEDS:
        check(emulated(PRIMITIVES), name, seed)


@pytest.mark.parametrize("name", names_in(EMULATION))
def test_emulation(name):
    for seed in SEEDS:
        check(emulated(EMULATION), name, seed)


@gpu
@pytest.mark.parametrize("name", names_in(PRIMITIVES))
def test_primitive_on_the_gpu(name):
    check(on_gpu(), name)


@pytest.mark.parametrize("source", [PRIMITIVES, EMULATION], ids=lambda path: path.stem)
def test_the_tables_are_read_whole(source):
    listed = subprocess.run(
        [emulated(source), "--list"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == names_in(source)


@pytest.mark.skipif(cuda_compile.nvcc() is None, reason="there is no nvcc here")
@pytest.mark.parametrize("capability", cuda_compile.CAPABILITIES)
def test_nvcc_compiles_every_primitive(capability, tmp_path):
    command = [str(cuda_compile.nvcc()), "-std=c++20", "-Werror", "all-warnings", "--cubin"]
    command += [f"-arch=sm_{capability}", f"-I{build.CSRC}", str(PRIMITIVES)]
    build.run([*command, "-o", str(tmp_path / "cubin")])
