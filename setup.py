"""Builds the one extension, rnnkern._C. Everything else about the package stands in pyproject.toml.

Environment variables:
    RNNKERN_CUDA=0    leave the CUDA kernels out, even where torch and the machine could take them
    RNNKERN_WERROR=1  make errors of the compiler's warnings about csrc/ (the Makefile sets it)
    RNNKERN_DEBUG=1   keep debug information, for a debugger's or profiler's line numbers
    MAX_JOBS          number of compilers that run at once
"""

import os
import shutil
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
HEADERS = ("*.h", "*.inl", "*.cuh")


def find(folder: Path, pattern: str) -> list[str]:
    """Files below `folder` in a fixed order, relative to the repository as setuptools asks."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern))


def builds_cuda() -> bool:
    """Whether the CUDA kernels are built: asked for, written, and possible here."""
    return (
        os.environ.get("RNNKERN_CUDA") != "0"
        and torch.version.cuda is not None
        and CUDA_HOME is not None
        and shutil.which("nvcc", path=str(Path(CUDA_HOME, "bin"))) is not None
        and bool(find(CUDA_SOURCES, "*.cu"))
    )


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


def extension() -> Extension:
    cuda = builds_cuda()
    sources = find(Path("csrc"), "*.cpp")
    flags = {"cxx": cxx_flags("cuda" if cuda else "cpu")}
    if cuda:
        sources += find(CUDA_SOURCES, "*.cu")
        flags["nvcc"] = ["-O3", "-std=c++20"]
    else:
        sources = [source for source in sources if CUDA_SOURCES not in Path(source).parents]
    return (CUDAExtension if cuda else CppExtension)(
        name="rnnkern._C",
        sources=sources,
        depends=[name for pattern in HEADERS for name in find(Path("csrc"), pattern)],
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("RNNKERN_WITH_CUDA", "1")] if cuda else [],
        extra_compile_args=flags,
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
