"""Where and with what it was measured: enough to compare results, nothing about the owner."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from rnnkern import _C

from .contenders import Contender

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")


def facts(contenders: list[Contender]) -> dict[str, Any]:
    """Machine, versions, commit, threads and the instruction set that rnnkern runs."""
    cpu, flags = cpu_facts()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": _C.active_backend(),
        "versions": {"python": platform.python_version()} | {c.name: c.version for c in contenders},
        "commit": commit(),
    }


def cpu_facts() -> tuple[str, list[str]]:
    """The CPU's name, and those of FLAGS that it has; Linux tells both."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    pairs = (line.partition(":") for line in lines)
    info = {key.strip(): value.strip() for key, _, value in pairs}
    known = (info.get("flags") or info.get("Features", "")).split()
    return info.get("model name", platform.machine()), [flag for flag in FLAGS if flag in known]


def results_path(cpu: str, *words: str) -> Path:
    """A file of results, named after the machine."""
    name = "-".join([*re.findall(r"[a-z0-9]+", cpu.lower()), *words])
    return Path(__file__).parent / "results" / f"{name}.json"


def commit() -> str | None:
    """The checkout's commit, with '+' where tracked files differ from it; None outside of git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
