"""rnnkern's operators of torch (`torch.ops.rnnkern.*`) for tensors without memory.

From here torch.compile, torch.export and the meta device know the shapes and dtypes of results; the
operators themselves are C++ (csrc/library.cpp). Arguments and results are those of `_C.forward` and
`_C.backward`, but for lists with None among them: weights are those that there are, with their
places in the list with gaps; backward returns only what is wanted and exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

from rnnkern import _C

CELLS = _C.cells()
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def layer(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    all_states: bool,
) -> list[Tensor]:
    """`_C.recurrence` as an operator."""
    tensors = [weight for weight in weights if weight is not None]
    places = [place for place, weight in enumerate(weights) if weight is not None]
    return torch.ops.rnnkern.layer(cell, x, sizes, list(states), tensors, places, all_states)


@torch.library.register_fake("rnnkern::layer")
def _layer(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    places: Sequence[int],
    all_states: bool,
) -> list[Tensor]:
    check(cell, x, sizes, states, weights, places)
    directions = _directions(places)
    y = x.new_empty([*x.shape[:-1], directions * states[0].shape[-1]])
    finals = [state.new_empty(state.shape) for state in states]
    width = directions * _hidden_size(cell, weights)
    further = [x.new_empty([*x.shape[:-1], width]) for _ in states[1:] if all_states]
    return [y, *finals, *further]


@torch.library.register_fake("rnnkern::layer_forward")
def _layer_forward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    places: Sequence[int],
    all_states: bool,
) -> list[Tensor]:
    compute_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    kernel_dtype = x.dtype if x.is_cuda else compute_dtype
    hidden = _hidden_size(cell, weights)
    rows = [_directions(places), math.prod(x.shape[:-1])]
    saved = CELLS[cell]["saved"] * hidden
    unprojected = hidden if 4 in places else 0
    return [
        *_layer(cell, x, sizes, states, weights, places, all_states),
        *(x.new_empty([*rows, hidden], dtype=compute_dtype) for _ in states[1:]),
        x.new_empty([*rows, saved], dtype=compute_dtype),
        x.new_empty([*rows, unprojected], dtype=kernel_dtype),
    ]


@torch.library.register_fake("rnnkern::layer_backward")
def _layer_backward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    places: Sequence[int],
    y: Tensor,
    residuals: Sequence[Tensor],
    dy: Tensor,
    dfinal: Sequence[Tensor],
    dstates: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor]:
    check(cell, x, sizes, states, weights, places)
    first_weight = 1 + len(states)
    flags = [*wanted[:first_weight], *(wanted[first_weight + place] for place in places)]
    inputs = compress((x, *states, *weights), flags)
    return [tensor.new_empty(tensor.shape) for tensor in inputs]


def check(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    places: Sequence[int],
) -> None:
    """What the kernels check of shapes, dtypes and devices, for who does not come to them.

    Raises RuntimeError with the kernels' texts, which are torch.nn's where it has one.
    """
    for kind, name, tensors in (("hidden", "hx", states), ("parameter", "params", weights)):
        for tensor in tensors:
            if tensor.device != x.device:
                raise RuntimeError(
                    f"Input and {kind} tensors are not at the same device, found input tensor at "
                    f"{x.device} and {kind} tensor at {tensor.device}"
                )
            if tensor.dtype != x.dtype:
                text = f"expected the input's dtype {x.dtype}, got {tensor.dtype}"
                raise RuntimeError(f"{name}: {text}")
    if x.shape[-1] != weights[0].shape[1]:
        raise RuntimeError(
            "input.size(-1) must be equal to input_size. "
            f"Expected {weights[0].shape[1]}, got {x.shape[-1]}"
        )
    if x.dim() == 2:  # a packed sequence, or a step: N is known to the states
        return
    if x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    batch, output = x.shape[1], weights[1].shape[1]
    for index, state in enumerate(states):
        expected = (_directions(places), batch, _hidden_size(cell, weights) if index else output)
        if tuple(state.shape) != expected:
            which = f"[{index}]" if len(states) > 1 else ""
            raise RuntimeError(
                f"Expected hidden{which} size {list(expected)}, got {list(state.shape)}"
            )
    if sizes is not None and (tuple(sizes.shape) != (batch,) or sizes.dtype not in INTEGERS):
        raise RuntimeError(
            f"lengths: expected a 1-D tensor of {batch} integers (the batch of input), got "
            f"{list(sizes.shape)} of {sizes.dtype}"
        )


def _directions(places: Sequence[int]) -> int:
    return max(places) // 5 + 1


def _hidden_size(cell: str, weights: Sequence[Tensor]) -> int:
    return weights[0].shape[0] // CELLS[cell]["gates"]
