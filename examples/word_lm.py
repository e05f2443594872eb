"""A word language model: perplexity, the probability of a sentence, and sentences of its own.

    python -m examples.word_lm --quick                 # on the standard library's docstrings
    python -m examples.word_lm --text book.txt
    python -m examples.word_lm --resume --steps 0 --sentence "return the number of items"
    python -m examples.word_lm --resume --steps 0 --sample 5 --temperature 0.8 --top-k 40
    python -m examples.word_lm --text book.txt --vectors word_vectors-vectors.safetensors

A GRU reads streams of words. Rare words are <UNK>, and <EOS> ends a sentence. The output layer has
the weights of the embedding (tied softmax), which can begin as vectors of `examples.word_vectors`.
"""

import ast
import json
import math
import sysconfig
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import rnnkern
from rnnkern.models import Decoder, Vocabulary, generate, log_probability, pad, sentences
from rnnkern.models.language import LanguageModel
from rnnkern.models.training import fail, main, natural_int, positive_float, positive_int, read_text

OTHERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
SENTENCES = ["return the number of items in the list.", "list the in items of number the return."]


@cache
def stdlib_text() -> str:
    """The paragraphs of the standard library's documentation strings, without examples."""
    return "\n\n".join(p for p in paragraphs() if not p.startswith(" ") and ">>>" not in p)


def paragraphs() -> Iterator[str]:
    """Those of all modules, classes and functions, but of tests and of other packages."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if OTHERS & set(path.relative_to(library).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escape sequences
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield from (ast.get_docstring(node) or "").split("\n\n")


def read_vectors(path: Path) -> tuple[list[str], Tensor]:
    """V words and their vectors [V, E], of a file that `examples.word_vectors` wrote."""
    try:
        with safe_open(path, "pt") as file:
            words = json.loads((file.metadata() or {}).get("words", "[]"))
            vectors = file.get_tensor("vectors")
    except (OSError, SafetensorError, ValueError) as error:
        fail(f"cannot read word vectors from {path}: {error}")
    if vectors.dim() != 2 or len(words) != len(vectors):
        fail(f"{path} has {len(words)} words and vectors of shape {list(vectors.shape)}")
    return words, vectors


class WordLM(LanguageModel):
    """Words [N, T] to the logits of those that follow."""

    steps, quick_steps = 700, 60
    sizes = {
        "words": (5000, 2000),
        "hidden": (256, 64),
        "layers": (1, 1),
        "batch": (32, 32),
        "chunk": (50, 30),
    }
    metric = "perplexity of held-out words"
    larger_is_better = False
    threshold, quick_threshold = 125, 280
    baseline = "the frequencies of words"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--text", type=Path, metavar="FILE", help="UTF-8 text; default: Python's docstrings")
        add("--sentence", action="append", help="print its probability; can be repeated")
        add("--sample", type=natural_int, default=3, metavar="N", help="sentences; default 3")
        add("--temperature", type=positive_float, default=0.7, help="default 0.7")
        add("--top-k", type=positive_int, metavar="K", help="sample the K likeliest words only")
        add("--vectors", type=Path, metavar="FILE", help="word vectors to begin with")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        if args.resume and args.vectors:
            fail("--vectors are to begin with, and --resume goes on: use one of them")
        text = read_text(args.text) if args.text else stdlib_text()
        found = list(sentences(text))
        words = stored.get("vocabulary")
        self.vocabulary = Vocabulary(words) if words else Vocabulary.build(found, args.words)
        ends = [[*self.vocabulary.encode(words), Vocabulary.EOS] for words in found]
        self.use(torch.tensor([number for sentence in ends for number in sentence]))

    def own_data(self) -> list[Path]:
        return [self.args.text] if self.args.text else []

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.own}

    def build(self) -> nn.Module:
        hidden, layers = self.args.hidden, self.args.layers
        embed = nn.Embedding(len(self.vocabulary), hidden)
        nn.init.normal_(embed.weight, std=hidden**-0.5)  # which as output weights gives logits of 1
        if self.args.vectors:
            self.begin_with(self.args.vectors, embed.weight)
        rnn = rnnkern.GRU(hidden, hidden, layers, batch_first=True)
        return Decoder(embed, rnn, tied=True, dropout=0.2)

    @torch.no_grad()
    def begin_with(self, path: Path, weight: Tensor) -> None:
        """Copy the vectors of the words that the file has into their rows of weight [V, H]."""
        words, vectors = read_vectors(path)
        if vectors.size(1) != weight.size(1):
            fail(f"{path} has vectors of size {vectors.size(1)}, --hidden is {weight.size(1)}")
        known = [place for place, word in enumerate(words) if word in self.vocabulary]
        if not known:
            fail(f"{path} has none of the text's words")
        weight[self.vocabulary.encode(words[place] for place in known)] = vectors[known]
        print(f"{len(known)} of {len(self.vocabulary)} words begin with the vectors of {path}")

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        return math.exp(self.nats(model)), math.exp(self.nats_of_frequencies(len(self.vocabulary)))

    def show(self, model: nn.Module, picture: Path) -> None:
        for sentence in self.args.sentence or SENTENCES:
            words = [word for words in sentences(sentence) for word in words]
            numbers = self.vocabulary.encode(words)
            tokens, lengths = pad([[Vocabulary.EOS, *numbers, Vocabulary.EOS]])
            logs = log_probability(model, None, tokens.to(self.device), lengths.to(self.device))
            each = math.exp(-logs.item() / (len(words) + 1))
            print(f"P({' '.join(words)}) = exp({logs.item():.1f}), perplexity {each:.1f}")
        self.write(model, "greedy", 1)
        kind, k = f"at temperature {self.args.temperature:g}", self.args.top_k
        self.write(model, kind, self.args.sample, temperature=self.args.temperature, top_k=k)

    def write(self, model: nn.Module, kind: str, count: int, **options: Any) -> None:
        """Print so many sentences that the model generates."""
        first = torch.full((count,), Vocabulary.EOS, device=self.device)
        for row in generate(model, None, first, 40, **options):
            print(f"{kind}: {' '.join(self.vocabulary.decode(row.tolist()))}")


if __name__ == "__main__":
    main(WordLM)
