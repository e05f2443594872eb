"""Every example trained by both packages, and the page about it: `python -m benchmarks.gallery`.

The two trainings of an example take turns in blocks of steps, so that a drift of the machine meets
both alike. Results are saved after each example; docs/gallery.md is written from all of them.
"""

import argparse
import importlib
import inspect
import json
import pkgutil
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import examples
from rnnkern.models import training
from rnnkern.models.training import Example, Trainer

from . import machine, timing
from .contenders import BASELINE, OURS, contenders
from .report import save_rows

IMPLEMENTATIONS = {OURS: "rnnkern", BASELINE: "torch"}
BLOCKS = 20
"""That a training is cut into."""
PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
COMPANIONS = {"translation": {"--compare": [["--attention", "none"], ["--attention", "bahdanau"]]}}
"""Models that an example draws beside its own: the option, and theirs."""

INTRODUCTION = """# Gallery

Recurrent systems that people build, each an ordinary file in [`examples/`](../examples) on the
parts in [`rnnkern/models/`](../rnnkern/models). They run on a laptop, download nothing, keep a
checkpoint and, but for the language models, draw a picture beside it. `--help` lists the options,
`--quick` is a run of seconds, `--impl torch` trains the same model with `torch.nn`'s layers.

"""

NOTES = """
Measured on {cores} cores of {cpu}, {threads} threads, PyTorch {torch}, by
`python -m benchmarks.gallery`: both trainings of the default command, in turns, from the same
weights. A step is the median over {blocks} blocks; the training is all steps, without loading of
data and evaluation.
"""


def examples_of(names: list[str]) -> dict[str, type[Example]]:
    """The classes of examples/ by the name of their module; all of them for no names."""
    found = {}
    for info in pkgutil.iter_modules(examples.__path__):
        if info.name in (names or [info.name]) and not info.ispkg:
            module = importlib.import_module(f"examples.{info.name}")
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, Example) and cls.__module__ == module.__name__:
                    found[info.name] = cls
    return found


def trainer(cls: type[Example], words: list[str]) -> Trainer:
    return training.trainer_for(cls, training.parse(cls, words))


def train_in_turns(trainers: dict[str, Trainer]) -> dict[str, list[float]]:
    """All steps of the default command; seconds of a step, by contender, one number a block."""
    steps = next(iter(trainers.values())).example.args.steps
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    order = list(trainers)
    for block in range(BLOCKS):
        size = steps * (block + 1) // BLOCKS - steps * block // BLOCKS
        for name in order:
            with timing.quiet():
                each = timing.block(trainers[name].advance, size, wake=False)
            seconds[name].append(each)
        order.reverse()
    return seconds


def companions(name: str, cls: type[Example], folder: Path) -> list[str]:
    """Options that name the checkpoints of the models an example draws beside its own."""
    words = []
    for option, models in COMPANIONS.get(name, {}).items():
        words.append(option)
        for options in models:
            words.append(str(folder / f"{len(words)}.safetensors"))
            made = trainer(cls, options)
            made.train(made.example.args.steps, Path(words[-1]))
    return words


@torch.no_grad()
def judge(made: Trainer) -> dict[str, Any]:
    made.model.eval()
    torch.manual_seed(0)
    report = training.judge(made)
    return {"value": report.value, "baseline": report.baseline, "reached": report.reached}


def measure(name: str, cls: type[Example]) -> dict[str, Any]:
    """A row: what both trainings took and came to. The picture goes to docs/gallery."""
    with tempfile.TemporaryDirectory() as folder:
        others = companions(name, cls, Path(folder))
        trainers = {
            package: trainer(cls, [*others, "--impl", impl, "--checkpoint", f"{folder}/it"])
            for package, impl in IMPLEMENTATIONS.items()
        }
        seconds = train_in_turns(trainers)
        row: dict[str, Any] = {"example": name, "steps": trainers[OURS].step}
        row["results"] = {package: judge(made) for package, made in trainers.items()}
        picture = PAGE.parent / "gallery" / f"{name}.png"
        picture.parent.mkdir(exist_ok=True)
        with torch.no_grad():
            torch.manual_seed(0)
            trainers[OURS].example.show(trainers[OURS].model, picture)
    row["ms_of_blocks"] = {package: timing.as_ms(each) for package, each in seconds.items()}
    row["ratio"] = timing.median(seconds[BASELINE]) / timing.median(seconds[OURS])
    return row


def page(content: dict[str, Any]) -> str:
    """docs/gallery.md of a file of results."""
    rows = content["gallery"]
    header = "| example | step, torch.nn | step, rnnkern | times as fast | training |"
    lines = [header, "|---|---|---|---|---|"]
    for row in rows:
        ms = {package: timing.median(each) for package, each in row["ms_of_blocks"].items()}
        seconds = row["steps"] * fmean(row["ms_of_blocks"][OURS]) / 1e3
        lines.append(
            f"| [{title(row)}](#{row['example']}) | {ms[BASELINE]:.3g} ms | {ms[OURS]:.3g} ms "
            f"| {row['ratio']:.2f} | {seconds:.0f} s |"
        )
    cpu = {"cpu": content["cpu"], "cores": content["cores"], "threads": content["threads"]}
    notes = NOTES.format(**cpu, torch=content["versions"]["torch.nn"], blocks=BLOCKS)
    sections = [section(row) for row in rows]
    return INTRODUCTION + "\n".join(lines) + "\n" + notes + "".join(sections)


def title(row: dict[str, Any]) -> str:
    return str(row["example"]).replace("_", " ")


def section(row: dict[str, Any]) -> str:
    """What an example shows, its commands, what it reached, and its picture."""
    (cls,) = examples_of([row["example"]]).values()
    doc = inspect.getdoc(inspect.getmodule(cls)) or ""
    paragraphs = doc.split("\n\n")
    commands = "\n".join(line[4:] for line in paragraphs[1].splitlines())
    text = "\n\n".join([paragraphs[0], f"```\n{commands}\n```", *paragraphs[2:]])
    metric = cls.metric[0].upper() + cls.metric[1:]
    found = {package: f"{row['results'][package]['value']:.3g}" for package in IMPLEMENTATIONS}
    baseline = row["results"][OURS]["baseline"]
    reached = (
        f"{metric}: **{found[OURS]}{cls.unit}** with rnnkern, {found[BASELINE]}"
        f"{cls.unit} with torch.nn; the threshold is {cls.threshold:g}, and {cls.baseline} gives "
        f"{baseline:.3g}."
    )
    path = PAGE.parent / "gallery" / f"{row['example']}.png"
    picture = f"\n![{title(row)}](gallery/{path.name})\n" if path.exists() else ""
    return f"\n## {row['example']}\n\n{text}\n\n{reached}\n{picture}"


def main() -> None:
    """Measure the examples named, or all; keep the other rows; write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery")
    known = list(examples_of([]))
    parser.add_argument("--only", nargs="*", default=[], choices=known, help="of examples/")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    args = parser.parse_args()
    facts = machine.facts(contenders())
    path = machine.results_path(facts["cpu"], f"{facts['threads']}threads", "gallery")
    rows = {}
    if path.exists():
        rows = {row["example"]: row for row in json.loads(path.read_text())["gallery"]}
    chosen = {} if args.page else examples_of(args.only)
    for name, cls in chosen.items():
        rows[name] = measure(name, cls)
        print(f"{name}: {rows[name]['ratio']:.2f} times as fast", flush=True)
        save_rows("gallery", [rows[key] for key in sorted(rows)], contenders())
    PAGE.write_text(page(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
