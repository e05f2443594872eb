"""Claim: the Python in README.md runs as it stands there, and what it exports loads elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rnnkern

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
EXPORT = next(block for block in BLOCKS if "rnnkern.onnx" in block)

# torch's own, of what it imports and traces with.
pytestmark = pytest.mark.filterwarnings("ignore")

LOAD = """
import os, sys, onnxruntime, torch, rnnkern
os.chdir(sys.argv[1])
x, y = torch.load("expected.pt")
session = onnxruntime.InferenceSession("model.onnx")
for found in (
    torch.export.load("exported.pt2").module()(x)[0],
    torch._inductor.aoti_load_package("compiled.pt2")(x)[0],
    torch.jit.load("traced.pt")(x)[0],
    torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]),
):
    torch.testing.assert_close(found, y)
    print("as expected")
"""


def test_all_but_export():
    names: dict[str, object] = {}
    for block in BLOCKS:
        if block != EXPORT:
            exec(block, names)
    torch._dynamo.reset()


def test_export(tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs requirements-onnx.txt")
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "rnnkern": rnnkern}
    exec(EXPORT, names)
    x = torch.randn(7, 3, 80)
    with torch.no_grad():
        torch.save((x, names["model"](x)[0]), "expected.pt")
    command = [sys.executable, "-c", LOAD, tmp_path]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert loaded.stdout.count("as expected") == 4, loaded.stderr
