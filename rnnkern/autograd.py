"""Gradients of one layer: where autograd ends and the kernels begin.

Surprising here:

- In eager mode and under torch.compile the node of autograd's graph is C++ (csrc/autograd.cpp),
  which costs a third of the Functions below. They are for the transforms of torch.func, and
  `RecurrenceBackward` also for gradients of gradients.
- Residuals (what the forward kernel keeps for the backward kernel) are outputs of the Function,
  because a Function under torch.func may save only inputs and outputs. They are marked as not
  differentiable; `recurrence` drops them.
- Backward is itself a Function. Its own backward differentiates `reference.layer` twice, with
  respect to the layer's inputs and the gradients of its outputs; so `y` and the residuals, which
  are functions of those inputs, get no gradient of their own. Being plain PyTorch, it can be
  differentiated again.
- Forward-mode derivatives are those of `reference.layer`. So are all transforms of torch.func
  inside torch.compile, which sees through neither the Functions here nor nodes in C++.
- Under torch.func.vmap a mapped dimension joins the batch, unless weights are mapped, or sizes are
  given, or gradients of weights wanted: then the kernels run once per element.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

from rnnkern import _C, operators, reference
from rnnkern.operators import CELLS


def recurrence(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    all_states: bool = False,
) -> list[Tensor]:
    """One layer with gradients: [y, *final_states], and with all_states [..., *further_states].

    Arguments, results and errors are those of `_C.recurrence`, which are `reference.layer`'s;
    every tensor but sizes may require a gradient, and the same tensor may stand in several places.
    """
    in_graph = torch.compiler.is_compiling() or torch._C._is_tracing()
    if forward_ad._current_level >= 0 or (in_graph and _is_transformed()):
        return _checked_reference(cell, x, sizes, states, weights, all_states)
    if in_graph:
        return operators.layer(cell, x, sizes, states, weights, all_states)
    if _is_transformed():
        outputs = Recurrence.apply(cell, all_states, sizes, x, *states, *weights)
        return list(outputs[: len(outputs) - CELLS[cell]["residuals"]])
    return _C.recurrence(cell, x, sizes, states, weights, all_states)


def _checked_reference(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    all_states: bool,
) -> list[Tensor]:
    """`reference.layer` with the kernels' errors; in a graph lengths have no values to check."""
    places = [place for place, weight in enumerate(weights) if weight is not None]
    present = [weight for weight in weights if weight is not None]
    operators.check(cell, x, sizes, states, present, places)
    has_values = sizes is not None and x.dim() == 3 and not is_batchedtensor(sizes)
    if has_values and not torch.compiler.is_compiling():
        assert sizes is not None
        if sizes.numel() and not (int(sizes.min()) >= 0 and int(sizes.max()) <= len(x)):
            raise RuntimeError(
                f"lengths: expected values from 0 to {len(x)} (the time steps of input), got "
                f"{sizes.tolist()}"
            )
    return reference.layer(cell, x, sizes, states, weights, all_states)


def _is_transformed() -> bool:
    """Whether a transform of torch.func has to see this call."""
    return torch._C._are_functorch_transforms_active()


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stores the signature, which Function.apply would otherwise work out at every call (10 us)."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class Recurrence(torch.autograd.Function):
    """apply(cell, all_states, sizes, x, *states, *weights) -> `_C.forward`'s results, training."""

    @staticmethod
    @_with_signature
    def forward(cell: str, all_states: bool, sizes: Tensor | None, *inputs: Any) -> Any:
        x, states, weights = _split(cell, inputs)
        return tuple(_C.forward(cell, x, sizes, states, weights, True, all_states))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.all_states, sizes, *tensors = inputs
        ctx.num_residuals = CELLS[ctx.cell]["residuals"]
        residuals = output[-ctx.num_residuals :]
        ctx.save_for_backward(sizes, output[0], *residuals, *tensors)
        ctx.mark_non_differentiable(*residuals)
        ctx.set_materialize_grads(False)  # or every residual would get a gradient of zeros
        ctx.output_sizes = [tensor.shape for tensor in output[: -ctx.num_residuals]]

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Any, ...]:
        sizes, y, *saved = ctx.saved_tensors
        residuals, inputs = saved[: ctx.num_residuals], saved[ctx.num_residuals :]
        wanted = ctx.needs_input_grad[3:]
        given = [
            y.new_zeros(shape) if gradient is None else gradient
            for gradient, shape in zip(output_gradients, ctx.output_sizes, strict=False)
        ]
        tensors = (*inputs, *given, y, *residuals)
        gradients = RecurrenceBackward.apply(ctx.cell, ctx.all_states, wanted, sizes, *tensors)
        return None, None, None, *_scattered(gradients, wanted)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], int]:
        cell, _, sizes, *_ = args
        first_weight = 3 + 1 + CELLS[cell]["states"]
        if info.batch_size == 0 or sizes is not None or _is_mapped(in_dims[first_weight:]):
            return _loop(Recurrence, info, in_dims, args)
        joined = _map(_joined, info, args[3:first_weight], in_dims[3:first_weight])
        outputs = Recurrence.apply(*args[:3], *joined, *args[first_weight:])
        own, residuals = outputs[: -CELLS[cell]["residuals"]], outputs[-CELLS[cell]["residuals"] :]
        parted = [_parted(tensor, info.batch_size) for tensor in own]
        steps = joined[0].shape[0] if joined[0].dim() == 3 else 1
        parted += [_parted_residual(tensor, info.batch_size, steps) for tensor in residuals]
        return tuple(parted), 0


class RecurrenceBackward(torch.autograd.Function):
    """apply(cell, all_states, wanted, sizes, *inputs, *given, y, *residuals) -> wanted gradients.

    inputs are x, *states, *weights; wanted has a flag for each of them. given are the gradients of
    what the layer returns: dy, *dfinal, and with all_states *dstates.
    """

    @staticmethod
    @_with_signature
    def forward(
        cell: str, all_states: bool, wanted: tuple[bool, ...], sizes: Tensor | None, *tensors: Any
    ) -> tuple[Tensor, ...]:
        x, states, weights = _split(cell, tensors[: len(wanted)])
        dy, *rest = tensors[len(wanted) :]
        dfinal, rest = rest[: len(states)], rest[len(states) :]
        num_residuals = CELLS[cell]["residuals"]
        residuals = [residual.contiguous() for residual in rest[-num_residuals:]]
        y, dstates = rest[-num_residuals - 1], rest[: -num_residuals - 1]
        gradients = _C.backward(
            cell, x, sizes, states, weights, y, residuals, dy, dfinal, list(wanted), dstates
        )
        return tuple(gradient for gradient in gradients if gradient is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.all_states, ctx.wanted, sizes, *tensors = inputs
        ctx.num_others = 1 + CELLS[ctx.cell]["residuals"]  # y and the residuals
        ctx.save_for_backward(sizes, *tensors[: -ctx.num_others])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Any, ...]:
        sizes, *tensors = ctx.saved_tensors
        wanted = ctx.wanted
        needed = ctx.needs_input_grad[4 : 4 + len(tensors)]

        def layer(inputs: list[Any]) -> Sequence[Tensor]:
            x, states, weights = _split(ctx.cell, inputs)
            return reference.layer(ctx.cell, x, sizes, states, weights, ctx.all_states)

        def layer_backward(tensors: list[Any]) -> Sequence[Tensor]:
            inputs, cotangents = tensors[: len(wanted)], tensors[len(wanted) :]
            return _vjp(layer, inputs, wanted, cotangents)

        wanted_inputs = [t for t, flag in zip(tensors, wanted, strict=False) if flag]
        cotangents = _materialized(output_gradients, wanted_inputs)
        with torch.autocast(tensors[0].device.type, enabled=False):
            gradients = _vjp(layer_backward, tensors, needed, cotangents)
        return None, None, None, None, *_scattered(gradients, needed), *[None] * ctx.num_others

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], int]:
        cell, _, wanted, sizes, *tensors = args
        dims = in_dims[4:]
        first_weight, first_gradient = 1 + CELLS[cell]["states"], len(wanted)
        weights = slice(first_weight, first_gradient)
        one_by_one = sizes is not None or any(wanted[weights]) or _is_mapped(dims[weights])
        if info.batch_size == 0 or one_by_one:
            return _loop(RecurrenceBackward, info, in_dims, args)
        first_residual = len(tensors) - CELLS[cell]["residuals"]
        inputs = _map(_joined, info, tensors[:first_weight], dims[:first_weight])
        others = slice(first_gradient, first_residual)
        joined = _map(_joined, info, tensors[others], dims[others])
        steps = inputs[0].shape[0] if inputs[0].dim() == 3 else 1
        residuals = [
            _joined_residual(tensor, dim, info.batch_size, steps)
            for tensor, dim in zip(tensors[first_residual:], dims[first_residual:], strict=True)
        ]
        gradients = RecurrenceBackward.apply(
            *args[:4], *inputs, *tensors[weights], *joined, *residuals
        )
        return tuple(_parted(gradient, info.batch_size) for gradient in gradients), 0


# ---- a dimension mapped by vmap, B, as a part of the batch --------------------------------------


def _is_mapped(dims: Sequence[int | None]) -> bool:
    return any(dim is not None for dim in dims)


def _map(
    function: Callable[..., Tensor],
    info: Any,
    tensors: Sequence[Tensor],
    dims: Sequence[int | None],
) -> list[Tensor]:
    return [
        function(tensor, dim, info.batch_size) for tensor, dim in zip(tensors, dims, strict=True)
    ]


def _joined(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[..., N, F] with B at dim, or without B, as [..., B*N, F]."""
    front = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return front.movedim(0, -3).flatten(-3, -2)


def _parted(tensor: Tensor, size: int) -> Tensor:
    """[..., B*N, F] as [B, ..., N, F]."""
    return tensor.unflatten(-2, (size, tensor.shape[-2] // size)).movedim(-3, 0)


def _joined_residual(tensor: Tensor, dim: int | None, size: int, steps: int) -> Tensor:
    """[D, T*N, F] with B at dim as [D, T*B*N, F]."""
    front = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    batch = front.shape[-2] // steps
    return _joined(front.unflatten(-2, (steps, batch)), 0, size).flatten(-3, -2)


def _parted_residual(tensor: Tensor, size: int, steps: int) -> Tensor:
    """[D, T*B*N, F] as [B, D, T*N, F]."""
    batches = tensor.shape[-2] // steps
    return _parted(tensor.unflatten(-2, (steps, batches)), size).flatten(-3, -2)


def _loop(
    function: type[torch.autograd.Function],
    info: Any,
    in_dims: tuple[Any, ...],
    args: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], int]:
    """One call per element, the results stacked in front."""
    if info.batch_size == 0:
        raise ValueError("vmap over an empty dimension is not supported")
    columns = (
        arg.unbind(dim) if isinstance(arg, Tensor) and dim is not None else repeat(arg)
        for arg, dim in zip(args, in_dims, strict=True)
    )
    rows = zip(range(info.batch_size), *columns, strict=False)
    results = [function.apply(*row) for _, *row in rows]
    return tuple(torch.stack(column) for column in zip(*results, strict=True)), 0


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


def _differentiable_backward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: list[Tensor],
    weights: list[Tensor | None],
    outputs: list[Tensor],
    output_gradients: list[Tensor],
    wanted: list[bool],
) -> list[Tensor | None]:
    """`_C.backward`, in a graph of autograd: what C++ calls when gradients need gradients."""
    all_states = len(output_gradients) > 1 + len(states)
    if any(map(is_legacy_batchedtensor, output_gradients)):
        layer = cell, x, sizes, states, weights, all_states
        return _reference_backward(*layer, output_gradients, wanted)
    y, *residuals = outputs
    tensors = (x, *states, *weights, *output_gradients, y.detach(), *residuals)
    gradients = RecurrenceBackward.apply(cell, all_states, tuple(wanted), sizes, *tensors)
    return _scattered(gradients, wanted)


def _reference_backward(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: list[Tensor],
    weights: list[Tensor | None],
    all_states: bool,
    output_gradients: list[Tensor],
    wanted: list[bool],
) -> list[Tensor | None]:
    """In plain PyTorch, which is all that is_grads_batched of torch.autograd.grad sees through."""
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        # A view for each place: the same tensor may stand in several.
        inputs = [t if t is None else t.view_as(t) for t in (x, *states, *weights)]
        x, states, weights = _split(cell, inputs)
        outputs = reference.layer(cell, x, sizes, states, weights, all_states)
        wanted_inputs = [
            t for t, flag in zip(inputs, wanted, strict=True) if flag and t is not None
        ]
        gradients = torch.autograd.grad(
            outputs, wanted_inputs, output_gradients, create_graph=again
        )
    return _scattered(gradients, wanted)


_C.set_differentiable_backward(_differentiable_backward)
