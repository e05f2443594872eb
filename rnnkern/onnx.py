"""Export to ONNX: a layer becomes one node of ONNX's own operator LSTM, GRU or RNN.

    program = rnnkern.onnx.export(model.eval(), (x,), dynamic_shapes=({0: "time", 1: "batch"},))
    program.save("model.onnx")

rnnkern does not import this module by itself: it needs the packages of requirements-onnx.txt.

Surprising here:

- ONNX has the gates in another order, and one tensor for the directions of a layer. Nodes bring the
  weights into that form, and `export` computes them ahead: the folding of constants in
  torch.onnx.export leaves tensors of more than 8192 elements alone.
- What stands beyond a sequence's length ONNX does not say. In ONNX Runtime outputs are zero there,
  as ours are, and so is the final state of a sequence of length 0, where ours is its initial one.
- bfloat16 is computed in float32, as on a CPU by our kernels: ONNX Runtime has no LSTM for it, and
  neither has ONNX before opset 22.

Letters: T steps, N batch, I input size, H hidden size, G gates, D directions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.optimizer import fold_constants_ir
from torch import nn

Value = Any  # ir.Value, which torch, reading annotations, takes for a type of tensor


class Operator(NamedTuple):
    """ONNX's operator for a cell, where each of its gates stands among ours, and activations."""

    name: str
    gates: tuple[int, ...]
    activations: tuple[str, ...]


OPERATORS = {
    "lstm": Operator("LSTM", (0, 3, 1, 2), ("Sigmoid", "Tanh", "Tanh")),  # i o f g
    "gru": Operator("GRU", (1, 0, 2), ("Sigmoid", "Tanh")),  # z r n
    "rnn_tanh": Operator("RNN", (0,), ("Tanh",)),
    "rnn_relu": Operator("RNN", (0,), ("Relu",)),
}


def export(
    model: nn.Module | torch.export.ExportedProgram, args: tuple[Any, ...] = (), **options: Any
) -> torch.onnx.ONNXProgram:
    """torch.onnx.export of a model that has layers of rnnkern, each of them one node.

    Args:
        model: as for torch.onnx.export.
        args: as for torch.onnx.export.
        options: those of torch.onnx.export, such as dynamic_shapes; but not f, as the program that
            is returned can be saved.

    Returns:
        The program, in which the weights are constants in ONNX's form. float32 and float16 run in
        ONNX Runtime, bfloat16 does in float32; float64 is valid ONNX that ONNX Runtime refuses.

    Raises:
        NotImplementedError: the model has what ONNX has not, which the text names: a projection,
            packed sequences (padded input with lengths is fine), the cell states of every step, or
            another cell.
        torch.onnx.OnnxExporterError: torch.onnx.export fails for another reason.
    """
    table = {**TRANSLATIONS, **(options.pop("custom_translation_table", None) or {})}
    options["custom_translation_table"] = table
    try:
        program: Any = torch.onnx.export(model, args, None, dynamo=True, **options)
    except torch.onnx.OnnxExporterError as error:
        if (text := _not_implemented(error)) is None:
            raise
        raise NotImplementedError(text) from error
    _fold_weights(program.model)
    return program


def _not_implemented(error: BaseException | None) -> str | None:
    """What was not implemented, if that is why; torch's own text begins with how to report it."""
    while error is not None and not isinstance(error, NotImplementedError):
        error = error.__cause__
    return None if error is None else str(error)


def layer(
    cell: str,
    x: Value,
    sizes: Value | None,
    states: Sequence[Value],
    weights: Sequence[Value],
    places: Sequence[int],
    all_states: bool,
) -> list[Value]:
    """torch.ops.rnnkern.layer in ONNX: its arguments, its results."""
    operator = _operator(cell, x, sizes, places, all_states)
    hidden = states[0].shape[-1]
    is_step, in_float32 = len(x.shape) == 2, x.dtype == ir.DataType.BFLOAT16
    if in_float32:
        x, *states = (op.Cast(each, to=ir.DataType.FLOAT) for each in (x, *states))
        weights = [op.Cast(weight, to=ir.DataType.FLOAT) for weight in weights]
    if is_step:
        x, *states = (op.Unsqueeze(each, [0]) for each in (x, *states))
    by_place = dict(zip(places, weights, strict=True))
    results = _sequence(operator, x, sizes, states, by_place, hidden)
    if is_step:
        results = [op.Squeeze(result, [0]) for result in results]
    if in_float32:
        results = [op.Cast(result, to=ir.DataType.BFLOAT16) for result in results]
    return results


TRANSLATIONS = {torch.ops.rnnkern.layer.default: layer}
"""For custom_translation_table of torch.onnx.export, where `export` does not fit."""


def _operator(
    cell: str, x: Value, sizes: Value | None, places: Sequence[int], all_states: bool
) -> Operator:
    """The operator for a layer. Raises NotImplementedError where ONNX has none."""
    if cell not in OPERATORS:
        raise NotImplementedError(f"ONNX has no {cell}, only {', '.join(OPERATORS)}")
    name = OPERATORS[cell].name
    if any(place % 5 == 4 for place in places):
        raise NotImplementedError(f"ONNX's {name} has no projection (proj_size, w_hr)")
    if sizes is not None and len(x.shape) == 2:
        raise NotImplementedError(
            f"ONNX's {name} takes no packed sequences: call the layer with padded input and lengths"
        )
    if all_states:
        raise NotImplementedError(
            f"ONNX's {name} does not return the cell state of every step (return_cell_states)"
        )
    return OPERATORS[cell]


def _sequence(
    operator: Operator,
    x: Value,
    lengths: Value | None,
    states: Sequence[Value],
    weights: dict[int, Value],
    hidden: int,
) -> list[Value]:
    """[y [T, N, D*H], *final_states [D, N, H]] of x [T, N, I], with lengths [N] or without.

    weights are by their places; tensors may be results of other nodes, whose shape is not known.
    """
    directions = max(weights) // 5 + 1
    attributes = {
        "hidden_size": hidden,
        "direction": "forward" if directions == 1 else "bidirectional",
        "activations": operator.activations * directions,
    }
    if operator.name == "GRU":
        attributes["linear_before_reset"] = 1
    given = _weights(operator, weights, directions, hidden)
    sequence_lens = None if lengths is None else op.Cast(lengths, to=ir.DataType.INT32)
    y, *finals = getattr(op, operator.name)(x, *given, sequence_lens, *states, **attributes)
    if lengths is not None:
        is_empty = op.Unsqueeze(op.Equal(lengths, 0), [1])
        finals = [op.Where(is_empty, *pair) for pair in zip(states, finals, strict=True)]
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])  # from [T, D, N, H]
    return [y, *finals]


def _weights(
    operator: Operator, weights: dict[int, Value], directions: int, hidden: int
) -> tuple[Value, Value, Value | None]:
    """W [D, G*H, I], R [D, G*H, H] and, if the layer has any bias, B [D, 2*G*H]."""
    rows = len(operator.gates) * hidden

    def stacked(kinds: Sequence[int], shape: Sequence[int]) -> Value:
        tensors = [weights[5 * d + kind] for d in range(directions) for kind in kinds]
        gates = op.Reshape(op.Concat(*tensors, axis=0), [len(tensors), len(operator.gates), -1])
        return op.Reshape(op.Gather(gates, operator.gates, axis=1), shape)

    biases = [5 * d + kind for d in range(directions) for kind in (2, 3)]
    if weights.keys().isdisjoint(biases):
        bias = None
    else:
        zeros = op.Expand(op.CastLike(0.0, weights[0]), [rows])
        weights = {**dict.fromkeys(biases, zeros), **weights}
        bias = stacked((2, 3), [directions, 2 * rows])
    shape = [directions, rows, -1]
    return stacked((0,), shape), stacked((1,), shape), bias


def _fold_weights(model: ir.Model) -> None:
    """Computes ahead all nodes that only bring constants into the form of recurrent weights."""
    names = {operator.name for operator in OPERATORS.values()}
    recurrent = [node for node in model.graph.all_nodes() if node.op_type in names]
    values = [value for node in recurrent for value in node.inputs[1:4]]
    nodes: set[ir.Node] = set()
    while values:
        value = values.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            values.extend(node.inputs)
    fold_constants_ir(model, output_size_limit=sys.maxsize, should_fold=lambda node: node in nodes)
