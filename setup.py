"""Builds the one extension, rnnkern._C. Everything else about the package stands in pyproject.toml.

The CUDA kernels are built where PyTorch has CUDA and nvcc is of the same major version. The build
says whether it has them; rnnkern.cuda_version tells afterwards.

Environment variables:
    RNNKERN_CUDA=0    leave the CUDA kernels out, even where torch and the machine could take them
    TORCH_CUDA_ARCH_LIST  compute capabilities to build for, as "8.0;9.0"; unset, those of the GPUs
                      here, or without one all that PyTorch's own kernels are commonly built for
    CUDA_HOME         folder of the CUDA toolkit, where it is not beside the nvcc on PATH
    RNNKERN_WERROR=1  make errors of the compiler's warnings about csrc/ (the Makefile sets it)
    RNNKERN_DEBUG=1   keep debug information, for a debugger's or profiler's line numbers
    MAX_JOBS          number of compilers that run at once
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from packaging.version import Version
from setuptools import Extension, setup
from torch.utils.cpp_extension import (
    CUDA_HOME,
    BuildExtension,
    CppExtension,
    CUDAExtension,
    include_paths,
)

ROOT = Path(__file__).resolve().parent
CUDA_SOURCES = Path("csrc", "cuda")
# All that such a build has of it.
WITHOUT_CUDA = {f"csrc/cuda/{name}.cpp" for name in ("absent", "plan", "tf32")}
HEADERS = ("*.h", "*.inl", "*.cuh")
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


def find(folder: Path, pattern: str) -> list[str]:
    """Files below `folder` in a fixed order, relative to the repository as setuptools asks."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern))


def why_without_cuda() -> str | None:
    """What keeps the CUDA kernels out of this build; None where they are built."""
    if os.environ.get("RNNKERN_CUDA") == "0":
        return "RNNKERN_CUDA is 0"
    if torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    found = None if CUDA_HOME is None else nvcc("--version")
    if found is None:
        return "there is no nvcc"
    release = re.search(r"release (\d+)\.", found)
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        return f"PyTorch has CUDA {torch.version.cuda}, nvcc is another: {found.strip()[-200:]}"
    return None


def nvcc(option: str) -> str | None:
    """What nvcc prints for an option; None without nvcc."""
    program = shutil.which("nvcc", path=str(Path(str(CUDA_HOME), "bin")))
    if program is None:
        return None
    return subprocess.run([program, option], capture_output=True, text=True, check=True).stdout


def set_capabilities() -> None:
    """Names what to build for where neither the user nor a GPU does: torch would fail."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST") or torch.cuda.is_available():
        return
    known = (nvcc("--list-gpu-arch") or "").split()
    chosen = [name for name in CAPABILITIES if "compute_" + name.replace(".", "") in known]
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(chosen) + "+PTX"


def cxx_flags(device: str) -> list[str]:
    """For the C++ compiler. No -march: the files of csrc/cpu/isa name their own instruction set."""
    strict = os.environ.get("RNNKERN_WERROR") == "1"
    if sys.platform == "win32":
        return ["/O2", "/std:c++20", "/EHsc", "/W3"] + ["/WX"] * strict
    flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra"]
    # A directory named by both -I and -isystem is a system directory: its headers do not warn.
    system = [*include_paths(device), sysconfig.get_path("include")]
    flags += [f"-isystem{directory}" for directory in system]
    # Python's own flags ask for -g: a file fifty times larger and a third slower to build.
    debug = "-g" if os.environ.get("RNNKERN_DEBUG") == "1" else "-g0"
    return [*flags, debug, *openmp_flags()] + ["-Werror"] * strict


def openmp_flags() -> list[str]:
    """For compiler and linker; Apple's compiler has no OpenMP of its own."""
    return ["-fopenmp"] if sys.platform == "linux" else []


def nvcc_flags() -> list[str]:
    flags = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden"]
    return flags + ["-Werror", "all-warnings"] * (os.environ.get("RNNKERN_WERROR") == "1")


def sources(cuda: bool) -> list[str]:
    """Everything of csrc/, but of csrc/cuda/ only what such a build takes."""
    host = find(Path("csrc"), "*.cpp")
    if cuda:
        return [name for name in host if Path(name).name != "absent.cpp"] + find(
            CUDA_SOURCES, "*.cu"
        )
    return [name for name in host if CUDA_SOURCES not in Path(name).parents or name in WITHOUT_CUDA]


def extension() -> Extension:
    reason = why_without_cuda()
    cuda = reason is None
    if cuda:
        set_capabilities()
    print(f"rnnkern: building {'with' if cuda else 'without'} CUDA" + f": {reason}" * (not cuda))
    return (CUDAExtension if cuda else CppExtension)(
        name="rnnkern._C",
        sources=sources(cuda),
        depends=[name for pattern in HEADERS for name in find(Path("csrc"), pattern)],
        include_dirs=[str(ROOT / "csrc")],
        # Without it each of torch's headers that needs one operator includes them all.
        define_macros=[("AT_PER_OPERATOR_HEADERS", None)],
        extra_compile_args={
            "cxx": cxx_flags("cuda" if cuda else "cpu"),
            "nvcc": nvcc_flags(),
        },
        extra_link_args=openmp_flags(),
    )


def put_ninja_on_path() -> None:
    """torch looks for ninja on PATH, where an environment that is not activated does not put it."""
    try:
        import ninja
    except ImportError:
        return
    os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])


put_ninja_on_path()
setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension},
    # A build runs with no other torch than the one it was made with.
    install_requires=[f"torch=={Version(torch.__version__).public}"],
)
