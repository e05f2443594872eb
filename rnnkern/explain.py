"""What a module would do with an input, and why, without doing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnkern import _C
from rnnkern.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

_MODULES = (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)


def gpus() -> list[str]:
    """Names of the GPUs whose facts are recorded, which `explain` takes without there being one."""
    return _C.gpus()


def explain(
    module: nn.Module, input: Tensor | PackedSequence, *, device: str | torch.device | None = None
) -> None:
    """Prints, for each layer of a module of rnnkern, how it would run forward on such an input.

    On a CPU: the instruction set, the threads and how they divide the work. On a GPU: the strategy
    and its tiles, and why the other strategies were refused. Nothing is run.

    Args:
        module: one of rnnkern's networks or cells.
        input: what the module would be called with. Only its shape, dtype and device count, and
            they are not checked against the module's.
        device: 'cpu', 'cuda' for the current GPU, or one of rnnkern.gpus(), in place of the
            input's own device.

    Raises:
        TypeError: module is none of rnnkern's.
        RuntimeError: the device is unknown, or RNNKERN_ISA or RNNKERN_CUDA_STRATEGY asks for what
            cannot run.
    """
    for name, lines in plans(module, input, device):
        print(name)
        for term, value in lines:
            print(f"  {term}: {value}")


def plans(
    module: nn.Module,
    input: Tensor | PackedSequence,
    device: str | torch.device | None = None,
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What `explain` prints: each layer's name, and terms and values in the order to read them."""
    if not isinstance(module, _MODULES):
        raise TypeError(f"module: expected one of rnnkern's, got {type(module).__name__}")
    data = input.data if isinstance(input, PackedSequence) else input
    wanted = data.device if device is None else device
    where = wanted.type if isinstance(wanted, torch.device) else wanted
    batch_sizes = _batch_sizes(module, input)
    is_own_gpu = where == data.device.type == "cuda"
    for name, I, H, P, D in _layers(module):
        with torch.cuda.device(data.device) if is_own_gpu else nullcontext():
            lines = _C.explain(_cell(module), data.dtype, batch_sizes, I, H, P, D, where)
        yield name, lines


def _cell(module: nn.Module) -> str:
    """The name of a module's kernels."""
    if isinstance(module, nn.RNNBase):
        return module.mode.lower()
    if isinstance(module, RNNCell):
        return f"rnn_{module.nonlinearity}"
    return "lstm" if isinstance(module, LSTMCell) else "gru"


def _layers(module: nn.Module) -> Iterator[tuple[str, int, int, int, int]]:
    """Per layer its name, input size, hidden size, projection size and directions."""
    if isinstance(module, nn.RNNCellBase):
        yield type(module).__name__, module.input_size, module.hidden_size, 0, 1
        return
    assert isinstance(module, nn.RNNBase)
    D = 2 if module.bidirectional else 1
    I, H, P = module.input_size, module.hidden_size, module.proj_size
    for index in range(module.num_layers):
        yield f"layer {index}", I, H, P, D
        I = D * (P or H)


def _batch_sizes(module: nn.Module, input: Tensor | PackedSequence) -> list[int]:
    """The rows of each time step."""
    if isinstance(input, PackedSequence):
        return input.batch_sizes.tolist()
    if isinstance(module, nn.RNNCellBase):
        return [input.shape[0] if input.dim() == 2 else 1]
    time = 1 if input.dim() == 3 and module.batch_first else 0
    return [input.shape[1 - time] if input.dim() == 3 else 1] * input.shape[time]
