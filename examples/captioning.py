"""An image in, a sentence out: captions of scenes of handwritten digits.

    python -m examples.captioning --quick
    python -m examples.captioning
    python -m examples.captioning --resume --steps 0 --image FILE.png   # one of your own

A convolutional network makes one vector of a scene, from which an LSTM says word by word how many
digits there are, which, how large, and how they stand to each other: "three digits: a two left of
a large five, above an eight". It learns on scenes of one digit first, then of more and more (a
curriculum). No digit of a test scene is the sample of one trained on, and a caption counts only if
every word is right.
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
from examples.data.digits import LONGEST, WORDS, Samples, caption, draw, layout, samples, written
from rnnkern.models import Decoder, Vocabulary, generate, pad
from rnnkern.models.decoder import State
from rnnkern.models.training import Example, accuracy, fail, main

VOCABULARY = Vocabulary(WORDS)
TEST_SCENES = 1000
LESSON = 250
"""Steps before scenes of one digit more are among those trained on."""


def own_image(path: Path, side: int) -> Tensor:
    """A picture of digits, dark on light or light on dark, as scenes are: [side, side]."""
    try:
        image = np.asarray(imread(path))
    except (OSError, ValueError, SyntaxError) as error:
        fail(f"cannot read the image {path}: {error}")
    if image.dtype.kind == "u":
        image = image / np.float32(255)
    if image.ndim == 3:
        channels = image.shape[2]
        paper_shows = image[..., -1] if channels in (2, 4) else np.float32(1)  # transparency
        image = image[..., : 1 if channels < 3 else 3].mean(2) * paper_shows + 1 - paper_shows
    paper = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    ink = torch.from_numpy(abs(image - paper))
    if ink.max() == 0:
        fail(f"nothing is to be seen in {path}: all its pixels are {paper:g}")
    height, width = ink.shape
    longer = max(ink.shape)
    left, top = (longer - width) // 2, (longer - height) // 2
    square = F.pad(ink, (left, longer - width - left, top, longer - height - top))[None, None]
    scaled = F.interpolate(square, (side, side), mode="bilinear", antialias=True)[0, 0]
    return scaled / scaled.max()


class Captioner(nn.Module):
    """Scenes [N, side, side] and the beginnings of their captions to what follows."""

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, pool in ((1, 16, 2), (16, 32, 2), (32, 64, 1), (64, 64, 2)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(pool)]
        vector = nn.Linear(64 * (side // 8) ** 2, hidden)
        self.see = nn.Sequential(*layers, nn.Flatten(), vector)
        rnn = rnnkern.LSTM(hidden, hidden, batch_first=True)
        with torch.no_grad():  # forget gates near 1, lest the vector is lost before its last digit
            rnn.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1
        self.say = Decoder(nn.Embedding(len(VOCABULARY), hidden), rnn)

    def start(self, images: Tensor) -> State:
        return self.say.start(self.see(images[:, None]))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Args:
            images: [N, side, side].
            tokens: int64 [N, T], of which the first is BOS.

        Returns:
            Logits [N, T, V] of the word after each.
        """
        logits, _ = self.say(tokens, self.start(images))
        return logits


class Captioning(Example):
    """Images [N, side, side] to captions [N, T], T up to LONGEST + 1."""

    steps, quick_steps = 2000, 300
    sizes = {"hidden": (256, 128), "digits": (4, 1), "side": (32, 16), "batch": (64, 32)}
    metric, unit = "captions without a wrong word", " %"
    threshold, quick_threshold = 60, 40
    baseline = "the most frequent caption"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--image", type=Path, metavar="FILE", help="say what is in it")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.digits > 4:
            raise ValueError(f"a scene has at most 4 digits, got --digits {args.digits}")
        least = 16 if args.digits == 1 else 32
        if args.side % 8 or args.side < least:
            raise ValueError(
                f"--side must be a multiple of 8 and at least {least}, got {args.side}"
            )
        self.image = own_image(args.image, args.side) if args.image else None
        self.training, self.test = samples()

    def scenes(
        self, number: int, of: Samples, most: int, seed: int
    ) -> tuple[Tensor, list[list[str]]]:
        """Images [number, side, side] of at most so many digits, and their captions."""
        random, side = np.random.default_rng(seed), self.args.side
        layouts = [layout(random, most, side) for _ in range(number)]
        images = np.stack([draw(boxes, of, side, random) for boxes in layouts])
        return torch.from_numpy(images).to(self.device), [caption(boxes) for boxes in layouts]

    def build(self) -> nn.Module:
        return Captioner(self.args.hidden, self.args.side)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        seed = int(torch.randint(2**62, ()))
        most = min(self.args.digits, 1 + step // LESSON)
        images, captions = self.scenes(self.args.batch, self.training, most, seed)
        tokens, _ = pad([VOCABULARY.encode(words, ends=True) for words in captions])
        tokens = tokens.to(self.device)
        logits, targets = model(images, tokens[:, :-1]), tokens[:, 1:]
        nats = F.cross_entropy(logits.mT, targets, ignore_index=Vocabulary.PAD, reduction="sum")
        return nats / len(images)

    def captions(self, model: nn.Module, images: Tensor) -> list[list[str]]:
        """What the model says about images [N, side, side]."""
        assert isinstance(model, Captioner)
        first = torch.full((len(images),), Vocabulary.BOS, device=self.device)
        tokens = generate(model.say, model.start(images.to(self.device)), first, LONGEST + 1)
        return [VOCABULARY.decode(row) for row in tokens.tolist()]

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        images, truths = self.scenes(TEST_SCENES, self.test, self.args.digits, seed=1)
        said = self.captions(model, images)
        right = accuracy(ours == truth for ours, truth in zip(said, truths, strict=True))
        ((_, most),) = Counter(map(tuple, truths)).most_common(1)
        return 100 * right, 100 * most / len(truths)

    def show(self, model: nn.Module, picture: Path) -> None:
        images, truths = self.scenes(TEST_SCENES, self.test, self.args.digits, seed=1)
        said = self.captions(model, images)
        for count in sorted({truth[0] for truth in truths}, key=WORDS.index):
            pairs = [(a, b) for a, b in zip(said, truths, strict=True) if b[0] == count]
            print(f"{100 * accuracy(a == b for a, b in pairs):.0f} % with {count} {pairs[0][1][1]}")
        draw_scenes(images[:12].cpu(), said, truths, picture)
        print(f"{picture} shows 12 test scenes")
        if self.image is not None:
            print(f"{self.args.image}: {written(self.captions(model, self.image[None])[0])}")


def draw_scenes(
    images: Tensor, said: list[list[str]], truths: list[list[str]], picture: Path
) -> None:
    """Scenes with their captions, the wrong ones red and above the right ones."""
    figure = Figure(figsize=(12, 11), layout="constrained")
    figure.suptitle("Test scenes and what the model says (red: wrong, with the truth below)")
    for axes, image, ours, truth in zip(
        figure.subplots(3, 4).flat, images, said, truths, strict=False
    ):
        axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        text = fill(written(ours), 32)
        if ours != truth:
            text += "\nTruth: " + fill(written(truth), 32)
        axes.set_title(text, fontsize=10, color="black" if ours == truth else "red")
    figure.savefig(picture)


if __name__ == "__main__":
    main(Captioning)
