"""Sentiment of a sentence: positive or negative, where single words do not tell.

    python -m examples.sentiment --quick
    python -m examples.sentiment
    python -m examples.sentiment --resume --steps 0 --sentence "The soup was anything but bland."
    python -m examples.sentiment --file reviews.tsv      # lines of: label, tab, sentence

A bidirectional GRU reads the sentence; what both directions end with, and the largest value of each
unit over all words, decide. The default sentences are composed from frames that negate, weigh
clauses against each other and report what others say; those of the test put words into frames
that they were never seen in. The picture shows how the judgement turns as a sentence is read.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional as F

import rnnkern
from examples.data.sentiment import opinions
from rnnkern.models import Encoder, Vocabulary, pad, sentences
from rnnkern.models.training import Example, accuracy, fail, main, positive_int, read_table, split

SHOWN = [
    "the acting was dull , but the ending was not dull at all .",
    "although the soup was tasty , the bread was anything but fresh .",
    "i expected a noisy hotel and got a quiet one .",
    "some say that the screen was sharp , and they are wrong .",
]
Row = tuple[str, list[str]]
"""A label and the words of a sentence."""


class Classifier(nn.Module):
    """Sentences [N, T] of lengths [N] to the logits [N, K] of their labels."""

    def __init__(self, vocabulary_size: int, hidden: int, labels: int) -> None:
        super().__init__()
        rnn = rnnkern.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.encoder = Encoder(nn.Embedding(vocabulary_size, hidden), rnn)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * self.encoder.size, labels)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        memory, last = self.encoder(tokens, lengths)
        beyond = torch.arange(tokens.size(1)) >= lengths[:, None]
        memory = memory.masked_fill(beyond[..., None].to(memory.device), float("-inf"))
        return self.head(self.dropout(torch.cat([last, memory.amax(1)], -1)))


class Sentiment(Example):
    """Sentences of words to labels."""

    steps, quick_steps = 1500, 300
    lr = 3e-3
    sizes = {"sentences": (20000, 5000), "hidden": (128, 64), "batch": (64, 64)}
    metric, unit = "held-out sentences judged rightly", " %"
    threshold, quick_threshold = 95, 75
    baseline = "logistic regression on the bag of words"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--file", type=Path, metavar="FILE", help="lines: a label, a tab, a sentence")
        add("--sentence", action="append", metavar="TEXT", help="judge it; can be repeated")
        add("--max-length", type=positive_int, default=200, metavar="N", help="words; default 200")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.file:
            rows = [(label, words_of(text)) for label, text in read_table(args.file, 2)]
            self.training, self.held_out = split(rows, lambda row: " ".join(row[1]))
        else:
            self.training = composed(args.sentences, False, Random(1))
            self.held_out = composed(2000, True, Random(2))
        self.shown = [words_of(text) for text in args.sentence or ([] if args.file else SHOWN)]
        texts = [words for _, words in self.training + self.held_out]
        if (longest := max(map(len, texts + self.shown))) > args.max_length:
            fail(f"a sentence has {longest} words, more than --max-length {args.max_length}")
        self.labels = sorted({label for label, _ in self.training})
        if len(self.labels) < 2:
            fail(f"at least 2 labels are needed, {args.file} has {self.labels}")
        stored_words = stored.get("vocabulary")
        words = (words for _, words in self.training)
        self.vocabulary = Vocabulary(stored_words) if stored_words else Vocabulary.build(words)

    def own_data(self) -> list[Path]:
        return [self.args.file] if self.args.file else []

    def facts(self) -> dict[str, Any]:
        return {"labels": self.labels, "vocabulary": self.vocabulary.own}

    def build(self) -> nn.Module:
        return Classifier(len(self.vocabulary), self.args.hidden, len(self.labels))

    def batch(self, texts: list[list[str]]) -> tuple[Tensor, Tensor]:
        tokens, lengths = pad([self.vocabulary.encode(words) for words in texts])
        return tokens.to(self.device), lengths

    def loss(self, model: nn.Module, step: int) -> Tensor:
        chosen = torch.randint(len(self.training), (self.args.batch,)).tolist()
        labels, texts = zip(*(self.training[place] for place in chosen), strict=True)
        truth = torch.tensor([self.labels.index(label) for label in labels])
        return F.cross_entropy(model(*self.batch(list(texts))), truth.to(self.device))

    def probabilities(self, model: nn.Module, texts: list[list[str]]) -> Tensor:
        """Of the labels, [N, K]."""
        parts = [texts[start : start + 200] for start in range(0, len(texts), 200)]
        return torch.cat([model(*self.batch(part)).softmax(-1) for part in parts]).cpu()

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        labels, texts = zip(*self.held_out, strict=True)
        told = self.probabilities(model, list(texts)).argmax(1)
        right = accuracy(
            self.labels[place] == label for place, label in zip(told, labels, strict=True)
        )
        common, _ = Counter(label for label, _ in self.training).most_common(1)[0]
        guessed = accuracy(label == common for label in labels)
        print(f"always {common}: {100 * guessed:.1f} % right")
        return 100 * right, 100 * self.bag_of_words()

    def bag_of_words(self) -> float:
        """The share that a linear model of the numbers of words judges rightly."""
        model = make_pipeline(
            CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000)
        )
        (truth, texts), (labels, others) = (
            zip(*((label, " ".join(words)) for label, words in rows), strict=True)
            for rows in (self.training, self.held_out)
        )
        return float(model.fit(texts, truth).score(others, labels))

    def show(self, model: nn.Module, picture: Path) -> None:
        if not self.shown:
            return
        figure = Figure((11, 2.6 * len(self.shown)), layout="constrained")
        axes = figure.subplots(len(self.shown), squeeze=False)[:, 0]
        for ax, words in zip(axes, self.shown, strict=True):
            prefixes = [words[: count + 1] for count in range(len(words))]
            curves = self.probabilities(model, prefixes)
            best = int(curves[-1].argmax())
            print(f"{' '.join(words)}  {self.labels[best]} ({100 * curves[-1, best]:.0f} %)")
            ax.plot(100 * curves[:, -1], "o-", color="#1b6ca8")
            ax.axhline(50, color="#8a8a8a", linewidth=0.8)
            ax.set_xticks(range(len(words)), words, rotation=30, ha="right")
            ax.set_title(f"in the end {self.labels[best]}")
            ax.set(ylim=(-5, 105), ylabel=f"{self.labels[-1]}, %")
        figure.suptitle(f"P({self.labels[-1]}) after each word read so far")
        figure.savefig(picture, dpi=100)


def words_of(text: str) -> list[str]:
    """Lower-case words and marks of a text, which must have some."""
    words = [word for sentence in sentences(text) for word in sentence]
    if not words:
        fail(f"there are no words in {text!r}")
    return words


def composed(count: int, held_out: bool, random: Random) -> list[Row]:
    """Sentences of the project's own, of the words held out from frames or of the others."""
    found = opinions(count, held_out, random)
    return [(opinion.label, opinion.sentence.split()) for opinion in found]


if __name__ == "__main__":
    main(Sentiment)
