"""Runs of a model, and of its recurrent layers alone, that can be compared.

A `Task` runs forward and backward: a copy of the whole model, or one recurrent layer with the
arguments and gradients of a recorded call.

Surprising here:

- Only copies run; the model itself is never called.
- Dropout between the layers of a stack is left out of every copy: cuDNN and float64 would draw
  other units than the rest, and nothing could be compared. Other dropout draws the same each time.
- The exact copy computes recurrent layers in float64 and rounds their results; all else in it runs
  as it is. A whole model cannot be cast: its forward may make tensors of a dtype of its own.
- In copies the `forward` of recurrent modules is replaced in the instance, so that their hooks and
  parametrizations run as ever.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from rnnkern import convert

OUTPUTS, INPUTS, WEIGHTS = "outputs", "input gradients", "weight gradients"
Answer = dict[str, list[Tensor]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_KEPT_CALLS = 3
_CELL_OPTIONS = ("input_size", "hidden_size", "bias", "nonlinearity")
_OPTIONS = (*_CELL_OPTIONS, "num_layers", "batch_first", "bidirectional", "proj_size")


@dataclass
class Task:
    """Something to run forward and backward.

    Attributes:
        run: what is called.
        layers: the recurrent modules in it, by name.
        inputs: the tensors among the arguments whose gradients are asked for.
        weights: the parameters whose gradients are asked for.
        cotangents: the gradient that reaches each of the outputs' tensors, or None. Where they are
            missing, the first `answer` draws them.
    """

    run: Callable[[], Any]
    layers: dict[str, nn.Module]
    inputs: list[Tensor]
    weights: Sequence[Tensor]
    cotangents: Sequence[Tensor | None] | None = None

    @property
    def has_backward(self) -> bool:
        """Whether gradients are asked for and reach an output."""
        reached = any(cotangent is not None for cotangent in self.cotangents or ())
        return reached and bool(self.inputs or self.weights)

    def set_training(self, flag: bool) -> None:
        """Of the recurrent modules only."""
        for layer in self.layers.values():
            layer.training = flag

    def infer(self) -> None:
        """Runs forward, without gradients."""
        with torch.no_grad():
            self.run()

    def step(self) -> tuple[list[Tensor], list[Tensor]]:
        """Runs forward and backward: outputs, and the gradients of inputs and weights if any."""
        outputs = leaves(self.run())
        if self.cotangents is None:
            self.cotangents = _drawn_like(outputs)
        pairs = [
            (output, cotangent.to(output.dtype))
            for output, cotangent in zip(outputs, self.cotangents, strict=True)
            if cotangent is not None
        ]
        wanted = [*self.inputs, *self.weights]
        if not pairs or not wanted:
            return outputs, []
        reached, given = zip(*pairs, strict=True)
        return outputs, list(torch.autograd.grad(reached, wanted, given, materialize_grads=True))

    def answer(self) -> Answer:
        """The results of `step` by what they are, without what there is none of."""
        outputs, gradients = self.step()
        count = len(self.inputs)
        found = {
            OUTPUTS: [output.detach() for output in outputs],
            INPUTS: gradients[:count],
            WEIGHTS: gradients[count:],
        }
        return {what: tensors for what, tensors in found.items() if tensors}


# ---- the whole model -----------------------------------------------------------------------------


def model_task(
    model: nn.Module,
    arguments: Arguments,
    replace: Callable[[nn.Module], list[str]],
    draw: int = 0,
) -> Task:
    """A call of a copy of the model, and of its arguments, with its recurrent modules replaced.

    In draws above 0 its parameters are moved, see `_moved`.
    """
    with _CopiesOfGraphs():
        root, args, kwargs = copy.deepcopy((nn.ModuleDict({"model": model}), *arguments))
    weights = [parameter for parameter in root.parameters() if parameter.requires_grad]
    for index, parameter in enumerate(root.parameters()):
        parameter.data = _moved(parameter.data, draw, index)
    replace(root)
    layers = recurrent_modules(root)
    for layer in layers.values():
        layer.training = True  # or cuDNN has no backward
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
            layer.flatten_parameters()
    inputs = [tensor for tensor in leaves((args, kwargs)) if tensor.requires_grad]
    names = {name.removeprefix("model").removeprefix("."): name for name in layers}
    return Task(
        lambda: root["model"](*args, **kwargs),
        {name: layers[full] for name, full in names.items()},
        inputs,
        weights,
    )


def recurrent_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The recurrent modules of torch.nn and rnnkern in a model, by dotted name, each once."""
    return {name: module for name, module in model.named_modules() if convert.twins(module)}


class _CopiesOfGraphs(TorchFunctionMode):
    """Inside it copy.deepcopy takes tensors that are results, which it refuses otherwise."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = _owned(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


@contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """What is drawn inside, of torch, Python or numpy, is drawn again by whoever comes next."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.get_device() for tensor in tensors if tensor.is_cuda}
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


def compute_in_float64(layer: nn.Module) -> None:
    """Makes a module of torch.nn compute in float64, and round to the dtype of its input."""
    bare = _bare(layer)
    names = [name for name, _ in bare.named_parameters()]

    def forward(*args: Any, **kwargs: Any) -> Any:
        weights = {name: getattr(layer, name).double() for name in names}
        dtype = leaves((args, kwargs))[0].dtype
        args, kwargs = mapped((args, kwargs), Tensor.double)
        result = torch.func.functional_call(bare, weights, args, kwargs)
        return mapped(result, lambda tensor: tensor.to(dtype))

    layer.forward = forward


# ---- a layer alone -------------------------------------------------------------------------------


@dataclass
class Call:
    """Arguments of a recurrent module, and the gradients that reached its outputs' tensors."""

    arguments: Arguments
    gradients: list[Tensor | None]

    @property
    def has_gradients(self) -> bool:
        return any(gradient is not None for gradient in self.gradients)

    @property
    def input(self) -> Tensor | PackedSequence:
        args, kwargs = self.arguments
        return args[0] if args else kwargs["input"]


@dataclass
class Recording:
    """The calls of a recurrent module; only the first few are kept."""

    layer: nn.Module
    count: int = 0
    calls: list[Call] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


def record(layer: nn.Module) -> Recording:
    """Records the calls of a module from now on."""
    recording, forward = Recording(layer), layer.forward
    names = [name for name, _ in _bare(layer).named_parameters()]

    def recorded(*args: Any, **kwargs: Any) -> Any:
        is_kept = len(recording.calls) < _KEPT_CALLS
        if not recording.calls:
            recording.weights = {name: _owned(getattr(layer, name)) for name in names}
        call = Call(mapped((args, kwargs), _owned), []) if is_kept else None
        result = forward(*args, **kwargs)
        recording.count += 1
        if call is not None:
            recording.calls.append(call)
            _record_gradients(leaves(result), call.gradients)
        return result

    layer.forward = recorded
    return recording


def _record_gradients(outputs: list[Tensor], gradients: list[Tensor | None]) -> None:
    gradients += [None] * len(outputs)
    for index, output in enumerate(outputs):
        if output.requires_grad:

            def keep(gradient: Tensor, index: int = index) -> None:
                gradients[index] = gradient.detach()

            output.register_hook(keep)


def layer_task(
    recording: Recording,
    call: Call,
    module: type[nn.Module],
    dtype: torch.dtype | None = None,
    *,
    every_gradient: bool = False,
    draw: int = 0,
) -> Task:
    """A recorded call of a layer alone.

    Args:
        recording: the layer.
        call: one of its calls.
        module: the class to make the layer of.
        dtype: what to compute in, in place of the dtypes of the call.
        every_gradient: whether to ask for the gradients of all inputs and weights, or only for
            those that the model asks for.
        draw: above 0 the weights are moved, see `_moved`.
    """

    def prepared(tensor: Tensor) -> Tensor:
        asked = every_gradient or tensor.requires_grad
        return tensor.detach().to(dtype or tensor.dtype, copy=True).requires_grad_(asked)

    layer = _bare(recording.layer, module)
    for index, (name, weight) in enumerate(recording.weights.items()):
        asked = every_gradient or weight.requires_grad
        setattr(layer, name, nn.Parameter(prepared(_moved(weight, draw, index)), asked))
    if isinstance(layer, nn.RNNBase):
        layer.flatten_parameters()
    args, kwargs = mapped(call.arguments, prepared)
    return Task(
        lambda: layer(*args, **kwargs),
        {"": layer},
        [tensor for tensor in leaves((args, kwargs)) if tensor.requires_grad],
        [weight for weight in layer.parameters() if weight.requires_grad],
        call.gradients,
    )


def _bare(layer: nn.Module, module: type[nn.Module] | None = None) -> nn.Module:
    """A module, torch.nn's or of the given class, with the layer's options but dropout, on meta."""
    kinds = convert.twins(layer)
    assert kinds is not None
    options = {name: getattr(layer, name) for name in _OPTIONS if hasattr(layer, name)}
    if not options.get("proj_size"):  # which only an LSTM takes
        options.pop("proj_size", None)
    return (module or kinds[0])(**options, device="meta")


# ---- tensors -------------------------------------------------------------------------------------


def leaves(value: Any) -> list[Tensor]:
    """The floating-point tensors of a result, however nested."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    elif dataclasses.is_dataclass(value):
        value = [getattr(value, each.name) for each in dataclasses.fields(value)]
    if not isinstance(value, tuple | list):
        return []
    return [leaf for part in value for leaf in leaves(part)]


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Arguments or results of a recurrent module with their floating-point tensors changed."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return PackedSequence(change(value.data), *value[1:])
    if isinstance(value, dict):
        return {name: mapped(part, change) for name, part in value.items()}
    return (
        tuple(mapped(part, change) for part in value) if isinstance(value, tuple | list) else value
    )


def _owned(tensor: Tensor) -> Tensor:
    """A copy outside of any graph that asks for a gradient if the tensor does."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _drawn_like(outputs: list[Tensor]) -> list[Tensor | None]:
    """Normal numbers, the same at every call, for the outputs that take gradients."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(output.shape, generator=generator).to(output) if output.requires_grad else None
        for output in outputs
    ]


def _moved(tensor: Tensor, draw: int, index: int) -> Tensor:
    """The tensor for draw 0. Else each element is off by about a hundredth, by draw and index.

    All roundings are others then, and all else is much the same.
    """
    if draw == 0 or not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(1000 * draw + index)
    return tensor * (1 + torch.randn(tensor.shape, generator=generator) / 100).to(tensor)
