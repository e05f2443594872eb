"""A film in, what happens in it out: the ways in which a handwritten digit moves.

    python -m examples.activity --quick
    python -m examples.activity
    python -m examples.activity --file FILE.npz   # sequences of your own

A GRU watches 20 to 40 small, noisy frames and then says which of eleven ways it was: circling,
bouncing, fading... A single frame tells next to nothing about that. No digit of a test film is
the sample of one trained on.

FILE.npz has the arrays x [N, T, C], numbers of C channels at T times, y [N], integers or strings
that say of which class each sequence is, and, if sequences are of unequal lengths, lengths [N],
from 1 to T. A fifth of the sequences, drawn at random, is not trained on.
"""

import tokenize
import zipfile
import zlib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import rnnkern
from examples.data.digits import ACTIONS, SCREEN, Samples, film, samples
from rnnkern.models import Encoder
from rnnkern.models.training import Example, fail, main

TEST_FILMS = 660
DAMAGED = (zipfile.BadZipFile, zlib.error, tokenize.TokenError)
"""What numpy lets through of a damaged file."""


class Sequences(NamedTuple):
    """Values float32 [N, T, C], how many of the T are there int64 [N], and classes int64 [N]."""

    x: Tensor
    lengths: Tensor
    y: Tensor

    def of(self, rows: Tensor) -> "Sequences":
        """Some of them, as long as the longest of these."""
        lengths = self.lengths[rows]
        return Sequences(self.x[rows, : int(lengths.max())], lengths, self.y[rows])


def films(number: int, of: Samples, seed: int) -> Sequences:
    """Equally many of each action, C = SCREEN**2."""
    random = np.random.default_rng(seed)
    y = torch.arange(number) % len(ACTIONS)
    frames = [torch.from_numpy(film(ACTIONS[n], of, random)).flatten(1) for n in y.tolist()]
    lengths = torch.tensor([len(sequence) for sequence in frames])
    return Sequences(pad_sequence(frames, batch_first=True), lengths, y)


def read_sequences(path: Path) -> tuple[Sequences, list[str]]:
    """The user's own, and the names of their classes in order."""
    try:
        with path.open("rb") as file:
            arrays = dict(np.load(file))
    except (OSError, ValueError, TypeError, EOFError, *DAMAGED) as error:
        fail(f"cannot read {path} as an .npz file of numpy arrays: {error}")
    if missing := {"x", "y"} - set(arrays):
        fail(f"{path} has no array {' and '.join(sorted(missing))}, only {sorted(arrays)}")
    x, y = arrays["x"], arrays["y"]
    if x.ndim != 3 or 0 in x.shape or x.dtype.kind not in "buif":
        fail(f"{path}: x must be numbers [N, T, C], got {x.dtype} {list(x.shape)}")
    if y.shape != x.shape[:1] or y.dtype.kind not in "buiU":
        fail(f"{path}: y must be {len(x)} integers or strings, got {y.dtype} {list(y.shape)}")
    longest = x.shape[1]
    lengths = arrays.get("lengths", np.full(len(x), longest))
    integers = lengths.shape == y.shape and lengths.dtype.kind in "ui"
    if not integers or lengths.min() < 1 or lengths.max() > longest:
        fail(f"{path}: lengths must be {len(x)} integers from 1 to {longest}, got {lengths!s:.60}")
    there = np.arange(longest)[:, None] < lengths[:, None, None]
    values = np.where(there, x, 0).astype(np.float32)
    if not np.isfinite(values).all():
        fail(f"{path}: x has infinities or NaN within the lengths")
    names, classes = np.unique(y, return_inverse=True)
    if len(names) < 2 or len(x) < 5:
        fail(f"{path}: 2 classes and 5 sequences are the least, got {len(names)} and {len(x)}")
    tensors = map(torch.from_numpy, (values, lengths.astype(np.int64), classes))
    return Sequences(*tensors), names.astype(str).tolist()


class Classifier(nn.Module):
    """Sequences [N, T, C] to the logits of their classes.

    Args:
        training: whose channels' means and standard deviations become 0 and 1.
        hidden, classes: sizes.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, training: Sequences, hidden: int, classes: int) -> None:
        super().__init__()
        there = torch.arange(training.x.size(1)) < training.lengths[:, None]
        values = training.x[there]
        self.register_buffer("mean", values.mean(0))
        self.register_buffer("scale", values.std(0, correction=0).clamp(min=1e-6))
        embed = nn.Sequential(nn.Linear(values.size(1), hidden), nn.ReLU())
        self.encoder = Encoder(embed, rnnkern.GRU(hidden, hidden, batch_first=True))
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Args:
            x: [N, T, C].
            lengths: int64 [N], each from 1 to T.

        Returns:
            Logits [N, classes].
        """
        return self.head(self.encoder((x - self.mean) / self.scale, lengths)[1])


class Activity(Example):
    """Sequences [N, T, C] to classes [N]; of films, T is up to 40 and C = SCREEN**2."""

    steps, quick_steps = 1800, 200
    sizes = {"hidden": (192, 64), "films": (5500, 1100), "batch": (64, 64)}
    metric, unit = "test sequences classified rightly", " %"
    threshold, quick_threshold = 85, 40
    baseline = "the most frequent class"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--file", type=Path, metavar="FILE.npz", help="sequences of your own")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.file:
            everything, self.classes = read_sequences(args.file)
            order = torch.randperm(len(everything.y), generator=torch.Generator().manual_seed(0))
            test, training = order.tensor_split([len(order) // 5])
            self.training, self.test = everything.of(training), everything.of(test)
        else:
            self.classes = list(ACTIONS)
            of_training, of_test = samples()
            self.training = films(args.films, of_training, seed=0)
            self.test = films(TEST_FILMS, of_test, seed=1)

    def own_data(self) -> list[Path]:
        return [self.args.file] if self.args.file else []

    def facts(self) -> dict[str, Any]:
        return {"classes": self.classes, "channels": self.training.x.size(2)}

    def build(self) -> nn.Module:
        return Classifier(self.training, self.args.hidden, len(self.classes))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        batch = self.training.of(torch.randint(len(self.training.y), (self.args.batch,)))
        logits = model(batch.x.to(self.device), batch.lengths)
        return F.cross_entropy(logits, batch.y.to(self.device))

    def predicted(self, model: nn.Module) -> Tensor:
        """The classes that the model gives the test sequences, int64 [N]."""
        parts = map(self.test.of, torch.arange(len(self.test.y)).split(256))
        logits = [model(part.x.to(self.device), part.lengths) for part in parts]
        return torch.cat(logits).argmax(1).cpu()

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        right = (self.predicted(model) == self.test.y).double().mean().item()
        most = int(self.training.y.bincount().argmax())
        return 100 * right, 100 * (self.test.y == most).double().mean().item()

    def show(self, model: nn.Module, picture: Path) -> None:
        predicted = self.predicted(model)
        table = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)
        table.index_put_((self.test.y, predicted), torch.tensor(1), accumulate=True)
        for name, row, right in zip(self.classes, table, table.diagonal(), strict=True):
            print(f"{name}: {int(right)} of {int(row.sum())} right")
        self.draw(predicted, table, picture)
        print(f"{picture} shows what was taken for what")

    def draw(self, predicted: Tensor, table: Tensor, picture: Path) -> None:
        """A test sequence of each class (12 at most), and how often which was taken for which."""
        present = self.test.y.unique().tolist()[:12]
        figure = Figure(figsize=(17, 9), layout="constrained")
        grid = figure.add_gridspec(len(present), 2, width_ratios=[1, 1.3])
        for place, number in enumerate(present):
            row = int((self.test.y == number).nonzero()[0])
            axes = figure.add_subplot(grid[place, 0])
            self.draw_sequence(axes, self.test.x[row, : self.test.lengths[row]])
            said = self.classes[predicted[row]]
            color = "black" if predicted[row] == number else "red"
            axes.set_title(f"true: {self.classes[number]}, said: {said}", fontsize=10, color=color)
        draw_table(figure.add_subplot(grid[:, 1]), table, self.classes)
        figure.savefig(picture)

    def draw_sequence(self, axes: Axes, x: Tensor) -> None:
        """A film [T, C] as ten of its frames side by side; other channels as lines."""
        if self.args.file:
            axes.plot(x.numpy())
            return
        frames = x[torch.linspace(0, len(x) - 1, 10).round().long()].view(-1, SCREEN, SCREEN)
        strip = F.pad(frames, (0, 1, 0, 0), value=1.0).transpose(0, 1).flatten(1)
        axes.imshow(strip.numpy(), cmap="gray", vmin=0, vmax=1)
        axes.axis("off")


def draw_table(axes: Axes, table: Tensor, classes: list[str]) -> None:
    """Counts [true, said] in colours of their share of a row."""
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table.numpy()):
        if count and len(classes) <= 20:
            color = "white" if 2 * count > table[row].sum() else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="said", ylabel="true", title="Test sequences, by class")


if __name__ == "__main__":
    main(Activity)
