"""On what it was measured."""

import platform
import shutil
import subprocess
from datetime import datetime, timezone
from typing import Any

import torch

from .. import machine

QUERIES = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "most_sm_mhz": "clocks.max.sm",
    "celsius": "temperature.gpu",
    "watts": "power.draw",
}


def facts() -> dict[str, Any]:
    """The GPU and the versions of what runs on it."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": properties.name,
        "capability": f"{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gigabytes": round(properties.total_memory / 1e9),
        "driver": state().get("driver"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "commit": machine.commit(),
    }


def state() -> dict[str, str]:
    """What the driver tells of the first GPU at this moment; nothing without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = f"--query-gpu={','.join(QUERIES.values())}"
    done = subprocess.run(
        [program, query, "--format=csv,noheader,nounits", "--id=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(QUERIES, values, strict=True)) if len(values) == len(QUERIES) else {}
