"""Compiles every CUDA kernel with nvcc and tells what each takes of a GPU.

    python tests/cuda_compile.py            writes docs/cuda_kernels.md, if no kernel spills

Needs nvcc, but no GPU and no PyTorch with CUDA: where PyTorch or the toolkit come without some
headers, the declarations of cuda_stand_ins/ are taken for them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch.utils.cpp_extension import include_paths

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CSRC = ROOT / "csrc"
TABLE = ROOT / "docs" / "cuda_kernels.md"
# Beside the newest that nvcc knows: without and with asynchronous copies, and with clusters.
CAPABILITIES = ("75", "80", "90")
# What the oldest GPUs take, and all that there is: compiled in every run of the tests.
OFTEN = ("75", "90")

HEAD = """# What the CUDA kernels take of a GPU

Registers of a thread and bytes of static shared memory of a block, by compute capability. No kernel
spills registers or has a stack frame: where one does, no table is written. The tests see to it
for 7.5 and 9.0 (RNNKERN_TEST_LARGE=1: for all), and that the table is of these kernels.

Written by `python tests/cuda_compile.py` with nvcc {release}

"""


class Usage(NamedTuple):
    registers: int
    shared: int
    stack: int
    spills: int


def nvcc() -> str | None:
    """The path of nvcc: that of CUDA_HOME, else the one on PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home, "bin")) if home else None)


def release() -> str:
    found = re.search(r"V([\d.]+)", run([str(nvcc()), "--version"]))
    assert found is not None
    return found[1]


def capabilities() -> list[str]:
    """Those compiled for, the newest that this nvcc knows among them."""
    known = re.findall(r"compute_(\d+)", run([str(nvcc()), "--list-gpu-arch"]))
    return [*CAPABILITIES, max(known, key=int)]


def sources() -> list[Path]:
    return sorted((CSRC / "cuda").rglob("*.cu"))


def compile_kernels(wanted: Sequence[str]) -> dict[str, dict[str, Usage]]:
    """What each kernel takes, by its name and then by compute capability."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        logs = list(pool.map(partial(compile_one, wanted), sources()))
    kernels: dict[str, dict[str, Usage]] = {}
    for name, capability, usage in parse("".join(logs)):
        kernels.setdefault(name, {})[capability] = usage
    return dict(sorted(kernels.items()))


def compile_one(wanted: Sequence[str], source: Path) -> str:
    """What ptxas says about the kernels of a source."""
    targets = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in wanted]
    flags = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", f"-I{CSRC}"]
    command = [str(nvcc()), *flags, *targets, "-c", str(source), "-o", os.devnull]
    return run(command)


def parse(log: str) -> list[tuple[str, str, Usage]]:
    """(kernel, capability, usage) from the output of `ptxas -v`."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    found = pattern.findall(log)
    names = demangled([entry[0] for entry in found])
    results = []
    for name, entry in zip(names, found, strict=True):
        _, capability, stack, stores, loads, registers, rest = entry
        shared = re.search(r"(\d+) bytes smem", rest)
        usage = Usage(
            int(registers), int(shared[1]) if shared else 0, int(stack), int(stores) + int(loads)
        )
        results.append((name, capability, usage))
    return results


def demangled(names: list[str]) -> list[str]:
    """As in the sources, without namespaces and parameters."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return [re.sub(r"\(.*|rnnkern::|cuda::|^void ", "", line) for line in text.splitlines()]


def table(kernels: dict[str, dict[str, Usage]]) -> str:
    found = capabilities()
    versions = [version(c) for c in found]
    lines = [
        "| kernel | " + " | ".join(versions) + " |",
        "|---|" + "---|" * len(versions),
    ]
    for name, usage in kernels.items():
        cells = [cell(usage[c]) for c in found]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return HEAD.format(release=release()) + "\n".join(lines) + "\n"


def version(capability: str) -> str:
    return f"{capability[:-1]}.{capability[-1]}"


def cell(usage: Usage) -> str:
    return f"{usage.registers}, {usage.shared}"


def spilling(kernels: dict[str, dict[str, Usage]]) -> dict[tuple[str, str], Usage]:
    """What spills registers or has a stack frame, by its name and compute capability."""
    return {
        (name, capability): usage
        for name, by_capability in kernels.items()
        for capability, usage in by_capability.items()
        if usage.spills or usage.stack
    }


def check_host_source(source: Path) -> None:
    """Compiles a source that faces PyTorch or the CUDA runtime, without making anything of it."""
    toolkit = Path(str(nvcc())).resolve().parents[1] / "include"
    if not toolkit.joinpath("cuda_runtime.h").exists():
        toolkit = Path("/usr/local/cuda/include")
    system = [*include_paths(), str(toolkit), str(HERE / "cuda_stand_ins")]
    includes = [f"-I{CSRC}", *(f"-isystem{path}" for path in system)]
    run(
        [
            "g++",
            "-std=c++20",
            "-fsyntax-only",
            "-Wall",
            "-Wextra",
            "-Werror",
            *includes,
            str(source),
        ]
    )


def host_sources() -> list[Path]:
    return [path for path in sorted((CSRC / "cuda").glob("*.cpp")) if path.stem != "absent"]


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


if __name__ == "__main__":
    if nvcc() is None:
        sys.exit("there is no nvcc on PATH, nor in CUDA_HOME")
    compiled = compile_kernels(capabilities())
    if spilling(compiled):
        sys.exit(f"these spill registers: {spilling(compiled)}")
    TABLE.write_text(table(compiled), encoding="utf-8")
    print(TABLE)
