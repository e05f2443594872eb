"""Which steps of an input sequence a step of the output looks at.

Both kinds have the same two methods: `keys` is computed once for an input, and a call weighs the
input's states for any number of queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class _Attention(nn.Module, ABC):
    def __init__(self, memory_size: int) -> None:
        super().__init__()
        self.memory_size = memory_size

    @abstractmethod
    def keys(self, memory: Tensor) -> Tensor:
        """What queries are compared with, [N, S, K], from states [N, S, M]."""

    @abstractmethod
    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """How well queries [N, T, Q] and keys [N, S, K] go together, [N, T, S]."""

    def forward(
        self, query: Tensor, keys: Tensor, memory: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Args:
            query: states of the output, [N, T, Q].
            keys: `keys(memory)`, [N, S, K].
            memory: states of the input, [N, S, M].
            lengths: int64 [N], how many of a row's S states there are, at least 1.

        Returns:
            Contexts [N, T, M], the means of memory under the weights; and these [N, T, S], which
            are 0 beyond the lengths and sum to 1 over S.
        """
        beyond = torch.arange(memory.size(1), device=memory.device) >= lengths[:, None]
        scores = self.scores(query, keys).masked_fill(beyond[:, None], float("-inf"))
        weights = scores.softmax(-1)
        return weights @ memory, weights


class AdditiveAttention(_Attention):
    """score = v' tanh(W query + U memory), of Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473).

    Args:
        query_size, memory_size: Q and M.
        size: K, the number of rows of W and U.
    """

    def __init__(self, query_size: int, memory_size: int, size: int) -> None:
        super().__init__(memory_size)
        self.W = nn.Linear(query_size, size)
        self.U = nn.Linear(memory_size, size, bias=False)
        self.v = nn.Linear(size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.U(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.v(torch.tanh(self.W(query)[:, :, None] + keys[:, None])).squeeze(-1)


class GeneralAttention(_Attention):
    """score = query' W memory, of Luong, Pham and Manning 2015 (arXiv:1508.04025).

    Args:
        query_size, memory_size: Q and M; W is [Q, M].
    """

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__(memory_size)
        self.W = nn.Linear(memory_size, query_size, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.W(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return query @ keys.mT
