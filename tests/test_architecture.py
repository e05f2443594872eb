"""The house holds: imports and includes point one way, and some things live in one place only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "rnnkern"

CXX_FILES = sorted(
    path.relative_to(CSRC).as_posix()
    for path in CSRC.rglob("*")
    if path.suffix in {".cpp", ".h", ".inl", ".cu", ".cuh"}
)
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
)

# The staircase: a module imports only from those named behind it.
STAIRCASE = {
    "__main__": {"__init__", "_C", "accuracy", "autograd", "reference"},
    "__init__": {
        "_C",
        "compare",
        "convert",
        "explain",
        "functional",
        "modules",
        "reference",
        "stream",
    },
    "stream": {"_C", "functional", "modules", "operators"},
    "onnx": set(),
    "compare": {"accuracy", "convert", "explain", "replay"},
    "replay": {"convert"},
    "accuracy": set(),
    "explain": {"_C", "modules"},
    "convert": {"modules"},
    "modules": {"functional"},
    "functional": {"autograd", "operators"},
    "autograd": {"_C", "operators", "reference"},
    "operators": {"_C"},
    "reference": set(),
    "models.__init__": {
        "models.attention",
        "models.decoder",
        "models.encoder",
        "models.search",
        "models.vocabulary",
    },
    "models.attention": set(),
    "models.decoder": {"__init__", "models.attention"},
    "models.encoder": set(),
    "models.language": {"models.training"},
    "models.search": {"models.decoder", "models.vocabulary"},
    "models.training": {"convert"},
    "models.vocabulary": set(),
}

# The only C++ that may see torch: the layer that faces it, and the adapters below.
TORCH_FACING = {"cpu/parallel.cpp", "cuda/device.cpp", "cuda/gemm.cpp", "cuda/tf32.cpp"}
TORCH_FACING |= {"bindings.cpp", "library.cpp"} | {
    f"{name}.{suffix}"
    for name in ("autograd", "explain", "layer", "operators", "rnn", "stream")
    for suffix in ("h", "cpp")
}

# A room includes only from itself and from the rooms named behind it; files of csrc/ are rooms too.
ROOMS = {
    "common": set(),
    "cells": {"common"},
    "cpu": {"cells", "common"},
    "cuda": {"cells", "common"},
    "layer": {"cells", "common", "cpu", "cuda"},
    "rnn": {"layer", "common", "cpu", "cuda"},
    "explain": {"layer", "common", "cpu", "cuda"},
    "operators": {"rnn", "layer"},
    "autograd": {"operators", "rnn", "layer"},
    "library": {"autograd", "operators"},
    "stream": {"operators", "rnn"},
    "bindings": {"autograd", "explain", "operators", "stream"},
}


def code(name: str) -> str:
    """Text of a C++ file without its comments and the inside of its strings."""
    text = (CSRC / name).read_text(encoding="utf-8")
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    include = re.compile(r'^\s*#\s*include\s*"[^"]*"', re.MULTILINE)
    kept = {match.end() for match in include.finditer(text)}
    return token.sub(
        lambda match: match[0] if match.end() in kept else '""' * (match[0][0] == '"'), text
    )


def includes(name: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', code(name), re.MULTILINE)


def room(name: str) -> str:
    return Path(name).parts[0] if "/" in name else Path(name).stem


def own(name: str, header: str) -> str | None:
    """The file of csrc/ that `header` means when `name` includes it, or None for anyone else's."""
    for candidate in (CSRC / header, (CSRC / name).parent / header):
        if candidate.resolve().is_file():
            return candidate.resolve().relative_to(CSRC).as_posix()
    return None


def test_the_sources_are_found() -> None:
    assert "bindings.cpp" in CXX_FILES
    assert "modules" in MODULES


@pytest.mark.parametrize("name", CXX_FILES)
def test_includes_point_one_way(name: str) -> None:
    allowed = ROOMS[room(name)] | {room(name)}
    targets = {header: own(name, header) for header in includes(name)}
    assert {
        header for header, file in targets.items() if file and room(file) not in allowed
    } == set()


@pytest.mark.parametrize("name", [name for name in CXX_FILES if name not in TORCH_FACING])
def test_torch_stops_at_the_top(name: str) -> None:
    theirs = ("torch/", "ATen/", "c10/", "pybind11/", "Python.h")
    assert [header for header in includes(name) if header.startswith(theirs)] == []
    assert re.findall(r"\b(?:at|c10|torch|py)::\w+", code(name)) == []


@pytest.mark.parametrize("name", [name for name in CXX_FILES if name != "common/macros.h"])
def test_macros_live_in_one_file(name: str) -> None:
    assert re.findall(r"^\s*#\s*define\s+\w+", code(name), re.MULTILINE) == []


@pytest.mark.parametrize("name", [name for name in CXX_FILES if name != "cuda/primitives.cuh"])
def test_assembly_lives_in_one_file(name: str) -> None:
    assert re.findall(r"\b(?:asm|__asm|__asm__)\b", code(name)) == []


@pytest.mark.parametrize("name", [name for name in CXX_FILES if name.endswith((".h", ".cuh"))])
def test_headers_are_guarded_by_pragma(name: str) -> None:
    assert re.findall(r"^\s*#\s*pragma\s+once\s*$", code(name), re.MULTILINE) != []


def test_the_list_of_cells_lives_in_one_file() -> None:
    cells = {f"cells/{path.name}" for path in (CSRC / "cells").glob("*.h")}
    cells -= {"cells/all.h", "cells/cell.h"}
    reached = {own("cells/all.h", header) for header in includes("cells/all.h")}
    assert cells <= reached
    listing = {
        name: found
        for name in CXX_FILES
        if room(name) != "cells" and (found := cells & {own(name, h) for h in includes(name)})
    }
    assert listing == {}


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere in it, with relative ones made absolute."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["rnnkern" if node.level else "", node.module]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def file_of(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def own_modules(path: Path) -> set[str]:
    """Modules of rnnkern that one of its files imports."""
    ours = [name.split(".")[1:] for name in imported(path) if name.split(".")[0] == "rnnkern"]
    depths = [2 if parts[:1] == ["models"] else 1 for parts in ours]
    return {
        ".".join(parts[:depth]) or "__init__" for parts, depth in zip(ours, depths, strict=True)
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_staircase(module: str) -> None:
    assert own_modules(file_of(module)) - STAIRCASE[module] == set()


@pytest.mark.parametrize("module", MODULES)
def test_the_package_stands_alone(module: str) -> None:
    names = {name.split(".")[0] for name in imported(file_of(module))}
    assert names & {"tests", "benchmarks", "examples"} == set()


def test_only_a_header_of_cells_names_a_cell() -> None:
    names = re.compile(r'"(?:rnn_tanh|rnn_relu|lstm|gru)"')
    naming = [n for n in CXX_FILES if names.search((CSRC / n).read_text(encoding="utf-8"))]
    assert [name for name in naming if room(name) != "cells"] == []
