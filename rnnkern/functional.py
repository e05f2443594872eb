"""Recurrent networks and cells as functions, with the argument order of torch.lstm and torch.gru.

Surprising here:

- Packed input is the same function with `batch_sizes`, a keyword of its own; torch has overloads.
- A projection is recognised by the number of params; there is no argument for it.
- Under autocast everything (input, states, params) is cast to the ambient dtype first and the
  results have that dtype, on every device and for every cell. torch.nn does so for some cells and
  leaves others partly in float32. As everywhere under autocast, float64 is left alone.
- Dropout is one torch.dropout call per layer, as in torch.nn: the same seed drops the same units.

Letters: T steps, N batch, I input size, H hidden size, P projection size, R = P with a projection
and H without, G gates, D directions (1 or 2), L layers, M = sum(batch_sizes). Gates are in
torch.nn's order: LSTM i f g o, GRU r z n. Tensors of a call have one dtype (float32, float64,
bfloat16 or float16; any mixture under autocast) and one device. All functions are differentiable.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnkern.autograd import recurrence
from rnnkern.operators import CELLS


def rnn_tanh(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Elman network (1990): h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), layer upon layer.

    Args:
        input: [T, N, I], [N, T, I] if batch_first, or [M, I] with batch_sizes.
        hx: h0 [L*D, N, R].
        params: per layer and in it per direction w_ih [G*H, I, or D*R above the first layer],
            w_hh [G*H, R], b_ih [G*H] and b_hh [G*H] if has_biases, and w_hr [P, H] where there
            is a projection: h_t is then W_hr times the above.
        has_biases: whether params has biases.
        num_layers: L.
        dropout: probability of dropping an element of the output of each layer but the last.
        train: whether dropout is applied. Gradients do not depend on it.
        bidirectional: whether D is 2.
        batch_first: whether the batch is the first dimension of input and output; has no meaning
            with batch_sizes.
        batch_sizes: the batch_sizes of a PackedSequence ([T] int64 on the CPU, non-increasing)
            whose data input is.
        lengths: the number of steps of each sequence of a padded input ([N] integers from 0 to T,
            in any order, on any device; on a GPU the call waits for it). Nothing of the padding
            is read. Output is zero there, h_n is the state after a sequence's own last step, and
            its reverse direction starts at that. A sequence of length 0 keeps its hx.

    Returns:
        output [T, N, D*R] ([N, T, D*R], [M, D*R]), forward direction first, and h_n [L*D, N, R].

    Raises:
        ValueError: params has a wrong number of tensors, or one of them or hx a wrong shape.
        RuntimeError: T is 0, or dtypes, devices or other sizes do not fit.
    """
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    output, h_n = _network("rnn_tanh", input, (hx,), params, *options, batch_sizes, lengths)
    return output, h_n


def rnn_relu(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Elman network with a rectifier (Le, Jaitly, Hinton 2015); all else as `rnn_tanh`.

    h_t = relu(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)
    """
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    output, h_n = _network("rnn_relu", input, (hx,), params, *options, batch_sizes, lengths)
    return output, h_n


def gru(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit (Cho et al. 2014, torch.nn's form); no projection, else as `rnn_tanh`.

    r_t = sigmoid(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)
    z_t = sigmoid(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)
    n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_(t-1) + b_hn))
    h_t = (1 - z_t) * n_t + z_t * h_(t-1)
    """
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    output, h_n = _network("gru", input, (hx,), params, *options, batch_sizes, lengths)
    return output, h_n


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    return_cell_states: bool = False,
) -> tuple[Tensor, ...]:
    """LSTM (Hochreiter, Schmidhuber 1997; forget gate of Gers et al. 2000); else as `rnn_tanh`.

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)
    f_t = sigmoid(W_if x_t + b_if + W_hf h_(t-1) + b_hf)
    g_t = tanh(W_ig x_t + b_ig + W_hg h_(t-1) + b_hg)
    o_t = sigmoid(W_io x_t + b_io + W_ho h_(t-1) + b_ho)
    c_t = f_t * c_(t-1) + i_t * g_t
    h_t = o_t * tanh(c_t), or with a projection (Sak et al. 2014) W_hr (o_t * tanh(c_t))

    Args:
        hx: (h0 [L*D, N, R], c0 [L*D, N, H]).
        return_cell_states: whether c_t of the last layer is returned for every step too.

    Returns:
        output [T, N, D*R], h_n [L*D, N, R] and c_n [L*D, N, H]; with return_cell_states a fourth,
        the cell states, like output but with D*H features.

    Raises:
        TypeError: hx is a tensor.
        RuntimeError: hx has not two states.
    """
    _check_pair("lstm", hx)
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return _network("lstm", input, hx, params, *options, batch_sizes, lengths, return_cell_states)


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of `rnn_tanh`.

    Args:
        input: [N, I].
        hx: h [N, H].
        w_ih: [G*H, I].
        w_hh: [G*H, H].
        b_ih: [G*H].
        b_hh: [G*H].

    Returns:
        h' [N, H].

    Raises:
        RuntimeError: sizes (the texts are torch.nn's), dtypes or devices do not fit.
    """
    return _step("rnn_tanh", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of `rnn_relu`; arguments, result and errors as for `rnn_tanh_cell`."""
    return _step("rnn_relu", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of `gru`; arguments, result and errors as for `rnn_tanh_cell`."""
    return _step("gru", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `lstm` without projection; arguments and errors else as for `rnn_tanh_cell`.

    Args:
        hx: (h, c), both [N, H].

    Returns:
        (h', c'), both [N, H].

    Raises:
        TypeError: hx is a tensor.
        RuntimeError: hx has not two states.
    """
    _check_pair("lstm_cell", hx)
    h, c = _step("lstm", input, hx, w_ih, w_hh, b_ih, b_hh)
    return h, c


def _network(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
    all_states: bool = False,
) -> tuple[Tensor, ...]:
    """A stack of layers: (output, *final_states, *further_states of the last if all_states)."""
    sizes = None
    if batch_sizes is not None or lengths is not None:
        sizes = _sizes(input, batch_sizes, lengths)
    directions = 2 if bidirectional else 1
    _check_states(states, num_layers * directions)
    has_projection = _has_projection(cell, len(params), has_biases, num_layers * directions)
    weights = weights_by_layer(params, has_biases, has_projection, directions)
    if (dtype := _autocast_dtype(input)) is not None:
        (input,), states = _cast([input], dtype), _cast(states, dtype)
        weights = [_cast(layer, dtype) for layer in weights]

    time_second = batch_first and input.dim() == 3
    x = input.transpose(0, 1) if time_second else input
    finals = []
    for index, own_states in enumerate(_by_layer(states, directions)):
        if index > 0 and dropout and train:
            x = torch.dropout(x, dropout, train)
        all_of_layer = all_states and index == num_layers - 1
        try:
            x, *rest = recurrence(cell, x, sizes, own_states, weights[index], all_of_layer)
        except RuntimeError as error:
            # The kernel does not say which of the params it is.
            wrong = _wrong_weight(cell, index, x.shape[-1], own_states, weights[index])
            if wrong is None:
                raise
            raise wrong from error
        finals.append(rest[: len(states)] if all_of_layer else rest)
    output = x.transpose(0, 1) if time_second else x
    final = finals[0] if num_layers == 1 else map(torch.cat, zip(*finals, strict=True))
    if not all_states:
        return output, *final
    further = rest[len(states) :]
    return output, *final, *(each.transpose(0, 1) if time_second else each for each in further)


def _sizes(
    input: Tensor, batch_sizes: Tensor | None, lengths: Tensor | Sequence[int] | None
) -> Tensor:
    """What a layer calls sizes: batch_sizes of packed input, or lengths of padded input."""
    if batch_sizes is not None and lengths is not None:
        raise ValueError("lengths: expected None with batch_sizes, which say as much, got lengths")
    dims = 3 if batch_sizes is None else 2
    if input.dim() != dims:
        raise RuntimeError(f"input must have {dims} dimensions, got {input.dim()}")
    if batch_sizes is not None:
        return batch_sizes
    # A copy: backward reads them again, and would not notice a change of what numpy holds.
    if isinstance(lengths, Tensor):
        return lengths.clone()
    assert lengths is not None
    return torch.tensor(lengths, dtype=None if len(lengths) else torch.int64)


def _by_layer(states: Sequence[Tensor], directions: int) -> Iterable[Sequence[Tensor]]:
    """The states of each layer. One layer has them as they are: a view of each would cost 1 us."""
    if states[0].size(0) == directions:
        return [states]
    return zip(*(state.split(directions) for state in states), strict=True)


def weights_by_layer(
    params: Sequence[Tensor], has_biases: bool, has_projection: bool, directions: int
) -> list[list[Tensor | None]]:
    """Per layer D groups of w_ih, w_hh, b_ih, b_hh, w_hr, with None for those that are absent."""
    for param in params:
        if param is None:
            present = (True, True, has_biases, has_biases, has_projection) * directions
            raise _none_among(present, [p is None for p in params].index(True))
    count = 2 + 2 * has_biases + has_projection
    no_biases = () if has_biases else (None, None)
    no_projection = () if has_projection else (None,)
    groups = [
        [*params[k : k + 2], *no_biases, *params[k + 2 : k + count], *no_projection]
        for k in range(0, len(params), count)
    ]
    return groups if directions == 1 else list(map(operator.add, groups[::2], groups[1::2]))


def _none_among(present: Sequence[bool], index: int) -> ValueError:
    """The error of None at an index of params, where a layer has the places that are present."""
    layer, place = divmod(index, sum(present))
    direction, kind = divmod([i for i, flag in enumerate(present) if flag][place], 5)
    return ValueError(f"params: expected {_name(kind, layer, direction)}, got None")


def _wrong_weight(
    cell: str,
    layer: int,
    input_size: int,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
) -> ValueError | None:
    """What is wrong with the shape of one of a layer's weights, by its input and states."""
    w_hr = weights[4]
    # The last state shows H, except where it is the only one and a projection made it narrower.
    shows_hidden = states[-1] if w_hr is None or len(states) > 1 else w_hr
    hidden = shows_hidden.shape[-1]
    out = hidden if w_hr is None else states[0].shape[-1]
    rows = CELLS[cell]["gates"] * hidden
    shapes = ((rows, input_size), (rows, out), (rows,), (rows,), (out, hidden))
    for index, weight in enumerate(weights):
        direction, place = divmod(index, len(shapes))
        if weight is not None and weight.shape != shapes[place]:
            name = _name(place, layer, direction)
            expected = f"expected {name} of shape {list(shapes[place])} (by input and hx)"
            return ValueError(f"params: {expected}, got {list(weight.shape)}")
    return None


def _has_projection(cell: str, count: int, has_biases: bool, groups: int) -> bool:
    """Whether so many params include projections; raises if they fit neither way."""
    without = groups * (4 if has_biases else 2)
    can_project = CELLS[cell]["projection"]
    if count == without:
        return False
    if can_project and count == without + groups:
        return True
    expected = f"{without} tensors" + (f", or {without + groups} with a projection," * can_project)
    raise ValueError(f"params: expected {expected} for {groups} layers x directions, got {count}")


def _name(place: int, layer: int, direction: int) -> str:
    """The name that torch.nn gives to a parameter."""
    kind = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")[place]
    return f"{kind}_l{layer}" + "_reverse" * direction


def _check_states(states: Sequence[Tensor], count: int) -> None:
    """Only what the kernel cannot see: it is given the states of one layer."""
    for index, state in enumerate(states):
        if state.dim() != 3 or state.size(0) != count:
            name = "hx" if len(states) == 1 else f"hx[{index}]"
            expected = f"[{count} (layers x directions), batch, hidden size]"
            raise ValueError(f"{name}: expected shape {expected}, got {list(state.shape)}")


def _check_pair(function: str, hx: Sequence[Tensor]) -> None:
    """The errors of torch for what is not a pair of states."""
    if isinstance(hx, Tensor):
        text = f"{function}(): argument 'hx' (position 2) must be tuple of Tensors, not Tensor"
        raise TypeError(text)
    if len(hx) != 2:
        raise RuntimeError(f"{function} expects two hidden states")


def _step(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> list[Tensor]:
    """The states after one step, which is a layer over a sequence of one."""
    _check_step(input, states, w_ih, w_hh)
    weights: Sequence[Tensor | None] = (w_ih, w_hh, b_ih, b_hh, None)
    if (dtype := _autocast_dtype(input)) is not None:
        (input,), states = _cast([input], dtype), _cast(states, dtype)
        weights = _cast(weights, dtype)
    return recurrence(cell, input, None, states, weights)[1:]


def _check_step(input: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor) -> None:
    """The errors of torch's cells, in their order."""
    if input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
    if input.size(1) != w_ih.size(1):
        raise RuntimeError(
            f"input has inconsistent input_size: got {input.size(1)} expected {w_ih.size(1)}"
        )
    for index, state in enumerate(states):
        if input.size(0) != state.size(0):
            raise RuntimeError(
                f"Input batch size {input.size(0)} doesn't match "
                f"hidden{index} batch size {state.size(0)}"
            )
        if state.size(1) != w_hh.size(1):
            raise RuntimeError(
                f"hidden{index} has inconsistent hidden_size: "
                f"got {state.size(1)}, expected {w_hh.size(1)}"
            )


def _autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype of the autocast that holds for the input, or None."""
    # Asking by device raises for devices without autocast, such as meta.
    if not torch._C._is_any_autocast_enabled():
        return None
    device = input.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _cast(tensors: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """The tensors in the autocast dtype. As everywhere under autocast, float64 stays.

    So do None, and what is no float: the kernel refuses it.
    """
    return [t.to(dtype) if _is_castable(t) else t for t in tensors]


def _is_castable(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64
