"""Whether this machine can run the check: `python -m benchmarks.gpu.available` says why not.

It can be asked before anything is built.
"""

import importlib.util
import sys


def reason() -> str | None:
    """What the check lacks here; None where it can run."""
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no PyTorch"
    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} has no CUDA"
    if not torch.cuda.is_available():
        return "there is no GPU here that PyTorch can use"
    return None


def main() -> int:
    found = reason()
    if found:
        print(f"gpu-check: FAILED ({found})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
