"""torch.nn's modules beside ours with the same weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import rnnkern

RNNS = ["RNN", "GRU", "LSTM"]
CELLS = ["RNNCell", "GRUCell", "LSTMCell"]


def pair(name: str, *sizes: int, **options) -> tuple[nn.Module, nn.Module]:
    """torch's module and ours, from the same seed; float64 unless told otherwise."""
    options.setdefault("dtype", torch.float64)
    made = []
    for namespace in (nn, rnnkern):
        torch.manual_seed(7)
        made.append(getattr(namespace, name)(*sizes, **options))
    return made[0], made[1]


def states(module: nn.Module, N: int | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """Random initial states for an RNN module; N=None for unbatched."""
    rows = module.num_layers * (1 + module.bidirectional)
    batch = () if N is None else (N,)
    dtype = next(module.parameters()).dtype
    h = torch.randn(rows, *batch, module.proj_size or module.hidden_size, dtype=dtype)
    c = torch.randn(rows, *batch, module.hidden_size, dtype=dtype)
    return (h, c) if module.mode == "LSTM" else h


def leaves(result) -> list[Tensor]:
    """The tensors of a result, however nested; of a PackedSequence its data."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [leaf for part in result for leaf in leaves(part)]


def run(module: nn.Module, *inputs) -> list[Tensor]:
    """Outputs, then the gradients of inputs and parameters that a mixed loss of them gives."""
    inputs = copy.deepcopy(inputs)
    tensors = [t.requires_grad_() for t in leaves(inputs)]
    outputs = leaves(module(*inputs))
    loss = sum((out * (out + 0.5)).sum() for out in outputs)
    grads = torch.autograd.grad(loss, [*tensors, *module.parameters()])
    return [t.detach() for t in [*outputs, *grads]]
