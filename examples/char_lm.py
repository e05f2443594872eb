"""A character language model: train it, stop it, resume it, sample from it.

    python -m examples.char_lm --quick --sample 300          # on Python's own sources
    python -m examples.char_lm --text book.txt --steps 5000  # Ctrl-C saves and ends
    python -m examples.char_lm --text book.txt --resume --steps 0 --sample 1000 --temperature 0.7
    torchrun --nproc-per-node=2 -m examples.char_lm --text book.txt  # a step of one process, shared

Two layers of LSTM read streams of text, each step from the state that the step before ended in.
Both `--impl`s read each other's checkpoints.
"""

import math
import sysconfig
from argparse import ArgumentParser, Namespace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rnnkern
from rnnkern.models import Decoder, State, Vocabulary, generate
from rnnkern.models.language import LanguageModel
from rnnkern.models.search import StepFunction
from rnnkern.models.training import fail, main, natural_int, positive_float, read_text


@cache
def stdlib_text() -> str:
    """3 million characters of the standard library's sources, in alphabetical order."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)[:3_000_000]


class CharLM(LanguageModel):
    """Characters [N, T] to the logits of those that follow."""

    steps, quick_steps = 2000, 200
    sizes = {"hidden": (256, 128), "layers": (2, 1), "batch": (32, 32), "chunk": (100, 64)}
    metric, unit = "held-out text", " bits per character"
    larger_is_better = False
    threshold, quick_threshold = 1.9, 3.2
    baseline = "the frequencies of characters"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--text", type=Path, metavar="FILE", help="UTF-8 text; default: Python's own sources")
        add("--sample", type=natural_int, default=0, metavar="N", help="characters to print")
        add("--temperature", type=positive_float, default=1.0, help="below 1 likely ones likelier")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        text = read_text(args.text) if args.text else stdlib_text()
        self.vocabulary = Vocabulary(stored.get("vocabulary") or sorted(set(text)))
        if unknown := sorted(set(text) - set(self.vocabulary.words)):
            fail(f"the text has characters the checkpoint does not know: {unknown[:8]}")
        self.use(torch.tensor(self.vocabulary.encode(text)))

    def own_data(self) -> list[Path]:
        return [self.args.text] if self.args.text else []

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.own}

    def build(self) -> nn.Module:
        hidden, layers = self.args.hidden, self.args.layers
        rnn = rnnkern.LSTM(hidden, hidden, layers, batch_first=True)
        return Decoder(nn.Embedding(len(self.vocabulary), hidden), rnn)

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        frequencies = self.nats_of_frequencies(len(self.vocabulary))
        return self.nats(model) / math.log(2), frequencies / math.log(2)

    def show(self, model: nn.Module, picture: Path) -> None:
        if self.args.sample > 0:
            first = torch.tensor([len(Vocabulary.RESERVED)], device=self.device)
            n, temperature = self.args.sample, self.args.temperature
            tokens = generate(of_characters(model), None, first, n, temperature=temperature)
            print("".join(self.vocabulary.decode(tokens[0].tolist())))


def of_characters(model: nn.Module) -> StepFunction:
    """The model, but that what is no character has the probability 0."""

    def step(tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        logits, state = model(tokens, state)
        logits[..., : len(Vocabulary.RESERVED)] = float("-inf")
        return logits, state

    return step


if __name__ == "__main__":
    main(CharLM)
