"""Run by `make package-check` away from the checkout, against an installed wheel."""

from importlib.metadata import metadata, version
from pathlib import Path

import torch

import rnnkern

ROOT = Path(__file__).resolve().parents[1]

assert ROOT / "rnnkern" not in Path(rnnkern.__file__).parents, "the checkout was imported"
assert version("rnnkern") == rnnkern.__version__
assert metadata("rnnkern")["License-Expression"] == "Apache-2.0"

torch.manual_seed(0)
ours = rnnkern.LSTM(5, 7, num_layers=2, bidirectional=True)
torch.manual_seed(0)
theirs = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True)
x = torch.randn(11, 3, 5)
torch.testing.assert_close(ours(x), theirs(x))
ours(x)[0].sum().backward()
print(f"rnnkern {rnnkern.__version__} from {Path(rnnkern.__file__).parent}: as torch.nn")
