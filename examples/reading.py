"""Reading comprehension: a short story and a question in, one word out.

    python -m examples.reading --quick
    python -m examples.reading
    echo "Anna went to the hall. Anna took the lamp. Anna ran to the attic." > story.txt
    python -m examples.reading --resume --steps 0 --story story.txt --question "Where is the lamp?"

A GRU reads the question, and each sentence of the story. Another one reads the sentences in both
directions, with the question in mind: its summary is put beside every sentence. Attention then
looks at the story three times, each time with what it has found so far. Stories are generated;
those of the test are none of the training's. The picture shows which sentences were looked at.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import rnnkern
from examples.data import stories
from examples.data.stories import KINDS, Item
from rnnkern.models import Encoder, GeneralAttention, Vocabulary, pad, sentences
from rnnkern.models.training import Example, accuracy, fail, main, read_text

HOPS = 3


class Reader(nn.Module):
    """Stories and questions, N of both, to the logits [N, V] of the answer's word."""

    def __init__(self, vocabulary_size: int, hidden: int) -> None:
        super().__init__()
        embed = nn.Embedding(vocabulary_size, hidden)
        self.words = Encoder(embed, rnnkern.GRU(hidden, hidden, batch_first=True))
        rnn = rnnkern.GRU(2 * hidden, hidden, 2, batch_first=True, bidirectional=True)
        self.sentences = Encoder(nn.Identity(), rnn)
        self.attention = GeneralAttention(hidden, 2 * hidden)
        self.hop = nn.Linear(3 * hidden, hidden)
        self.head = nn.Linear(hidden, vocabulary_size)

    def forward(
        self, tokens: Tensor, lengths: Tensor, counts: Tensor, question: Tensor, of_question: Tensor
    ) -> Tensor:
        """Sentences of all stories, one story after the other, and questions.

        Args:
            tokens, lengths: of the sentences, [M, W] and [M].
            counts: how many sentences each story has, [N], M in all.
            question, of_question: tokens and lengths of the questions, [N, Q] and [N].
        """
        _, query = self.words(question, of_question)
        _, vectors = self.words(tokens, lengths)
        story = pad_sequence(vectors.split(counts.tolist()), batch_first=True)
        beside = query[:, None].expand(-1, story.size(1), -1)
        memory, _ = self.sentences(torch.cat([story, beside], -1), counts)
        keys, counts = self.attention.keys(memory), counts.to(story.device)
        for _ in range(HOPS):
            context, _ = self.attention(query[:, None], keys, memory, counts)
            query = query + torch.tanh(self.hop(torch.cat([context.squeeze(1), query], -1)))
        return self.head(query)


class Reading(Example):
    """Stories and questions to answers."""

    steps, quick_steps = 4500, 500
    sizes = {
        "stories": (30000, 10000),
        "sentences": (10, 3),
        "hidden": (128, 64),
        "batch": (64, 32),
    }
    metric, unit = "questions about held-out stories answered rightly", " %"
    threshold, quick_threshold = 90, 55
    baseline = "the most frequent answer to each kind of question"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--story", type=Path, metavar="FILE", help="of your own, in the words of the examples")
        add("--question", metavar="TEXT", help="about it")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if bool(args.story) != bool(args.question):
            fail("--story and --question go together")
        if args.sentences < 3:
            fail(f"--sentences must be at least 3, got {args.sentences}")
        self.held_out = stories.items(1, 1000, args.sentences)
        known = {str(item.story) for item in self.held_out}
        items = stories.items(0, args.stories, args.sentences)
        self.training = [item for item in items if str(item.story) not in known]
        words = [[item.answer, *sum(item.story, item.question)] for item in self.training]
        self.vocabulary = Vocabulary.build(words)
        if len({item.kind for item in self.training}) < len(KINDS):
            fail(f"--stories {args.stories} are too few to have all kinds of questions")
        self.own = self.own_item() if args.story else None

    def own_item(self) -> Item:
        """The story and the question of the command line."""
        story = list(sentences(read_text(self.args.story)))
        question = [word for words in sentences(self.args.question) for word in words]
        if unknown := [word for word in sum(story, question) if word not in self.vocabulary]:
            known = ", ".join(sorted(self.vocabulary.own))
            fail(f"the words {unknown[:8]} are not among those of the examples: {known}")
        if not question:
            fail("--question is empty")
        return Item(story, question, 0, "")

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.own}

    def batch(self, items: list[Item]) -> tuple[Tensor, ...]:
        """What the model takes, for these items."""
        encode = self.vocabulary.encode
        tokens, lengths = pad([encode(words) for item in items for words in item.story])
        question, of_question = pad([encode(item.question) for item in items])
        counts = torch.tensor([len(item.story) for item in items])
        return tokens.to(self.device), lengths, counts, question.to(self.device), of_question

    def build(self) -> nn.Module:
        return Reader(len(self.vocabulary), self.args.hidden)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        chosen = torch.randint(len(self.training), (self.args.batch,)).tolist()
        items = [self.training[place] for place in chosen]
        answers = torch.tensor(self.vocabulary.encode(item.answer for item in items))
        return F.cross_entropy(model(*self.batch(items)), answers.to(self.device))

    def answers(self, model: nn.Module, items: list[Item]) -> list[str]:
        """The likeliest word for each item."""
        parts = [items[start : start + 100] for start in range(0, len(items), 100)]
        numbers = torch.cat([model(*self.batch(part)).argmax(-1) for part in parts])
        return [self.vocabulary.words[number] for number in numbers.tolist()]

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        answers = Counter((item.kind, item.answer) for item in self.training)
        common = {
            kind: max((n, answer) for (of, answer), n in answers.items() if of == kind)[1]
            for kind in range(len(KINDS))
        }
        found = self.answers(model, self.held_out)
        pairs = list(zip(self.held_out, found, strict=True))
        for kind, name in enumerate(KINDS):
            right = accuracy(answer == item.answer for item, answer in pairs if item.kind == kind)
            print(f"{name}: {100 * right:.1f} % right")
        right = accuracy(answer == item.answer for item, answer in pairs)
        guessed = accuracy(common[item.kind] == item.answer for item in self.held_out)
        return 100 * right, 100 * guessed

    def show(self, model: nn.Module, picture: Path) -> None:
        items = [next(i for i in self.held_out if i.kind == kind) for kind in range(len(KINDS))]
        items = [self.own] if self.own else items
        weights: list[Tensor] = []
        attention = model.get_submodule("attention")
        handle = attention.register_forward_hook(lambda *call: weights.append(call[2][1][:, 0]))
        answers = self.answers(model, items)
        handle.remove()
        for item, answer in zip(items, answers, strict=True):
            truth = f" (in truth {item.answer})" if item.answer not in ("", answer) else ""
            story = " ".join(" ".join(words) for words in item.story)
            print(f"{story} | {' '.join(item.question)} {answer}{truth}")
        draw(items, answers, torch.stack(weights, 1).cpu(), picture)


def draw(items: list[Item], answers: list[str], weights: Tensor, picture: Path) -> None:
    """Each story with a bar for each look at each sentence, weights [N, HOPS, S]."""
    height = 0.8 + 0.22 * sum(len(item.story) + 3 for item in items)
    figure = Figure((11, height), layout="constrained")
    heights = [len(item.story) + 1 for item in items]
    axes = figure.subplots(len(items), squeeze=False, height_ratios=heights)[:, 0]
    for ax, item, answer, looks in zip(axes, items, answers, weights, strict=True):
        shares = looks[:, : len(item.story)].T.numpy()
        ax.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        ax.set_xticks(range(HOPS), [f"look {hop + 1}" for hop in range(HOPS)], fontsize=8)
        ax.set_yticks(range(len(item.story)), [" ".join(words) for words in item.story], fontsize=8)
        right = "" if item.answer in ("", answer) else f" (in truth {item.answer})"
        ax.set_title(f"{' '.join(item.question)}  {answer}{right}", fontsize=10, loc="left")
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(Reading)
