"""The equations in plain PyTorch, to be read beside a textbook.

Slow; takes any float dtype on any device and can be differentiated any number of times. The kernels
are tested against it in float64, and double backward runs it.

Letters: T steps, N batch, I input size, H hidden size, P projection size, R = P with a projection
and H without, G gates, D directions (1 or 2), L layers, M = sum(batch_sizes).

A new cell is one step function with the decorator `_cell`; `layer` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

States = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, States], States]

STEPS: dict[str, Step] = {}


def _cell(step: Step) -> Step:
    STEPS[step.__name__] = step
    return step


# ---- one step of each cell -----------------------------------------------------------------------
# x_gates = x W_ih^T + b_ih and h_gates = h W_hh^T + b_hh, both [n, G*H]; states are those before
# the step, [n, H] each. They return the states after it. The h of an LSTM with a projection is
# [n, P] among the old states and [n, H] among the new: `layer` projects it.


@_cell
def rnn_tanh(x_gates: Tensor, h_gates: Tensor, states: States) -> States:
    """Elman (1990): h' = tanh(x_gates + h_gates)."""
    return (torch.tanh(x_gates + h_gates),)


@_cell
def rnn_relu(x_gates: Tensor, h_gates: Tensor, states: States) -> States:
    """Elman's network with a rectifier (Le, Jaitly, Hinton 2015): h' = relu(x_gates + h_gates)."""
    return (torch.relu(x_gates + h_gates),)


@_cell
def lstm(x_gates: Tensor, h_gates: Tensor, states: States) -> States:
    """Hochreiter, Schmidhuber (1997), with the forget gate of Gers et al. (2000); gates i f g o."""
    _, c = states
    i, f, g, o = (x_gates + h_gates).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, c


@_cell
def gru(x_gates: Tensor, h_gates: Tensor, states: States) -> States:
    """Cho et al. (2014), except that r gates the product W_hn h + b_hn, not h; gates r z n."""
    (h,) = states
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)
    h_r, h_z, h_n = h_gates.chunk(3, dim=-1)
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,)


# ---- one layer -----------------------------------------------------------------------------------


def layer(
    cell: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    all_states: bool = False,
) -> list[Tensor]:
    """One layer in all its directions; the same arguments and results as `rnnkern._C.recurrence`.

    Args:
        cell: a name in STEPS.
        x: [T, N, I], or [M, I], a packed sequence, or [N, I], a single step.
        sizes: with x [T, N, I] the lengths [N] of its sequences, or None if all are T; with x
            [M, I] its batch_sizes: [T] int64, non-increasing, the active rows of each step.
        states: [h0 [D, N, R]], or [h0, c0 [D, N, H]] for an LSTM; without D for a single step.
        weights: D groups of w_ih [G*H, I], w_hh [G*H, R], b_ih [G*H], b_hh [G*H], w_hr [P, H];
            the last three may be None.
        all_states: whether to return the states behind h after every step too.

    Returns:
        [y, *final_states]: y like x with D*R features, direction 0 first; final states like states.
        With all_states [..., *further_states], like x with D*H features. Beyond a length all but
        the final states are zero.

    Raises:
        RuntimeError: T is 0 (the text is torch.nn's).
    """
    if sizes is None and x.dim() == 2:
        x, *states = (tensor.unsqueeze(0) for tensor in (x, *states))
        return [out.squeeze(0) for out in layer(cell, x, None, states, weights, all_states)]
    packed = x.dim() == 2
    alive: Tensor | None = None
    if sizes is not None and not packed:
        steps = torch.arange(len(x), device=x.device)
        alive = (steps[:, None] < sizes.to(x.device)).unsqueeze(-1)
        x = torch.where(alive, x, 0)  # what stands there may be anything
    rows: Sequence[Tensor] = x.unbind()
    if sizes is not None and packed:
        rows = x.split(sizes.tolist())
    if len(rows) == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    outputs = []
    finals = []
    for direction in range(len(weights) // 5):
        own_weights = weights[5 * direction : 5 * direction + 5]
        own_states = tuple(state[direction] for state in states)
        after, final = _scan(STEPS[cell], rows, alive, own_states, own_weights, direction == 1)
        outputs.append([torch.cat(each) if packed else torch.stack(each) for each in after])
        finals.append(final)
    y, *further = (torch.cat(each, dim=-1) for each in zip(*outputs, strict=True))
    return [y, *map(torch.stack, zip(*finals, strict=True)), *(further if all_states else [])]


def _scan(
    step: Step,
    rows: Sequence[Tensor],
    alive: Tensor | None,
    states: States,
    weights: Sequence[Tensor | None],
    backwards: bool,
) -> tuple[list[tuple[Tensor, ...]], States]:
    """Runs `step` over `rows` ([n, I] each): the states after each step, and the final states.

    The rows of a state that are not active in a step pass through it untouched: those behind the
    first n, and with `alive` [T, N, 1] those where it is False. That is all there is to variable
    length: forwards, a row that has ended keeps its final state; backwards, a row that has not
    begun keeps its initial one.
    """
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    assert w_ih is not None
    assert w_hh is not None
    after = []
    times = range(len(rows))
    for t in reversed(times) if backwards else times:
        x = rows[t]
        old = tuple(state[: len(x)] for state in states)
        h, *others = step(linear(x, w_ih, b_ih), linear(old[0], w_hh, b_hh), old)
        new = [h if w_hr is None else linear(h, w_hr), *others]
        if alive is not None:
            after.append([torch.where(alive[t], state, 0) for state in new])
            new = [torch.where(alive[t], *pair) for pair in zip(new, old, strict=True)]
        else:
            after.append(new)
        states = tuple(
            torch.cat([n, state[len(x) :]]) for n, state in zip(new, states, strict=True)
        )
    return list(zip(*(after[::-1] if backwards else after), strict=True)), states


# ---- a stack of layers ---------------------------------------------------------------------------


def network(
    cell: str,
    input: Tensor,
    hx: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """A stack of layers: the functions of `rnnkern.functional`, but for lengths and cell states.

    Args:
        cell: a name in STEPS.
        input: [T, N, I], [N, T, I] if batch_first, or [M, I] with batch_sizes.
        hx: h0 [L*D, N, R], or (h0, c0 [L*D, N, H]) for an LSTM.
        params: per layer, per direction: w_ih, w_hh, b_ih and b_hh if has_biases, and w_hr if it
            has a projection.
        dropout: probability, applied to the output of every layer but the last if train.

    Returns:
        (output, h_n) or, for an LSTM, (output, h_n, c_n).
    """
    directions = 2 if bidirectional else 1
    states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    time_second = batch_first and batch_sizes is None
    x = input.transpose(0, 1) if time_second else input
    weights = _groups_of_five(params, has_biases, num_layers * directions)
    finals = []
    for index in range(num_layers):
        own = slice(index * directions, (index + 1) * directions)
        own_weights = [weight for group in weights[own] for weight in group]
        x, *final = layer(cell, x, batch_sizes, [state[own] for state in states], own_weights)
        finals.append(final)
        if dropout > 0 and train and index < num_layers - 1:
            x = torch.dropout(x, dropout, train)
    output = x.transpose(0, 1) if time_second else x
    return output, *map(torch.cat, zip(*finals, strict=True))


def _groups_of_five(
    params: Sequence[Tensor], has_biases: bool, groups: int
) -> list[list[Tensor | None]]:
    """The flat list as groups of w_ih, w_hh, b_ih, b_hh, w_hr with None for what is absent."""
    has_projection = len(params) > groups * (4 if has_biases else 2)
    present = (True, True, has_biases, has_biases, has_projection)
    remaining = iter(params)
    return [[next(remaining) if flag else None for flag in present] for _ in range(groups)]
