"""Words to numbers and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


class Vocabulary:
    """A numbering of words from 0, in which four are reserved.

    `PAD` fills rows of a batch up, `BOS` and `EOS` begin and end a sequence, `UNK` stands for every
    word that has no number.

    Args:
        words: in the order of their numbers, without the reserved ones, at least two.

    Raises:
        ValueError: fewer than two words, a word twice, or a reserved one.
    """

    PAD, BOS, EOS, UNK = range(4)
    RESERVED = ("<PAD>", "<BOS>", "<EOS>", "<UNK>")

    def __init__(self, words: Sequence[str]) -> None:
        if len(words) < 2:
            raise ValueError(f"a vocabulary needs at least 2 words, got {list(words)}")
        self.words = [*self.RESERVED, *words]
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(f"these words are in the vocabulary twice: {twice[:8]}")

    @classmethod
    def build(cls, sequences: Iterable[Iterable[str]], size: int | None = None) -> Vocabulary:
        """The `size` most frequent words (default: all), the most frequent first."""
        counts = Counter(word for sequence in sequences for word in sequence)
        for word in cls.RESERVED:
            del counts[word]
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:size])

    @property
    def own(self) -> list[str]:
        """The words without the reserved ones: what a vocabulary is made of."""
        return self.words[len(self.RESERVED) :]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._numbers

    def number(self, word: str) -> int:
        """The word's number, or that of UNK."""
        return self._numbers.get(word, self.UNK)

    def encode(self, words: Iterable[str], ends: bool = False) -> list[int]:
        """Numbers of words; with `ends`, BOS before and EOS after them."""
        numbers = [self.number(word) for word in words]
        return [self.BOS, *numbers, self.EOS] if ends else numbers

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Words up to the first EOS, without PAD and BOS."""
        words = []
        for number in numbers:
            if number == self.EOS:
                break
            if number not in (self.PAD, self.BOS):
                words.append(self.words[number])
        return words


def sentences(text: str) -> Iterator[list[str]]:
    """Lower-case words and punctuation marks, sentence by sentence."""
    for paragraph in text.split("\n\n"):
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph):
            if words := re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_", sentence.lower()):
                yield words


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Sequences of numbers as one batch.

    Returns:
        Numbers, int64 [N, T] with T the longest length, filled up with Vocabulary.PAD; and the
        lengths, int64 [N].
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.full((len(sequences), int(lengths.max())), Vocabulary.PAD)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    return padded, lengths
