"""Claim: the gallery shows what was measured, of every example."""

import json
import re
from pathlib import Path

import pytest

for module in ("tqdm", "safetensors", "babel", "num2words", "sacrebleu", "sklearn", "matplotlib"):
    pytest.importorskip(module, reason="the examples need requirements-examples.txt")

from benchmarks import gallery  # noqa: E402
from benchmarks.contenders import BASELINE, OURS  # noqa: E402
from examples import char_lm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*-gallery.json"))


def test_the_page_is_that_of_its_results():
    pages = [gallery.page(json.loads(path.read_text())) for path in RESULTS]
    assert gallery.PAGE.read_text() in pages


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_of_every_example_and_reach_what_they_should(path):
    rows = json.loads(path.read_text())["gallery"]
    assert [row["example"] for row in rows] == sorted(gallery.examples_of([]))
    for row in rows:
        assert all(result["reached"] for result in row["results"].values()), row


def test_pictures_exist():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", gallery.PAGE.read_text()):
        assert (gallery.PAGE.parent / name).stat().st_size > 1000


def test_measure(tmp_path, monkeypatch):
    sizes = {"hidden": (8, 8), "layers": (1, 1), "batch": (32, 32), "chunk": (100, 100)}
    monkeypatch.setattr(char_lm.CharLM, "sizes", sizes)
    monkeypatch.setattr(char_lm.CharLM, "steps", 40)
    monkeypatch.setattr(char_lm.CharLM, "threshold", 0)
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "gallery.md")
    row = gallery.measure("char_lm", char_lm.CharLM)
    assert row["steps"] == 40
    assert [len(row["ms_of_blocks"][package]) for package in (OURS, BASELINE)] == [20, 20]
    ours, theirs = (row["results"][package] for package in (OURS, BASELINE))
    assert ours["value"] == pytest.approx(theirs["value"], rel=1e-3)
    assert ours["baseline"] == theirs["baseline"]
    assert ours["reached"] is False
