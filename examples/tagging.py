"""Synchronous many to many: of what kind each character of Python source is, as editors show it.

    python -m examples.tagging --quick
    python -m examples.tagging --resume --steps 0 --highlight FILE.py
    python -m examples.tagging --files FOLDER        # trains on the .py files in and below it

A deep bidirectional GRU reads characters and nothing else: whether a quote begins or ends a string
is to be found out from what stands on both sides. Truth is what the standard library's `tokenize`
says. By default the files are the standard library's; one in ten is judged and not trained on.
Beside the checkpoint come a picture, and a page (.html) with all of FILE.py or of a judged file, in
which mistakes are underlined in the colour that would have been right.
"""

import io
import random
import sysconfig
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import rnnkern
from examples.data.source_code import KINDS, read_source, sources
from rnnkern.models import Vocabulary
from rnnkern.models.training import Example, fail, main

COLOURS = ["#bbbbbb", "#7f7f7f", "#1a8a1a", "#0aa5b8", "#8c6d46", "#0000ff", "#8c2fc7"]
COLOURS += ["#d62728", "#000000", "#ff7f0e"]
LINES, COLUMNS, POINTS = 36, 90, 8
"""Of the picture: its size, and that of the letters."""
Line = list[tuple[str, int, int]]
"""Pieces of a line: what is written, the kind it was taken for, and the kind that it is."""
LEGEND = [(f"{kind} ", number, number) for number, kind in enumerate(KINDS)]


class Tagger(nn.Module):
    """Numbers of characters [N, T] to the logits of their kinds [N, T, K]."""

    def __init__(self, vocabulary_size: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, 32)
        self.rnn = rnnkern.GRU(32, hidden, layers, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, len(KINDS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


class Tagging(Example):
    """Characters [N, T] to kinds [N, T]. The training files are one long row, PAD between two."""

    steps, quick_steps = 400, 100
    lr = 6e-3
    sizes = {
        "modules": (150, 30),
        "hidden": (128, 64),
        "layers": (3, 2),
        "batch": (32, 16),
        "chunk": (150, 100),
    }
    metric, unit = "visible characters of held-out files that are right", " %"
    threshold, quick_threshold = 96, 75
    baseline = "the most frequent kind of each character"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--files", type=Path, metavar="FOLDER", help="with .py files; default: Python's own")
        add("--highlight", type=Path, metavar="FILE", help="Python source to colour")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.modules < 2:
            fail(f"--modules must be at least 2, got {args.modules}")
        folder = args.files or Path(sysconfig.get_paths()["stdlib"])
        paths = self.paths = sorted(folder.rglob("*.py") if args.files else folder.glob("*.py"))
        random.Random(0).shuffle(paths)
        files = sources(paths, args.modules)
        if len(files) < 2:
            fail(f"2 different Python files are needed, {folder} has {len(files)}")
        held_out = max(1, len(files) // 10)
        self.held_out, training = files[:held_out], files[held_out:]
        words = stored.get("vocabulary")
        texts = [file.text for file in training]
        self.vocabulary = Vocabulary(words) if words else Vocabulary.build(texts)
        gap = torch.full((args.chunk,), Vocabulary.PAD)  # so long that no chunk has two files
        unknown = torch.full((args.chunk,), -100)
        numbers = [part for text in texts for part in (gap, self.numbers(text))]
        truth = [part for file in training for part in (unknown, torch.tensor(file.kinds))]
        self.x, self.truth = torch.cat([*numbers, gap]), torch.cat([*truth, unknown])
        try:
            self.shown = read_source(args.highlight) if args.highlight else self.held_out[0]
        except (OSError, ValueError) as error:
            fail(f"cannot read Python from {args.highlight}: {error}")

    def numbers(self, text: str) -> Tensor:
        """Of characters, int64 [M]."""
        return torch.tensor(self.vocabulary.encode(text))

    def own_data(self) -> list[Path]:
        return self.paths if self.args.files else []

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.own}

    def build(self) -> nn.Module:
        return Tagger(len(self.vocabulary), self.args.hidden, self.args.layers)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        starts = torch.randint(len(self.x) - self.args.chunk + 1, (self.args.batch, 1))
        chunks = starts + torch.arange(self.args.chunk)
        logits = model(self.x[chunks].to(self.device))
        truth = self.truth[chunks].to(self.device)
        loss = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum")
        return loss / (truth >= 0).sum().clamp(min=1)  # chunks may lie between two files

    def tell(self, model: nn.Module, text: str) -> Tensor:
        """The likeliest kinds, int64 [M]: of each chunk, read with half a chunk on both sides."""
        chunk, half = self.args.chunk, self.args.chunk // 2
        x = F.pad(self.numbers(text), (half, half + -len(text) % chunk), value=Vocabulary.PAD)
        windows = x.unfold(0, chunk + 2 * half, chunk).split(64)
        told = [
            model(window.to(self.device)).argmax(-1)[:, half : half + chunk] for window in windows
        ]
        return torch.cat(told).flatten()[: len(text)].cpu()

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        counts = torch.zeros(len(self.vocabulary), len(KINDS), dtype=torch.int64)
        known = self.truth >= 0
        counts.index_put_((self.x[known], self.truth[known]), torch.tensor(1), accumulate=True)
        text = "".join(file.text for file in self.held_out)
        seen, numbers = visible(text), self.numbers(text)
        truth = torch.tensor([kind for file in self.held_out for kind in file.kinds])[seen]
        told = torch.cat([self.tell(model, file.text) for file in self.held_out])[seen]
        self.by_kind = {n: percent(told[truth == n] == n) for n in truth.unique().tolist()}
        return percent(told == truth), percent(counts.argmax(1)[numbers][seen] == truth)

    def show(self, model: nn.Module, picture: Path) -> None:
        for number, right in self.by_kind.items():
            print(f"{KINDS[number]:10} {right:5.1f} % right")
        name, text, kinds = self.shown
        told, seen = self.tell(model, text), visible(text)
        truth = torch.where(seen, torch.tensor(kinds), told)
        right = percent((told == truth)[seen])
        title = f"{name}: {right:.1f} % right, mistakes underlined in the right colour"
        lines = list(lines_of(text, told.tolist(), truth.tolist()))
        page = picture.with_suffix(".html")
        page.write_text(html(title, [LEGEND, [], *lines]), encoding="utf-8")
        print(f"{title}: {page}")
        figure = Figure((COLUMNS * POINTS * 0.61 / 72, (LINES + 4) * POINTS * 1.5 / 72))
        axes = figure.add_axes((0.01, 0, 0.99, 0.95), xlim=(0, COLUMNS), ylim=(LINES + 2, -1))
        axes.axis("off")
        axes.set_title(title, fontsize=POINTS + 1)
        draw(axes, [LEGEND, [], *most_varied(lines)])
        figure.savefig(picture, dpi=150)


def visible(text: str) -> Tensor:
    """Which characters are not spaces or ends of lines, bool [M]."""
    return torch.tensor([not character.isspace() for character in text])


def percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


def lines_of(text: str, told: list[int], truth: list[int]) -> Iterator[Line]:
    place = 0
    for line in io.StringIO(text):
        here = slice(place, place := place + len(line))
        triples = zip(line.rstrip(), told[here], truth[here], strict=False)
        groups = groupby(triples, key=lambda triple: triple[1:])
        yield [("".join(character for character, *_ in group), *both) for both, group in groups]


def most_varied(lines: list[Line]) -> list[Line]:
    """So many lines that fit the picture, from where even the rarest kinds come often."""

    def counts(start: int) -> list[int]:
        found = Counter(kind for line in lines[start : start + LINES] for *_, kind in line)
        return sorted(found[kind] for kind in range(len(KINDS)))

    start = max(range(max(1, len(lines) - LINES + 1)), key=counts)
    return lines[start : start + LINES]


def html(title: str, lines: list[Line]) -> str:
    def span(written: str, told: int, truth: int) -> str:
        style, hint = f"color: {COLOURS[told]}", KINDS[told]
        if told != truth:
            style += f"; text-decoration: underline 3px {COLOURS[truth]}"
            hint += f", in truth {KINDS[truth]}"
        return f'<span style="{style}" title="{hint}">{escape(written)}</span>'

    body = "\n".join("".join(span(*piece) for piece in line) for line in lines)
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}\n<h3>{escape(title)}</h3>\n<pre>{body}</pre>\n"


def draw(axes: Axes, lines: list[Line]) -> None:
    for row, line in enumerate(lines):
        column = 0
        for written, told, truth in line:
            shown = "".join(c if c.isprintable() else " " for c in written[: COLUMNS - column])
            font = {"family": "DejaVu Sans Mono", "size": POINTS}
            axes.text(column, row, shown, font, color=COLOURS[told], parse_math=False)
            if told != truth:
                axes.hlines(row + 0.3, column, column + len(shown), COLOURS[truth], linewidth=1.5)
            column += len(shown)


if __name__ == "__main__":
    main(Tagging)
