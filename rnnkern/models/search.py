"""Sequences out of a decoder: token by token, or the best of many; and how likely one is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rnnkern.models.decoder import State
from rnnkern.models.vocabulary import Vocabulary

StepFunction = Callable[[Tensor, State | None], tuple[Tensor, State]]


@torch.no_grad()
def generate(
    decoder: StepFunction,
    state: State | None,
    first: Tensor,
    length: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
) -> Tensor:
    """Tokens drawn one after the other, each from the decoder's distribution after those before.

    Args:
        decoder: tokens [N, 1] and a state to logits [N, 1, V] and the next state.
        state: before the first token.
        first: the tokens to begin after, int64 [N].
        length: how many tokens at most.
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_k: draw from the so many likeliest tokens only; default all.

    Returns:
        int64 [N, T], T at most `length`: EOS to the end of a row from its first EOS on.
    """
    tokens, ended = [], torch.zeros_like(first, dtype=torch.bool)
    for _ in range(length):
        logits, state = decoder(first[:, None], state)
        first = choose(logits[:, -1], temperature, top_k)
        first = first.masked_fill(ended, Vocabulary.EOS)
        tokens.append(first)
        ended = first == Vocabulary.EOS
        if bool(ended.all()):
            break
    return torch.stack(tokens, 1) if tokens else first.new_empty(len(first), 0)


def choose(logits: Tensor, temperature: float = 0.0, top_k: int | None = None) -> Tensor:
    """Tokens int64 [N] for logits [N, V]; arguments as for `generate`."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() - logits.amax(-1, keepdim=True)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.size(-1)))[0][:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial((logits / temperature).softmax(-1), 1).squeeze(1)


@torch.no_grad()
def beam_search(
    decoder: StepFunction,
    state: State,
    first: Tensor,
    length: int,
    *,
    width: int,
    alpha: float = 1.0,
) -> Tensor:
    """The best sequence found when the `width` best beginnings are kept at each step.

    Args:
        decoder, state, first, length: as for `generate`.
        width: 1 is the greedy search.
        alpha: sequences are compared by log probability / length**alpha; 0 prefers short ones.

    Returns:
        int64 [N, T], T at most `length`: EOS to the end of a row from its first EOS on.
    """
    rows = torch.arange(len(first), device=first.device)[:, None] * width
    state = tuple(s.repeat_interleave(width, 0) for s in state)
    tokens = first.repeat_interleave(width)[:, None]
    scores = torch.full((len(first), width), float("-inf"), device=first.device)
    scores[:, 0] = 0  # all beams of a sequence are the same yet
    ended = torch.zeros_like(scores, dtype=torch.bool)
    lengths = torch.zeros_like(scores)
    for _ in range(length):
        logits, state = decoder(tokens[:, -1:], state)
        gains = logits[:, -1].log_softmax(-1).view(*scores.shape, -1)
        only_end = torch.full_like(gains[0, 0], float("-inf"))
        only_end[Vocabulary.EOS] = 0
        gains = torch.where(ended[..., None], only_end, gains)
        scores, best = (scores[..., None] + gains).flatten(1).topk(width)
        beams, token = best // gains.size(-1), best % gains.size(-1)
        origins = (rows + beams).flatten()
        tokens = torch.cat([tokens[origins], token.flatten()[:, None]], 1)
        state = tuple(s[origins] for s in state)
        lengths = lengths.gather(1, beams) + ~ended.gather(1, beams)
        ended = token == Vocabulary.EOS
        if bool(ended.all()):
            break
    best = (scores / lengths.clamp(min=1) ** alpha).argmax(1)
    return tokens[rows.squeeze(1) + best, 1:]


@torch.no_grad()
def log_probability(
    decoder: StepFunction, state: State | None, tokens: Tensor, lengths: Tensor
) -> Tensor:
    """log P(tokens[n, 1:lengths[n]] | tokens[n, 0], state) in nats, [N].

    Args:
        decoder: tokens [N, T - 1] and a state to logits [N, T - 1, V] and the next state.
        state: before the first token.
        tokens: int64 [N, T]; the first of a row is given, commonly BOS.
        lengths: int64 [N], each from 1 to T, on the device of tokens.
    """
    logits, _ = decoder(tokens[:, :-1], state)
    logs = logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    beyond = torch.arange(1, tokens.size(1), device=tokens.device) >= lengths[:, None]
    return logs.masked_fill(beyond, 0).sum(1)
