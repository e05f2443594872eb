"""Word vectors: which words are alike, and "biggest - big + small = smallest".

    python -m examples.word_vectors --quick
    python -m examples.word_vectors --text book.txt --near king   # nearest neighbours
    python -m examples.word_vectors --text book.txt --analogies FILE
    python -m examples.word_lm --text book.txt --vectors word_vectors-vectors.safetensors

Skip-gram with negative sampling (Mikolov et al. 2013, arXiv:1310.4546): a word's vector is to tell
the words around it from random ones. By default the text is of a small grammar. The analogies are
not in it, nor does training see them; FILE has one a line, four words with tabs between. The
vectors are written beside the checkpoint, of length 1, as FILE-vectors.safetensors. There is no
recurrent layer here, so that both --impl are the same: this makes the embedding of one.
"""

import json
import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from examples.data import grammar
from rnnkern.models import Vocabulary, sentences
from rnnkern.models.training import Example, fail, main, read_table, read_text


class SkipGram(nn.Module):
    """Words [N] and others [N, K] to the logits [N, K] of being found near each other."""

    def __init__(self, vocabulary_size: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary_size, size)
        self.contexts = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.vectors.weight, std=size**-0.5)
        nn.init.zeros_(self.contexts.weight)

    def forward(self, words: Tensor, others: Tensor) -> Tensor:
        return (self.contexts(others) @ self.vectors(words)[:, :, None]).squeeze(2)


class WordVectors(Example):
    """Words [N], each with one that stands near it and random ones [N, 1 + noise], to logits."""

    steps, quick_steps = 1500, 300
    lr = 1e-2
    sizes = {
        "words": (5000, 2000),
        "size": (256, 64),
        "window": (5, 5),
        "noise": (5, 5),
        "batch": (1024, 1024),
    }
    metric, unit = "analogies that are right", " %"
    threshold, quick_threshold = 95, 80
    baseline = "the nearest neighbour of the third word"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--text", type=Path, metavar="FILE", help="UTF-8 text; default: sentences of a grammar")
        add("--analogies", type=Path, metavar="FILE", help="default: those of the grammar")
        add("--near", action="append", metavar="WORD", help="print its neighbours; can be repeated")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        text = read_text(args.text) if args.text else "\n".join(grammar.sentences(20_000, seed=0))
        found = list(sentences(text))
        words = stored.get("vocabulary")
        self.vocabulary = Vocabulary(words) if words else Vocabulary.build(found, args.words)
        known = [[w for w in sentence if w in self.vocabulary] for sentence in found]
        self.tokens = torch.tensor([n for words in known for n in self.vocabulary.encode(words)])
        lengths = torch.tensor([len(words) for words in known])
        if int(lengths.max()) < 2:
            fail("no sentence of the text has two words that are in the vocabulary")
        self.sentence = torch.arange(len(known)).repeat_interleave(lengths)
        frequencies = torch.bincount(self.tokens, minlength=len(self.vocabulary))
        self.noise = frequencies**0.75
        self.words = self.vocabulary.own
        self.analogies, self.tables = self.relations(args)
        self.near = [word.lower() for word in args.near or []]
        if unknown := [word for word in self.near if word not in self.vocabulary]:
            fail(f"--near: the text does not have, or not often enough, {', '.join(unknown)}")

    def number(self, word: str) -> int:
        """The place of the word's vector."""
        return self.vocabulary.number(word) - len(Vocabulary.RESERVED)

    def relations(self, args: Namespace) -> tuple[Tensor, list[list[tuple[str, ...]]]]:
        """Analogies of known words, int64 [M, 4], and tables of rows of related words to draw."""
        analogies: list[tuple[str, ...]]
        if args.analogies:
            given = read_table(args.analogies, 4)
            analogies = [tuple(word.lower() for word in row) for row in given]
            tables = [sorted({pair for row in analogies for pair in (row[:2], row[2:])})]
        else:
            analogies = list(grammar.analogies())
            tables = [list(table) for table in grammar.TABLES]

        def known(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
            return [row for row in rows if all(word in self.vocabulary for word in row)]

        numbers = [[self.number(word) for word in row] for row in known(analogies)]
        drawn = [rows for table in tables if len(rows := known(table)) > 1]
        if not numbers:
            lack = "no analogy has four words that the text has often enough"
            fail(lack) if args.analogies else print(lack)
        return torch.tensor(numbers, dtype=torch.int64).view(-1, 4), drawn or [
            [(word,) for word in self.words[:30]]
        ]

    def own_data(self) -> list[Path]:
        return [self.args.text] if self.args.text else []

    def is_judged(self) -> bool:
        """No threshold is known for other analogies."""
        return not self.args.analogies

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.words}

    def build(self) -> nn.Module:
        return SkipGram(len(self.vocabulary), self.args.size)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Near words come more often than far ones: of w the n-th in proportion to w + 1 - n."""
        batch, window = self.args.batch, self.args.window
        weights = torch.arange(window, 0, -1.0)
        distance = torch.multinomial(weights, batch, replacement=True) + 1
        here = torch.randint(len(self.tokens), (batch,))
        there = here + torch.where(torch.rand(batch) < 0.5, distance, -distance)
        there = there.clamp(0, len(self.tokens) - 1)
        noise = torch.multinomial(self.noise, batch * self.args.noise, replacement=True)
        near = (self.sentence[here] == self.sentence[there]) & (here != there)
        here, there, noise = here[near], there[near], noise.view(batch, -1)[near]
        others = torch.cat([self.tokens[there, None], noise], 1)
        logits = model(self.tokens[here].to(self.device), others.to(self.device))
        truth = torch.zeros_like(logits)
        truth[:, 0] = 1
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        return loss / max(1, len(here))

    def directions(self, model: nn.Module) -> Tensor:
        """The vectors, scaled to length 1 and without those of reserved words, [V, E]."""
        assert isinstance(model, SkipGram)
        return F.normalize(model.vectors.weight[len(Vocabulary.RESERVED) :].cpu())

    def nearest(self, queries: Tensor, vectors: Tensor) -> Tensor:
        """For each analogy the word nearest to [M, E], the three given ones excepted, int64 [M]."""
        likeness = queries @ vectors.T
        return likeness.scatter(1, self.analogies[:, :3], float("-inf")).argmax(1)

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        vectors = self.directions(model)
        a, b, c, d = self.analogies.unbind(1)
        self.answers = self.nearest(vectors[b] - vectors[a] + vectors[c], vectors)
        value, baseline = (
            100 * (found == d).double().mean().item()
            for found in (self.answers, self.nearest(vectors[c], vectors))
        )
        return value, baseline

    def show(self, model: nn.Module, picture: Path) -> None:
        vectors = self.directions(model)
        file = self.args.checkpoint.with_name(f"{self.args.checkpoint.stem}-vectors.safetensors")
        save_file({"vectors": vectors.contiguous()}, file, {"words": json.dumps(self.words)})
        print(f"{file} holds {len(vectors)} vectors of size {vectors.size(1)}")
        for word in self.near or self.words[:: len(self.words) // 5 + 1]:
            likeness, nearest = (vectors @ vectors[self.number(word)]).topk(min(6, len(vectors)))
            near = zip(nearest.tolist(), likeness.tolist(), strict=True)
            others = [f"{self.words[n]} {cosine:.2f}" for n, cosine in near][1:]
            print(f"near {word}: {', '.join(others)}")
        found = torch.cat([self.analogies, self.answers[:, None]], 1).tolist()
        for numbers in found[:: len(found) // 8 + 1]:
            a, b, c, d, answer = (self.words[number] for number in numbers)
            print(f"{b} - {a} + {c} = {answer}" + (f", not {d}" if answer != d else ""))
        figure = Figure((6 * len(self.tables), 6), layout="constrained")
        panels = figure.subplots(1, len(self.tables), squeeze=False)[0]
        for axes, rows in zip(panels, self.tables, strict=True):
            numbers = torch.tensor([[self.number(word) for word in row] for row in rows])
            draw(axes, rows, vectors[numbers])
        figure.savefig(picture, dpi=100)


def draw(axes: Axes, rows: list[tuple[str, ...]], vectors: Tensor) -> None:
    """Vectors [R, C, E] of R rows of words: across by column, upward by row."""
    means = vectors.mean(1)
    components = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2]
    upward, across = components[0], components[:2][-1]
    if len(rows[0]) > 1:
        across = (vectors[:, -1] - vectors[:, 0]).mean(0)
        axes.set_xlabel(f"along the mean of {rows[0][-1]} - {rows[0][0]} and the others alike")
    axes.set(ylabel="first principal component of the rows' means", xticks=[], yticks=[])
    axes.margins(x=0.2)
    x, y = vectors @ F.normalize(across, dim=0), vectors @ upward
    gap = (y.max() - y.min()).item() / 36 if len(rows[0]) > 1 else -math.inf
    lines = [axes.plot(*places, marker="o", markersize=3)[0] for places in zip(x, y, strict=True)]
    sides = [((-4, 0), "right", "center"), *[((0, 2), "center", "bottom")] * (len(rows[0]) - 2)]
    sides = [*sides, ((4, 0), "left", "center")][-len(rows[0]) :]
    for column, (offset, ha, va) in enumerate(sides):
        free = -math.inf  # below this the column has words already
        for row in y[:, column].argsort().tolist():
            place = x[row, column].item(), max(free, y[row, column].item())
            free = place[1] + gap
            font = {"color": lines[row].get_color(), "ha": ha, "va": va, "size": 9}
            axes.annotate(rows[row][column], place, offset, textcoords="offset points", **font)


if __name__ == "__main__":
    main(WordVectors)
