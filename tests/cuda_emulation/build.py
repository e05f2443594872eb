"""Builds rnnkern's CUDA side as C++ over the emulation: an extension like rnnkern._C that runs the
CUDA kernels on CPU tensors.

Headers of include/ stand before those of the same name in csrc/ and in the CUDA toolkit, so the
sources of csrc/ are compiled as they are. An overlay is a folder of changed sources that stands
before both: only what includes one of them is compiled anew, the rest is taken from the build
without an overlay.
"""

import importlib.util
import subprocess
import sysconfig
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "emulation"
NAME = "rnnkern_emulated"

CUDA_HOST = (
    "backend",
    "fused",
    "gemm",
    "passes",
    "plan",
    "pointwise",
    "resident",
    "stepwise",
    "tf32",
)
SOURCES = [
    *sorted(path for path in CSRC.glob("*.cpp") if path.name != "library.cpp"),
    CSRC / "cpu" / "memory.cpp",
    *(CSRC / "cuda" / f"{name}.cpp" for name in CUDA_HOST),
    *sorted((CSRC / "cuda" / "instances").glob("*.cu")),
    *(HERE / f"{name}.cpp" for name in ("cublas", "device", "emulation", "runtime")),
]
# gcc 12 at -O1 takes torch's reference counts for too small.
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-stringop-overflow"]
FLAGS = ["-std=c++20", "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-fopenmp", *WARNINGS]
DEFINES = [
    f"-DTORCH_EXTENSION_NAME={NAME}",
    "-DTORCH_API_INCLUDE_EXTENSION_H",
    "-DAT_PER_OPERATOR_HEADERS",
]
SYSTEM = [f"-isystem{path}" for path in [*include_paths(), sysconfig.get_path("include")]]


@cache
def emulated() -> ModuleType:
    """The extension; built where it is missing or older than what it is made of."""
    return load(build())


def load(library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(overlay: Path | None = None, spared: Collection[str] = ()) -> Path:
    """The path of the extension's library. `spared` names sources that an overlay leaves alone."""
    folder = BUILD if overlay is None else overlay
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(torch.get_num_threads() if overlay is None else 1) as pool:
        overlays = [None if source.stem in spared else overlay for source in SOURCES]
        objects = list(pool.map(compiled, SOURCES, overlays))
    library = folder / f"{NAME}.so"
    if is_older(library, objects):
        libraries = [f"-L{path}" for path in library_paths()]
        libraries += ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
        command = ["g++", "-shared", "-fopenmp", "-o", str(library)]
        run([*command, *map(str, objects), *libraries])
    return library


def compiled(source: Path, overlay: Path | None) -> Path:
    """The object file of a source."""
    plain = BUILD / f"{source.parent.name}-{source.stem}.o"
    if overlay is None:
        if is_older(plain, dependencies(plain, source)):
            compile_one(source, plain, [])
        return plain
    changed = {
        CSRC / path.relative_to(overlay)
        for path in overlay.rglob("*")
        if path.suffix in {".h", ".cuh", ".cu", ".cpp"}
    }
    if not changed & set(dependencies(plain, source)):
        return plain
    result = overlay / plain.name
    own = overlay / source.relative_to(CSRC) if source.is_relative_to(CSRC) else source
    compile_one(own if own.exists() else source, result, [f"-I{overlay}"])
    return result


def compile_one(source: Path, target: Path, first: list[str]) -> None:
    includes = [*first, f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{CSRC}", *SYSTEM]
    fast = ["-O0"] if first else []  # an overlay is compiled for a few calls
    command = ["g++", "-x", "c++", *FLAGS, *fast, *DEFINES, *includes, "-MMD", "-c", str(source)]
    run([*command, "-o", str(target)])


def dependencies(target: Path, source: Path) -> list[Path]:
    """What an object file is made of: as the compiler wrote it down, else the source alone."""
    listing = target.with_suffix(".d")
    if not listing.exists():
        return [source]
    names = listing.read_text().replace("\\\n", " ").partition(":")[2].split()
    return [Path(name).resolve() for name in names]


def is_older(target: Path, sources: list[Path]) -> bool:
    if not target.exists():
        return True
    return any(not s.exists() or s.stat().st_mtime > target.stat().st_mtime for s in sources)


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    print(build())
