"""Streaming: a network run chunk after chunk, or step after step, on a sequence without end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnkern import _C, functional, modules
from rnnkern.modules import Hidden
from rnnkern.operators import CELLS

_MODULES = (modules.RNN, modules.LSTM, modules.GRU)


class Stream:
    """A network over a sequence that comes in chunks of any length, for inference.

        stream = rnnkern.Stream(model.rnn)  # an rnnkern.LSTM(80, 256, 2)
        for frame in frames:  # [1, 80]
            probability = model.head(stream(model.norm(frame)))

    It keeps the state from chunk to chunk, and on a CPU the weights in the layout that the kernels
    read, which plain calls make anew each time. The weights are those that the module had when the
    stream was made: after changing them call `refresh`. There is no dropout, no gradient and no
    autocast. Deepcopy and pickle do not take a stream; graphs and transforms (torch.jit.trace,
    make_fx, vmap) are refused.

    Chunks of a sequence give the same bits as one call of the module with all of it, on a CPU with
    the same instruction set, if that call has more than 24 rows (T * N): shorter calls may read
    their weights unpacked and add in another order. On a GPU they are equal up to rounding.

    Args:
        module: an rnnkern.RNN, LSTM or GRU of one direction, with any number of layers.
        batch_size: N, the number of sequences side by side.

    Raises:
        TypeError: module is none of these, or a subclass with a forward of its own; batch_size is
            no integer.
        ValueError: module is bidirectional, or batch_size is not positive.

    A stream is called with a chunk [T, N, I] ([N, T, I] if the module is batch_first), or with a
    single step [N, I], in the dtype and on the device of the parameters; the result is like the
    input with R features. RuntimeError if dtype, device or sizes do not fit; the state is as before
    then. Calls from several threads take turns.
    """

    def __init__(
        self, module: modules.RNN | modules.LSTM | modules.GRU, batch_size: int = 1
    ) -> None:
        if not isinstance(module, _MODULES):
            raise TypeError(f"module: expected an rnnkern.RNN, LSTM or GRU, got {_advice(module)}")
        if type(module).forward not in [known.forward for known in _MODULES]:
            raise TypeError(
                f"module: expected an rnnkern.RNN, LSTM or GRU, got {type(module).__qualname__}, "
                "a subclass with a forward of its own"
            )
        if module.bidirectional:
            raise ValueError("module: expected one direction, got a bidirectional module")
        if not isinstance(batch_size, int):
            raise TypeError(f"batch_size: expected an integer, got {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, got {batch_size}")
        self.module = module
        self.batch_size = batch_size
        self._stream = _C.Stream(
            module.mode.lower(), self._weights(), self._by_layer(self._zeros())
        )

    def __repr__(self) -> str:
        return f"Stream({self.module!r}, batch_size={self.batch_size})"

    def __call__(self, input: Tensor) -> Tensor:
        """The output for the next chunk, or step; see the class."""
        if input.dim() not in (2, 3):
            raise RuntimeError(
                "input: expected a chunk of 3 dimensions, or a step [batch_size, input_size], got "
                f"{input.dim()} dimensions"
            )
        if torch._C._is_tracing():
            raise RuntimeError("input: torch.jit.trace does not see the state of a stream")
        batch = input.shape[0 if input.dim() == 2 or self.module.batch_first else 1]
        if batch != self.batch_size:
            raise RuntimeError(f"input: expected batch_size {self.batch_size}, got {batch}")
        if input.dim() == 2:
            return self._stream.run(input.unsqueeze(0)).squeeze(0)
        if self.module.batch_first:
            return self._stream.run(input.transpose(0, 1)).transpose(0, 1)
        return self._stream.run(input)

    @property
    def state(self) -> Hidden:
        """A copy of the state behind the last chunk: h [L, N, R], of an LSTM (h, c [L, N, H]).

        Setting it copies too. One sequence of several begins anew by
        `h = stream.state; h[:, n] = 0; stream.state = h`.
        """
        states = [torch.cat(each) for each in zip(*self._stream.states(), strict=True)]
        return states[0] if len(states) == 1 else tuple(states)

    @state.setter
    def state(self, hx: Hidden) -> None:
        expected = self._zeros()
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if len(states) != len(expected):
            raise ValueError(f"state: expected {len(expected)} tensors, got {len(states)}")
        for found, zeros in zip(states, expected, strict=True):
            if found.shape != zeros.shape:
                raise ValueError(f"state: expected {list(zeros.shape)}, got {list(found.shape)}")
            if (found.dtype, found.device) != (zeros.dtype, zeros.device):
                wanted = f"{zeros.dtype} on {zeros.device}"
                raise ValueError(f"state: expected {wanted}, got {found.dtype} on {found.device}")
        self._stream.set_states(self._by_layer(states))

    def reset(self) -> None:
        """Sets the state to zeros: new sequences begin."""
        self._stream.set_states(self._by_layer(self._zeros()))

    def refresh(self) -> None:
        """Reads the module's weights again, after they have changed; the state stays."""
        self._stream.set_weights(self._weights())

    def _weights(self) -> list[list[Tensor | None]]:
        weights = [weight.detach() for weight in self.module._weights()]
        return functional.weights_by_layer(weights, self.module.bias, self.module.proj_size > 0, 1)

    def _zeros(self) -> list[Tensor]:
        module = self.module
        widths = [module.proj_size or module.hidden_size]
        widths += [module.hidden_size] * (CELLS[module.mode.lower()]["states"] - 1)
        weight = module._weights()[0]
        return [weight.new_zeros(module.num_layers, self.batch_size, width) for width in widths]

    @staticmethod
    def _by_layer(states: Sequence[Tensor]) -> list[list[Tensor]]:
        """[L, N, width] of each state as, for each layer, [1, N, width] of each."""
        split = (state.detach().split(1) for state in states)
        return [list(layer) for layer in zip(*split, strict=True)]


def _advice(module: object) -> str:
    """What was given instead of a module that a stream takes, and what to do."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, torch.nn.RNNBase):
        return f"{kind}: use rnnkern.from_torch(module)"
    if isinstance(module, torch.nn.Module) and not isinstance(module, torch.nn.RNNCellBase):
        return f"{kind}: a stream takes the layer, not the model around it"
    return kind
