"""Sequences of tokens, each predicted from those before it and a state."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

import rnnkern
from rnnkern.models.attention import AdditiveAttention, GeneralAttention

State = tuple[Tensor, ...]


class Decoder(nn.Module):
    """An LSTM or GRU over embedded tokens and, with attention, over what it finds in a memory.

    Attention is Luong's (arXiv:1508.04025, without input feeding): it reads the layer's outputs and
    does not act back on its states, so that all steps of known tokens are one call of the layer.
    Without attention, and from the state None, this is a language model.

    Args:
        embed: V tokens to vectors of size E.
        rnn: a unidirectional LSTM or GRU with batch_first=True and input_size=E.
        attention: with query_size=H.
        tied: the output layer has the embedding's weight (arXiv:1608.05859).
        dropout: the share of embeddings and outputs that is set to 0 in training.

    Raises:
        ValueError: tied, but H is not E; the layer is none that can be used here.
    """

    def __init__(
        self,
        embed: nn.Embedding,
        rnn: nn.RNNBase,
        attention: GeneralAttention | None = None,
        *,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if rnn.mode not in ("LSTM", "GRU") or rnn.bidirectional or not rnn.batch_first:
            raise ValueError(
                f"rnn must be a unidirectional LSTM or GRU with batch_first=True, got {rnn}"
            )
        if tied and rnn.hidden_size != embed.embedding_dim:
            raise ValueError(
                f"tied weights need hidden_size = embedding_dim, got {rnn.hidden_size} and "
                f"{embed.embedding_dim}"
            )
        self.embed, self.rnn, self.attention = embed, rnn, attention
        self.dropout = nn.Dropout(dropout)
        if attention is not None:
            self.combine = nn.Linear(rnn.hidden_size + attention.memory_size, rnn.hidden_size)
        self.head = nn.Linear(rnn.hidden_size, embed.num_embeddings)
        if tied:
            self.head.weight = embed.weight

    def start(self, h: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> State:
        """The state before the first token.

        Args:
            h: the hidden state of every layer, [N, H]; an LSTM's cell state starts from it too.
            memory: what attention reads, [N, S, M], and lengths int64 [N].

        Raises:
            ValueError: there is attention and no memory.
        """
        h = h[:, None].expand(-1, self.rnn.num_layers, -1)
        state = (h, h) if self.rnn.mode == "LSTM" else (h,)
        if self.attention is None:
            return state
        if memory is None:
            raise ValueError("attention needs a memory to read, got None")
        states, lengths = memory
        return *state, self.attention.keys(states), states, lengths.to(states.device)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Args:
            tokens: int64 [N, T].
            state: of `start` or of the call before; None for zeros, without attention only.

        Returns:
            Logits [N, T, V] of the token after each, and the state after the last.

        Raises:
            ValueError: there is attention and no state.
        """
        if state is None and self.attention is not None:
            raise ValueError("attention needs the state that start() gives, got None")
        of_rnn = None if state is None else state[: 2 if self.rnn.mode == "LSTM" else 1]
        y, final = self._run(self.dropout(self.embed(tokens)), of_rnn)
        if self.attention is not None:
            assert state is not None  # checked above
            context, _ = self.attention(y, *state[-3:])
            y = torch.tanh(self.combine(torch.cat([context, y], -1)))
            final = *final, *state[-3:]
        return self.head(self.dropout(y)), final

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The layer, whose own states are [L, N, H]."""
        hx = None if state is None else tuple(s.transpose(0, 1).contiguous() for s in state)
        if self.rnn.mode == "LSTM":
            y, final = self.rnn(x, hx)
        else:
            y, h = self.rnn(x, None if hx is None else hx[0])
            final = (h,)
        return y, tuple(s.transpose(0, 1) for s in final)


class BahdanauDecoder(nn.Module):
    """A GRU cell that takes in at each step what its attention found with the state before it.

    Of Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473), with a linear output layer over state,
    context and embedding. Each step needs the one before it: this is a loop over a cell.

    Args:
        embed: V tokens to vectors of size E.
        hidden_size: H.
        attention: with query_size=H.
    """

    def __init__(self, embed: nn.Embedding, hidden_size: int, attention: AdditiveAttention) -> None:
        super().__init__()
        size = embed.embedding_dim + attention.memory_size
        self.embed, self.attention = embed, attention
        self.cell = rnnkern.GRUCell(size, hidden_size)
        self.head = nn.Linear(hidden_size + size, embed.num_embeddings)

    def start(self, h: Tensor, memory: tuple[Tensor, Tensor]) -> State:
        """As Decoder.start; a memory is always needed."""
        states, lengths = memory
        return h, self.attention.keys(states), states, lengths.to(states.device)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """As Decoder.forward; a state is always needed."""
        h, *memory = state
        features = []
        for x in self.embed(tokens).unbind(1):
            context = self.attention(h[:, None], *memory)[0].squeeze(1)
            x = torch.cat([x, context], -1)
            h = cast(Tensor, self.cell(x, h))
            features.append(torch.cat([h, x], -1))
        return self.head(torch.stack(features, 1)), (h, *memory)
