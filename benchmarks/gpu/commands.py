"""Other programs: run with a limit of time and a log, and found where they are."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.cpp_extension import CUDA_HOME

ROOT = Path(__file__).resolve().parents[2]
GRACE = 10.0
"""Seconds that an interrupted program has to say what it has so far."""


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int | None
    """Exit status; None if it was ended for taking too long."""
    output: str
    seconds: float


def run(
    words: Sequence[str | Path],
    log: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program in the repository's root, with what it prints at the end of the log.

    After `seconds` it is interrupted as from the keyboard, and GRACE later it and all it has
    started are killed.
    """
    start = time.monotonic()
    with log.open("a+b") as file:
        begin = file.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": python_path(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = _wait(child, seconds)
        finally:
            _signal(child, signal.SIGKILL)
            child.wait()
        file.seek(begin)
        output = file.read().decode(errors="replace")
    return Finished(code, output, time.monotonic() - start)


def python_path() -> str:
    """The repository before whatever else is asked for."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit status, or None once it was interrupted."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    return None


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To it and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def find(program: str) -> str | None:
    """The path of one of the CUDA toolkit's programs."""
    folders = [] if CUDA_HOME is None else [f"{CUDA_HOME}/bin", f"{CUDA_HOME}/{program}"]
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))


class NotCompiled(Exception):
    """There is no program; the text says why."""


def compile_cuda(source: Path, program: Path, capability: str, options: Sequence[str] = ()) -> Path:
    """Compile one CUDA source of the repository for GPUs of a capability such as '90'."""
    nvcc = find("nvcc")
    if nvcc is None:
        raise NotCompiled("there is no nvcc")
    target = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    command = [nvcc, "-std=c++20", "-O3", target, f"-I{ROOT}/csrc", *options]
    done = subprocess.run(
        [*command, source, "-o", program], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotCompiled(f"{source.name}: {(done.stderr or done.stdout).strip()[:600]}")
    return program
