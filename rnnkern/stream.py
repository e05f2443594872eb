"""Streaming: a network run chunk after chunk, or step after step, on a sequence without end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnkern import _C, functional, modules
from rnnkern.modules import Hidden
from rnnkern.operators import CELLS


class Stream:
    """A network over a sequence that comes in chunks of any length, for inference.

        stream = rnnkern.Stream(rnnkern.LSTM(80, 256, 2), batch_size=1)
        for chunk in chunks:  # [T, 1, 80], or a step [1, 80]
            y = stream(chunk)

    It keeps the state from chunk to chunk, and on a CPU the weights in the layout that the kernels
    read, which plain calls pack anew each time. The weights are those that the module had when the
    stream was made: after changing them call `refresh`. There is no dropout, and no gradient.

    Chunks of a sequence give the same bits as one call of the module with all of it, on a CPU with
    the same instruction set, if that call has more than six steps: shorter calls read their weights
    unpacked and add in another order. On a GPU they are equal up to rounding.

    Args:
        module: an rnnkern.RNN, LSTM or GRU of one direction, with any number of layers.
        batch_size: N, the number of sequences side by side.

    Raises:
        TypeError: module is none of these (rnnkern.from_torch converts torch.nn's).
        ValueError: it is bidirectional, or batch_size is not positive.

    A stream is for one thread at a time. Chunks are called with input [T, N, I] ([N, T, I] if the
    module is batch_first), or [N, I], which is a single step, in the dtype and on the device of the
    parameters; the result is like the input with R features. RuntimeError if sizes, dtype or device
    do not fit; the state is as before then.
    """

    def __init__(
        self, module: modules.RNN | modules.LSTM | modules.GRU, batch_size: int = 1
    ) -> None:
        if not isinstance(module, (modules.RNN, modules.LSTM, modules.GRU)):
            raise TypeError(
                f"module: expected an rnnkern.RNN, LSTM or GRU, got {type(module).__qualname__}"
            )
        if module.bidirectional:
            raise ValueError("module: expected one direction, got a bidirectional module")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, got {batch_size}")
        self.module = module
        self.batch_size = batch_size
        self._pack(self._zeros())

    def __call__(self, input: Tensor) -> Tensor:
        """The output for the next chunk, or step; see the class."""
        if input.dim() == 2:
            return self._stream.run(input.unsqueeze(0)).squeeze(0)
        if self.module.batch_first:
            return self._stream.run(input.transpose(0, 1)).transpose(0, 1)
        return self._stream.run(input)

    @property
    def state(self) -> Hidden:
        """The state behind the last chunk: h [L, N, R], of an LSTM (h, c [L, N, H])."""
        states = [torch.cat(each) for each in zip(*self._stream.states, strict=True)]
        return states[0] if len(states) == 1 else tuple(states)

    @state.setter
    def state(self, hx: Hidden) -> None:
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        expected = self._zeros()
        if len(states) != len(expected):
            raise ValueError(f"state: expected {len(expected)} tensors, got {len(states)}")
        for found, zeros in zip(states, expected, strict=True):
            if found.shape != zeros.shape:
                raise ValueError(f"state: expected {list(zeros.shape)}, got {list(found.shape)}")
        self._stream.states = self._by_layer(states)

    def reset(self) -> None:
        """Sets the state to zeros: a new sequence begins."""
        self._stream.states = self._by_layer(self._zeros())

    def refresh(self) -> None:
        """Reads the module's weights again, after they have changed; the state stays."""
        state = self.state
        self._pack((state,) if isinstance(state, Tensor) else state)

    def _pack(self, states: Sequence[Tensor]) -> None:
        module = self.module
        weights = functional.weights_by_layer(
            [weight.detach() for weight in module._weights()],
            module.bias,
            module.proj_size > 0,
            1,
        )
        self._stream = _C.Stream(module.mode.lower(), weights, self._by_layer(states))

    def _zeros(self) -> list[Tensor]:
        module = self.module
        widths = [module.proj_size or module.hidden_size]
        widths += [module.hidden_size] * (CELLS[module.mode.lower()]["states"] - 1)
        weight = module._weights()[0]
        return [weight.new_zeros(module.num_layers, self.batch_size, width) for width in widths]

    @staticmethod
    def _by_layer(states: Sequence[Tensor]) -> list[list[Tensor]]:
        """[L, N, width] of each state as, for each layer, [1, N, width] of each."""
        return [
            list(layer)
            for layer in zip(*(state.detach().split(1) for state in states), strict=True)
        ]
