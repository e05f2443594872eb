"""Sequences to vectors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Encoder(nn.Module):
    """Sequences of unequal lengths to a vector for each step, and one for each sequence.

    Args:
        embed: [N, T] numbers or [N, T, ...] values to [N, T, I].
        rnn: an RNN, LSTM or GRU with batch_first=True and input_size=I.
    """

    def __init__(self, embed: nn.Module, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.embed, self.rnn = embed, rnn

    @property
    def size(self) -> int:
        """D*H: the size of the vectors it gives."""
        return self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
            x: [N, T] or [N, T, ...], what `embed` takes.
            lengths: int64 [N], each from 1 to T.

        Returns:
            Of the last layer, the hidden states [N, T, D*H], zeros beyond a sequence's length, and
            the final ones of both directions side by side [N, D*H].
        """
        packed = pack_padded_sequence(
            self.embed(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, final = self.rnn(packed)
        h = final[0] if isinstance(final, tuple) else final
        last = h.unflatten(0, (self.rnn.num_layers, -1))[-1]
        memory, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.size(1))
        return memory, last.transpose(0, 1).flatten(1)
