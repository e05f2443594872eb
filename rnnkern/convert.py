"""Exchanging torch.nn's recurrent modules for rnnkern's and back.

A converted module is a new object over the old one's state: it shares Parameters, buffers and
parametrizations, and its hooks are the same dictionaries, so that the `remove()` of a handle from
before still works. What is bound to the old object cannot move and is refused.
"""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from rnnkern import modules

_TO_RNNKERN: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: modules.RNN,
    nn.LSTM: modules.LSTM,
    nn.GRU: modules.GRU,
    nn.RNNCell: modules.RNNCell,
    nn.LSTMCell: modules.LSTMCell,
    nn.GRUCell: modules.GRUCell,
}
_TO_TORCH = {ours: theirs for theirs, ours in _TO_RNNKERN.items()}


def replace_rnn_(model: nn.Module) -> list[str]:
    """Replaces every RNN, LSTM, GRU and cell of torch.nn inside model by rnnkern's, in place.

    Parameters are shared: optimizers, state_dicts and tied weights are not affected. Hooks,
    weight_norm, parametrizations and the training flag are kept. A module that stands in several
    places is replaced by one. Not replaced are subclasses, which may have a forward of their own,
    and modules that are not registered as submodules.

    Args:
        model: a module that contains recurrent modules.

    Returns:
        The dotted names of what was replaced, in the order of named_modules.

    Raises:
        TypeError: model itself is a recurrent module; use from_torch.
        ValueError: a module has something bound to it, see from_torch. Nothing is replaced then.
    """
    if _base(model) in _TO_RNNKERN:
        raise TypeError(
            f"replace_rnn_ replaces modules inside a model, and this model is itself a "
            f"{_base(model).__name__}: use model = rnnkern.from_torch(model)"
        )
    return _replaced(model, _TO_RNNKERN)


def replace_by_torch_(model: nn.Module) -> list[str]:
    """The opposite of replace_rnn_: rnnkern's modules inside model become torch.nn's, in place."""
    return _replaced(model, _TO_TORCH)


def twins(module: nn.Module) -> tuple[type[nn.Module], type[nn.Module]] | None:
    """The classes of a recurrent module in torch.nn and in rnnkern; None for any other module."""
    base = _base(module)
    theirs = _TO_TORCH.get(base, base)
    return (theirs, _TO_RNNKERN[theirs]) if theirs in _TO_RNNKERN else None


def from_torch(module: nn.Module) -> nn.Module:
    """The rnnkern module over the Parameters and hooks of a torch.nn RNN, LSTM, GRU or cell.

    Args:
        module: an instance of torch.nn's class itself, which may be parametrized.

    Returns:
        A new module; both can be used.

    Raises:
        TypeError: module is something else, for instance a subclass of nn.LSTM.
        ValueError: module has a forward of its own in the instance, or hooks that torch binds to
            the object (register_load_state_dict_pre_hook).
    """
    return _converted(module, _TO_RNNKERN)


def to_torch(module: nn.Module) -> nn.Module:
    """The torch.nn module over the Parameters and hooks of an rnnkern RNN, LSTM, GRU or cell.

    For torch.jit.script, ONNX export, quantization and whatever else asks for torch.nn's classes.
    Arguments, result and errors as for from_torch.
    """
    return _converted(module, _TO_TORCH)


def _base(module: nn.Module) -> type[nn.Module]:
    """The class of the module, or what it was before parametrize gave it a class of its own."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def _replaced(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> list[str]:
    """Converts every module inside model whose class is a key; the names of replace_rnn_."""
    found = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if _base(module) in classes
    ]
    replacements = {module: _converted(module, classes) for _, module in found}
    for name, module in found:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, replacements[module])
    return [name for name, _ in found]


def _converted(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    base = _base(module)
    if base not in classes:
        known = ", ".join(f"{cls.__module__}.{cls.__name__}" for cls in classes)
        raise TypeError(f"expected one of {known}, got {base.__module__}.{base.__name__}")
    _check_nothing_is_bound(module)
    target = classes[base]
    if base is not type(module):  # the properties of the parametrized tensors are in the class
        target = type(type(module).__name__, (target,), dict(vars(type(module))))
    result = target.__new__(target)
    result.__dict__.update(
        (name, value if "_hooks" in name else _shallow(value))
        for name, value in vars(module).items()
        if name != "_compiled_call_impl"
    )
    if base is not type(module):  # its own dictionary: remove_parametrizations empties it
        children = module.get_submodule("parametrizations").named_children()
        result.parametrizations = nn.ModuleDict(dict(children))
    return result


def _shallow(value: object) -> object:
    """A copy of a container, so that assigning to one module leaves the other alone."""
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _check_nothing_is_bound(module: nn.Module) -> None:
    name = type(module).__name__
    if "forward" in vars(module):
        raise ValueError(f"this {name} has a forward of its own, which conversion would lose")
    hooks = module._load_state_dict_pre_hooks.values()
    if any(getattr(hook, "with_module", False) for hook in hooks):
        raise ValueError(f"this {name} has load_state_dict pre-hooks that are bound to it")
