"""An image in, a sentence out: captions of scenes of handwritten digits.

    python -m examples.captioning --quick
    python -m examples.captioning
    python -m examples.captioning --resume --steps 0 --image FILE.png   # one of your own

A convolutional network makes one vector of a scene, from which an LSTM begins, and vectors of 16
parts, at which its attention looks for every word (after arXiv:1502.03044). It says how many digits
there are, which, how large, and how they stand to each other: "three digits: a two left of a large
five, above an eight". Whoever wrote the digits of the test scenes has written none of those
trained on, and a caption counts only if every word is right.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor, nn
from torch.nn import functional as F

import rnnkern
from examples.data.digits import CANVAS, LONGEST, WORDS, caption, draw, layout, samples, written
from rnnkern.models import Decoder, GeneralAttention, Vocabulary, generate, pad
from rnnkern.models.decoder import State
from rnnkern.models.training import Example, accuracy, fail, main

VOCABULARY = Vocabulary(WORDS)
TEST_SCENES = 1000


def own_image(path: Path) -> Tensor:
    """A picture of digits, dark on light or light on dark, as scenes are: [CANVAS, CANVAS]."""
    try:
        image = np.asarray(imread(path), dtype=np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        fail(f"cannot read the image {path}: {error}")
    if image.ndim == 3:
        image = image[..., : 1 if image.shape[2] < 3 else 3].mean(2)
    paper = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    ink = torch.from_numpy(abs(image - paper))
    if ink.max() == 0:
        fail(f"nothing is to be seen in {path}: all its pixels are {paper:g}")
    height, width = ink.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(ink, (left, side - width - left, top, side - height - top))[None, None]
    scaled = F.interpolate(square, (CANVAS, CANVAS), mode="bilinear", antialias=True)[0, 0]
    return scaled / scaled.max()


class Captioner(nn.Module):
    """Scenes [N, CANVAS, CANVAS] and the beginnings of their captions to what follows."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        cells = (CANVAS // 8) ** 2
        self.see = nn.Sequential(*layers, nn.Flatten(2))
        self.places = nn.Parameter(0.3 * torch.randn(cells, 64))
        self.vector = nn.Linear(64 * cells, hidden)
        embed = nn.Embedding(len(VOCABULARY), hidden)
        rnn = rnnkern.LSTM(hidden, hidden, batch_first=True)
        self.say = Decoder(embed, rnn, GeneralAttention(hidden, 64))

    def start(self, images: Tensor) -> State:
        """The state that images [N, CANVAS, CANVAS] are described from."""
        cells = self.see(images[:, None]).mT
        lengths = torch.full((len(images),), cells.size(1))
        vector = torch.tanh(self.vector(cells.flatten(1)))
        return self.say.start(vector, (cells + self.places, lengths))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Args:
            images: [N, CANVAS, CANVAS].
            tokens: int64 [N, T], of which the first is BOS.

        Returns:
            Logits [N, T, V] of the word after each.
        """
        logits, _ = self.say(tokens, self.start(images))
        return logits


class Captioning(Example):
    """Images [N, CANVAS, CANVAS] to captions [N, T], T up to LONGEST + 1."""

    steps, quick_steps = 2000, 200
    lr = 3e-3
    sizes = {"digits": (4, 1), "hidden": (192, 96), "batch": (64, 64)}
    metric, unit = "captions without a wrong word", " %"
    threshold, quick_threshold = 60, 40
    baseline = "the most frequent caption"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--image", type=Path, metavar="FILE", help="say what is in it")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.digits > 4:
            fail(f"--digits must be from 1 to 4, got {args.digits}")
        self.image = own_image(args.image) if args.image else None
        self.training, self.test = samples()

    def scenes(self, number: int, seed: int, test: bool) -> tuple[Tensor, list[list[str]]]:
        """Images [number, CANVAS, CANVAS] and their captions."""
        random = np.random.default_rng(seed)
        layouts = [layout(random, self.args.digits) for _ in range(number)]
        of = self.test if test else self.training
        images = np.stack([draw(boxes, of, random) for boxes in layouts])
        return torch.from_numpy(images).to(self.device), [caption(boxes) for boxes in layouts]

    def build(self) -> nn.Module:
        return Captioner(self.args.hidden)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        seed = int(torch.randint(2**62, ()))
        images, captions = self.scenes(self.args.batch, seed, test=False)
        tokens, _ = pad([VOCABULARY.encode(words, ends=True) for words in captions])
        tokens = tokens.to(self.device)
        logits, targets = model(images, tokens[:, :-1]), tokens[:, 1:]
        return F.cross_entropy(logits.mT, targets, ignore_index=Vocabulary.PAD)

    def captions(self, model: nn.Module, images: Tensor) -> list[list[str]]:
        """What the model says about images [N, CANVAS, CANVAS]."""
        assert isinstance(model, Captioner)
        first = torch.full((len(images),), Vocabulary.BOS, device=self.device)
        tokens = generate(model.say, model.start(images.to(self.device)), first, LONGEST + 1)
        return [VOCABULARY.decode(row) for row in tokens.tolist()]

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        images, truths = self.scenes(TEST_SCENES, seed=1, test=True)
        said = self.captions(model, images)
        right = accuracy(ours == truth for ours, truth in zip(said, truths, strict=True))
        ((_, most),) = Counter(map(tuple, truths)).most_common(1)
        return 100 * right, 100 * most / len(truths)

    def show(self, model: nn.Module, picture: Path) -> None:
        images, truths = self.scenes(TEST_SCENES, seed=1, test=True)
        said = self.captions(model, images)
        for count in sorted({truth[0] for truth in truths}, key=WORDS.index):
            pairs = [(a, b) for a, b in zip(said, truths, strict=True) if b[0] == count]
            print(f"{100 * accuracy(a == b for a, b in pairs):.0f} % with {count} {pairs[0][1][1]}")
        draw_scenes(images[:20].cpu(), said, truths, picture)
        print(f"{picture} shows 20 test scenes")
        if self.image is not None:
            print(f"{self.args.image}: {written(self.captions(model, self.image[None])[0])}")


def draw_scenes(
    images: Tensor, said: list[list[str]], truths: list[list[str]], picture: Path
) -> None:
    """Scenes with their captions, the wrong ones red and above the right ones."""
    figure = Figure(figsize=(14, 13), layout="constrained")
    figure.suptitle("Test scenes and what the model says (red: wrong, with the truth below)")
    for axes, image, ours, truth in zip(
        figure.subplots(4, 5).flat, images, said, truths, strict=False
    ):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        text = fill(written(ours), 32)
        if ours != truth:
            text += "\nTruth: " + fill(written(truth), 32)
        axes.set_title(text, fontsize=10, color="black" if ours == truth else "red")
    figure.savefig(picture)


if __name__ == "__main__":
    main(Captioning)
