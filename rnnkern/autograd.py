"""Gradients of one layer: where autograd ends and the kernels begin.

Surprising here:

- In plain eager mode the node of autograd's graph is C++ (csrc/autograd.cpp), which costs a third
  of the Functions below. They are for the transforms of torch.func, and `RecurrenceBackward` also
  for gradients of gradients.
- Residuals (what the forward kernel keeps for the backward kernel) are outputs of the Function,
  because a Function under torch.func may save only inputs and outputs. They are marked as not
  differentiable; `recurrence` drops them.
- Backward is itself a Function. Its own backward differentiates `reference.layer` twice, with
  respect to the layer's inputs and `dy`; so `y` and the residuals, which are functions of those
  inputs, get no gradient of their own. Being plain PyTorch, it can be differentiated again.
- Under torch.func.vmap the kernels run once per element of the mapped dimension.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnnkern import _C, reference

CELLS = _C.cells()


def recurrence(
    cell: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
) -> list[Tensor]:
    """One layer with gradients: [y, *final_states].

    Arguments, results and errors are those of `_C.recurrence`, which are `reference.layer`'s;
    every tensor but batch_sizes may require a gradient, and the same tensor may stand in several
    places.
    """
    if torch._C._is_tracing():  # a trace would hold the allocation of the results, not the kernel
        raise RuntimeError("torch.jit.trace does not see rnnkern's kernels: trace rnnkern.to_torch")
    if _is_transformed():
        outputs = Recurrence.apply(cell, batch_sizes, x, *states, *weights)
        return list(outputs[: 1 + len(states)])
    return _C.recurrence(cell, x, batch_sizes, states, weights)


def _is_transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, has to see this call."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stores the signature, which Function.apply would otherwise work out at every call (10 us)."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class Recurrence(torch.autograd.Function):
    """apply(cell, batch_sizes, x, *states, *weights) -> (y, *final_states, *residuals)."""

    @staticmethod
    @_with_signature
    def forward(cell: str, batch_sizes: Tensor | None, *inputs: Any) -> tuple[Tensor, ...]:
        x, states, weights = _split(cell, inputs)
        return tuple(_C.forward(cell, x, batch_sizes, states, weights, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cell, batch_sizes, *tensors = inputs
        y, residuals = output[0], output[1 + CELLS[cell]["states"] :]
        ctx.cell = cell
        ctx.save_for_backward(batch_sizes, y, *residuals, *tensors)
        ctx.num_residuals = len(residuals)
        ctx.mark_non_differentiable(*residuals)
        ctx.set_materialize_grads(False)  # or every residual would get a gradient of zeros

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Any, ...]:
        batch_sizes, y, *saved = ctx.saved_tensors
        residuals, inputs = saved[: ctx.num_residuals], saved[ctx.num_residuals :]
        wanted = ctx.needs_input_grad[2:]
        outputs = (y, *inputs[1 : 1 + CELLS[ctx.cell]["states"]])
        given = _materialized(output_gradients[: len(outputs)], outputs)
        tensors = (*inputs, *given, y, *residuals)
        gradients = RecurrenceBackward.apply(ctx.cell, wanted, batch_sizes, *tensors)
        return None, None, *_scattered(gradients, wanted)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], int]:
        return _loop(Recurrence, info, in_dims, args)


class RecurrenceBackward(torch.autograd.Function):
    """apply(cell, wanted, batch_sizes, *inputs, dy, *dfinal, y, *residuals) -> wanted gradients.

    inputs are x, *states, *weights; wanted has a flag for each of them.
    """

    @staticmethod
    @_with_signature
    def forward(
        cell: str, wanted: tuple[bool, ...], batch_sizes: Tensor | None, *tensors: Any
    ) -> tuple[Tensor, ...]:
        x, states, weights = _split(cell, tensors[: len(wanted)])
        dy, *rest = tensors[len(wanted) :]
        dfinal, (y, *residuals) = rest[: len(states)], rest[len(states) :]
        gradients = _C.backward(
            cell, x, batch_sizes, states, weights, y, residuals, dy, dfinal, list(wanted)
        )
        return tuple(gradient for gradient in gradients if gradient is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.wanted, batch_sizes, *tensors = inputs
        differentiable = len(ctx.wanted) + 1 + CELLS[ctx.cell]["states"]
        ctx.save_for_backward(batch_sizes, *tensors[:differentiable])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Any, ...]:
        batch_sizes, *tensors = ctx.saved_tensors
        wanted = ctx.wanted
        needed = ctx.needs_input_grad[3 : 3 + len(tensors)]

        def layer(inputs: list[Any]) -> Sequence[Tensor]:
            return reference.layer(ctx.cell, inputs[0], batch_sizes, *_split(ctx.cell, inputs)[1:])

        def layer_backward(tensors: list[Any]) -> Sequence[Tensor]:
            inputs, cotangents = tensors[: len(wanted)], tensors[len(wanted) :]
            return _vjp(layer, inputs, wanted, cotangents)

        wanted_inputs = [t for t, flag in zip(tensors, wanted, strict=False) if flag]
        cotangents = _materialized(output_gradients, wanted_inputs)
        with torch.autocast(tensors[0].device.type, enabled=False):
            gradients = _vjp(layer_backward, tensors, needed, cotangents)
        without = [None] * (len(ctx.needs_input_grad) - 3 - len(tensors))  # y and the residuals
        return None, None, None, *_scattered(gradients, needed), *without

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], int]:
        return _loop(RecurrenceBackward, info, in_dims, args)


def _split(cell: str, inputs: Sequence[Any]) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    """[x, *states, *weights] as (x, states, weights)."""
    end = 1 + CELLS[cell]["states"]
    return inputs[0], list(inputs[1:end]), list(inputs[end:])


def _materialized(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, with zeros where autograd passed None because an output was not used."""
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for gradient, tensor in zip(gradients, like, strict=True)
    ]


def _scattered(gradients: Sequence[Tensor], flags: Sequence[bool]) -> list[Tensor | None]:
    """One gradient per flag that is set, as a list with None for the others."""
    remaining = iter(gradients)
    return [next(remaining) if flag else None for flag in flags]


def _vjp(
    function: Callable[[list[Any]], Sequence[Tensor]],
    arguments: Sequence[Any],
    chosen: Sequence[bool],
    cotangents: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of function(arguments) with respect to the chosen arguments only."""

    def of_chosen(*values: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(values)
        pairs = zip(chosen, arguments, strict=True)
        return tuple(function([next(remaining) if flag else value for flag, value in pairs]))

    values = [value for flag, value in zip(chosen, arguments, strict=True) if flag]
    pullback = torch.func.vjp(of_chosen, *values)[1]
    return pullback(tuple(cotangents))


def _loop(
    function: type[torch.autograd.Function],
    info: Any,
    in_dims: tuple[Any, ...],
    args: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], int]:
    """The vmap rule of both Functions: one call per element, the results stacked in front."""
    if info.batch_size == 0:
        raise ValueError("vmap over an empty dimension is not supported")
    columns = (
        arg.unbind(dim) if isinstance(arg, Tensor) and dim is not None else repeat(arg)
        for arg, dim in zip(args, in_dims, strict=True)
    )
    rows = zip(range(info.batch_size), *columns, strict=False)
    results = [function.apply(*row) for _, *row in rows]
    return tuple(torch.stack(column) for column in zip(*results, strict=True)), 0


def _differentiable_backward(
    cell: str,
    wanted: list[bool],
    batch_sizes: Tensor | None,
    inputs: list[Any],
    output_gradients: list[Tensor],
    outputs: list[Tensor],
) -> list[Tensor | None]:
    """`_C.backward`, in a graph of autograd: what C++ calls when gradients need gradients."""
    y, *residuals = outputs
    tensors = (*inputs, *output_gradients, y.detach(), *residuals)
    gradients = RecurrenceBackward.apply(cell, tuple(wanted), batch_sizes, *tensors)
    return _scattered(gradients, wanted)


_C.set_differentiable_backward(_differentiable_backward)
