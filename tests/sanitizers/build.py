"""Builds programs that run the CPU kernels under gcc's sanitizers, without torch.

A few lines of the kernels are changed, in copies that stand before csrc/ on the include path, so
that a sanitizer sees more. Mutations are further changes, to one instruction set.
"""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "sanitizers"

SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
ISAS = [path.stem for path in sorted((CSRC / "cpu" / "isa").glob("*.cpp"))]
# What touches memory or synchronises beside the kernels, and what only calls and compares.
INSTRUMENTED = [HERE / "memory.cpp", HERE / "parallel.cpp"]
PLAIN = [CSRC / "cpu" / "backends.cpp", *(HERE / f"{n}.cpp" for n in ("cases", "layer", "kernels"))]
# -O1 would take half as long again to compile the kernels.
FLAGS = ["-std=c++20", "-Og", "-g1", "-fno-omit-frame-pointer"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]  # not for the kernels: sanitizers make gcc see ghosts


class Change(NamedTuple):
    """Text of a source of csrc/, which stands there once, and what replaces it."""

    source: str
    before: str
    after: str


class Program(NamedTuple):
    sanitizer: str
    name: str
    changes: tuple[Change, ...]
    isa: str | None = None  # the only one to change

    @property
    def folder(self) -> Path:
        return BUILD / self.name

    @property
    def path(self) -> Path:
        return self.folder / "kernels"


class Object(NamedTuple):
    source: Path
    target: Path
    flags: tuple[str, ...]


def only(condition: str) -> Change:
    """The kernels of the cells and types that meet the condition."""
    start = "  return {freeze<Cell, T>,"
    leave_out = f"  if constexpr (!({condition})) return {{}};\n  else\n"
    return Change("cpu/recurrence.inl", start, leave_out + start)


CHANGES = (
    # gcc's sanitizers do not see what a masked vector loads and stores.
    Change(
        "cpu/gemm.inl",
        "  return lanes >= Vec<T>::kLanes ? Vec<T>::load(p) : Vec<T>::load(p, lanes);",
        "  if (lanes >= Vec<T>::kLanes) return Vec<T>::load(p);\n"
        "  sanitizers::mark_read(p, lanes * sizeof(T));\n"
        "  return Vec<T>::load(p, lanes);",
    ),
    Change(
        "cpu/gemm.inl",
        "  lanes >= Vec<T>::kLanes ? value.store(p) : value.store(p, lanes);",
        "  if (lanes >= Vec<T>::kLanes) return value.store(p);\n"
        "  value.store(p, lanes);\n"
        "  sanitizers::mark_written(p, lanes * sizeof(T));",
    ),
    # The arrays in the scratch lie apart.
    Change(
        "cpu/gemm.inl",
        "used_ += static_cast<size_t>(ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64);",
        "const size_t end = used_ + count * sizeof(T);\n"
        "    used_ = (end + 127) / 64 * 64;\n"
        "    if (base_ != nullptr) sanitizers::forbid(base_ + end, used_ - end);",
    ),
    # Short sequences have several chunks.
    Change(
        "cpu/forward.inl",
        "kChunkBytes = 512 << 10, kLeastChunkRows = 256;",
        "kChunkBytes = 16 << 10, kLeastChunkRows = 8;",
    ),
    Change(
        "cpu/backward.inl",
        "kChunkBytes = 1 << 20, kLeastChunkRows = 512;",
        "kChunkBytes = 16 << 10, kLeastChunkRows = 8;",
    ),
    # Small batches are divided.
    Change("cpu/schedule.inl", "kRowsPerMember = 8;", "kRowsPerMember = 2;"),
)
FLOAT = "sizeof(T) == 4"
PROGRAMS = {
    "address": Program("address", "address", CHANGES),
    # Threads meet in the same places whatever the type.
    "thread": Program("thread", "thread", (*CHANGES, only(FLOAT))),
}


def mutated(sanitizer: str, isa: str, change: Change, name: str) -> Program:
    """A program in which the kernels of one cell for one instruction set have a mistake."""
    changes = (*CHANGES, only(f"{FLOAT} && std::is_same_v<Cell, Elman<Tanh>>"), change)
    return Program(sanitizer, f"mutated/{name.replace(' ', '-')}", changes, isa)


@cache
def missing(sanitizer: str) -> str | None:
    """Why nothing runs under a sanitizer here, or None where it does."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / f"empty-{sanitizer}"
    command = ["g++", *SANITIZERS[sanitizer], "-x", "c++", "-", "-o", str(program)]
    try:
        subprocess.run(command, input="int main() {}", check=True, capture_output=True, text=True)
        subprocess.run([program], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip() or str(error)
    return None


def build(programs: Sequence[Program]) -> None:
    """Compiles and links what is missing or older than what it is made of."""
    for program in programs:
        write_overlay(program)
    parts = {program: objects(program) for program in programs}
    every = {part.target: part for each in parts.values() for part in each}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, every.values()))
        list(pool.map(lambda item: link(*item), parts.items()))


def write_overlay(program: Program) -> None:
    """The changed copies of a program; a file that is as it should be keeps its time."""
    texts: dict[str, str] = {}
    for source, before, after in program.changes:
        text = texts.get(source) or (CSRC / source).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{source}: expected once: {before}"
        texts[source] = text.replace(before, after)
    for source, text in texts.items():
        copy = program.folder / "include" / source
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def objects(program: Program) -> list[Object]:
    """The slowest to compile come first."""
    sanitize = SANITIZERS[program.sanitizer]
    base = PROGRAMS[program.sanitizer].folder
    result = []
    for isa in sorted(ISAS, key=lambda isa: isa != "scalar"):
        folder = program.folder if program.isa in (None, isa) else base
        overlay = ["-include", str(HERE / "memory.h"), f"-I{folder / 'include'}"]
        source = CSRC / "cpu" / "isa" / f"{isa}.cpp"
        result.append(Object(source, folder / f"{isa}.o", (*sanitize, *overlay)))
    for source in INSTRUMENTED:
        result.append(Object(source, base / f"{source.stem}.o", (*sanitize, *WARNINGS)))
    for source in PLAIN:
        result.append(Object(source, BUILD / "plain" / f"{source.stem}.o", tuple(WARNINGS)))
    return result


def compile_one(part: Object) -> None:
    if not is_older(part.target, dependencies(part)):
        return
    part.target.parent.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{HERE}", f"-I{CSRC}"]
    command = ["g++", *FLAGS, *part.flags, *includes, "-MMD", "-c", str(part.source)]
    run([*command, "-o", str(part.target)])


def link(program: Program, parts: list[Object]) -> None:
    """The kernels come last: reports have no line numbers for the first file of a program."""
    targets = [part.target for part in reversed(parts)]
    if is_older(program.path, targets):
        flags = [*SANITIZERS[program.sanitizer], "-pthread"]
        run(["g++", *flags, *map(str, targets), "-o", str(program.path)])


def dependencies(part: Object) -> list[Path]:
    """What an object file is made of: as the compiler wrote it down, else the source alone."""
    listing = part.target.with_suffix(".d")
    if not listing.exists():
        return [part.source]
    names = listing.read_text().replace("\\\n", " ").partition(":")[2].split()
    return [Path(__file__), *map(Path, names)]


def is_older(target: Path, sources: Sequence[Path]) -> bool:
    if not target.exists():
        return True
    return any(not s.exists() or s.stat().st_mtime > target.stat().st_mtime for s in sources)


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
