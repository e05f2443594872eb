"""Language models as examples: what characters and words have in common.

The text is cut into `batch` streams read side by side. A step reads the next `chunk` tokens of
every stream from the state that the step before ended in, but no gradient flows back across that
border (truncated backpropagation through time). Processes under torchrun share the streams: a step
and a checkpoint are those of one process with all of them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnkern.models.training import RANK, WORLD, Example, fail


class LanguageModel(Example):
    """Predicts each token of a text from all before it. A subclass finds the tokens.

    Its sizes must have batch and chunk; `tokens` and `held_out`, int64 [M], are set by its
    __init__ through `use`.
    """

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        self.streams = self.training = self.held_out = torch.empty(0)

    def use(self, tokens: Tensor) -> None:
        """Train on all of the tokens [M] but the last 20th, and evaluate on that."""
        held_out = max(16, len(tokens) // 20)
        self.training, self.held_out = tokens[:-held_out], tokens[-held_out:]
        batch = self.args.batch
        if batch % WORLD:
            fail(f"{WORLD} processes cannot share {batch} streams")
        length = len(self.training) // batch
        if length <= self.args.chunk:
            needed = batch * (self.args.chunk + 1)
            fail(f"{len(self.training)} tokens to train on, {needed} are needed")
        streams = self.training[: batch * length].view(batch, length).tensor_split(WORLD)[RANK]
        self.streams = streams.to(self.device)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        length = self.args.chunk
        start = step % ((self.streams.size(1) - 1) // length) * length
        chunk = self.streams[:, start : start + length + 1]
        before = self.carried if start else None  # a new pass over the text starts from zeros
        logits, state = model(chunk[:, :-1], before)
        self.carried = tuple(s.detach() for s in state)
        return F.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten())

    def nats(self, model: nn.Module) -> float:
        """The mean over the held-out tokens, read in 8 streams with the state carried on."""
        streams = self.held_out[: len(self.held_out) // 8 * 8].view(8, -1).to(self.device)
        state, total = None, 0.0
        for start in range(0, streams.size(1) - 1, 256):
            chunk = streams[:, start : start + 257]
            logits, state = model(chunk[:, :-1], state)
            targets = chunk[:, 1:].flatten()
            total += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
        return total / streams[:, 1:].numel()

    def nats_of_frequencies(self, vocabulary_size: int) -> float:
        """The same when each token is predicted by how often it is in the training text."""
        counts = torch.bincount(self.training, minlength=vocabulary_size) + 1
        logs = (counts / counts.sum()).log()
        return -logs[self.held_out].mean().item()
