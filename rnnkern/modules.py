"""RNN, LSTM, GRU and their cells: torch.nn's modules on rnnkern's kernels.

Construction, parameter names, initialisation, state handling and the checks of arguments are
inherited from torch.nn, or borrowed where they belong to a sibling (`check_forward_args =
nn.LSTM.check_forward_args`), so that they follow the installed torch.

The bases are RNNBase and RNNCellBase, not nn.LSTM and so on: torch.compile refuses every instance
of those. For the same reason `isinstance(module, nn.LSTM)` is False.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nested import nested_tensor_from_jagged
from torch.nn.utils.rnn import PackedSequence

from rnnkern import functional

Hidden = Any  # a Tensor, or for the LSTM a pair of them: torch.nn's hx
Lengths = Tensor | Sequence[int]
Options = dict[str, Any]  # keyword arguments of a network's function

_NETWORKS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": functional.rnn_tanh,
    "RNN_RELU": functional.rnn_relu,
    "LSTM": functional.lstm,
    "GRU": functional.gru,
}


class _Network(nn.RNNBase):
    """What RNN, LSTM and GRU share: forward, from the user's layout of the input to [T, N, I]."""

    _input_dim_text: str
    _hidden_dim_text = "For {} input, hx should also be {} but got {}-D tensor"

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden | None = None,
        *,
        lengths: Lengths | None = None,
    ) -> tuple[Any, ...]:
        """Runs the network; see the class for shapes."""
        return self._forward(input, hx, {} if lengths is None else {"lengths": lengths})

    def _forward(
        self, input: Tensor | PackedSequence, hx: Hidden | None, options: Options
    ) -> tuple[Any, ...]:
        """(output, hidden, *further): input in any of its forms, and outputs in the same."""
        if isinstance(input, PackedSequence) or input.is_nested:
            if "lengths" in options:
                raise ValueError("lengths: expected None, as the input has its own, got lengths")
            if isinstance(input, PackedSequence):
                return self._forward_packed(input, hx, options)
            return self._forward_nested(input, hx, options)
        dims = input.dim()
        if dims not in (2, 3):
            raise ValueError(self._input_dim_text.format(dims))
        if hx is not None:
            self._check_hidden_dim(hx, dims)
        if dims == 3:
            return self._run(input, hx, options)
        if "lengths" in options:
            raise ValueError("lengths: expected None for unbatched 2-D input, got lengths")
        batch_dim = 0 if self.batch_first else 1
        hx = None if hx is None else _each(hx, lambda state: state.unsqueeze(1))
        output, hidden, *further = self._run(input.unsqueeze(batch_dim), hx, options)
        hidden = _each(hidden, lambda state: state.squeeze(1))
        return output.squeeze(batch_dim), hidden, *(each.squeeze(batch_dim) for each in further)

    def _forward_packed(
        self, packed: PackedSequence, hx: Hidden | None, options: Options
    ) -> tuple[Any, ...]:
        """The sequences stay packed; only the states are reordered, if packing sorted them."""
        data, *rest = packed
        batch_sizes, sorted_indices, unsorted_indices = rest
        hx = None if hx is None else self.permute_hidden(hx, sorted_indices)
        output, hidden, *further = self._run(data, hx, options, batch_sizes)
        results = [PackedSequence(each, *rest) for each in (output, *further)]
        return results[0], self.permute_hidden(hidden, unsorted_indices), *results[1:]

    def _forward_nested(self, nested: Any, hx: Hidden | None, options: Options) -> tuple[Any, ...]:
        """A jagged tensor as a padded one with lengths, and the results as jagged tensors."""
        if nested.layout != torch.jagged or nested.dim() != 3 or not self.batch_first:
            expected = "a 3-D tensor of layout torch.jagged, [N, T of each, I], and batch_first"
            text = f"a {nested.dim()}-D one of {nested.layout}, batch_first={self.batch_first}"
            raise ValueError(f"input: expected of a nested tensor {expected}, got {text}")
        padded, lengths = nested.to_padded_tensor(0.0), nested.offsets().diff()
        output, hidden, *further = self._run(padded, hx, {**options, "lengths": lengths})
        alive = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        outputs = [output[alive], *(each[alive] for each in further)]
        results = [nested_tensor_from_jagged(values, nested.offsets()) for values in outputs]
        return results[0], hidden, *results[1:]

    def _run(
        self,
        input: Tensor,
        hx: Hidden | None,
        options: Options,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """_forward of padded input, or of packed data with its batch_sizes."""
        if input.size(-1) != self.input_size:
            self.check_input(input, batch_sizes)
        if hx is None:
            hx = self._zeros(input, batch_sizes)
        try:
            output, *states = _NETWORKS[self.mode](
                input,
                hx,
                self._weights(),
                self.bias,
                self.num_layers,
                self.dropout,
                self.training,
                self.bidirectional,
                self.batch_first,
                batch_sizes=batch_sizes,
                **options,
            )
        except (RuntimeError, ValueError) as error:
            failure = error
        else:
            if len(states) == 1:
                return output, states[0]
            return output, tuple(states[:2]), *states[2:]
        # The checks of torch.nn take as long as a small step: they are for their texts.
        try:
            self.check_forward_args(input, hx, batch_sizes)
            raise failure
        finally:
            del failure  # it holds this frame, and with it the arguments

    def _zeros(self, input: Tensor, batch_sizes: Tensor | None) -> Hidden:
        return input.new_zeros(self.get_expected_hidden_size(input, batch_sizes))

    def _check_hidden_dim(self, hx: Hidden, expected: int) -> None:
        if hx.dim() != expected:
            raise RuntimeError(_dim_text(self._hidden_dim_text, expected, hx.dim()))

    def _weights(self) -> list[Any]:
        """The parameters, or what torch.func.functional_call has put in their places."""
        if torch.compiler.is_compiling():  # which takes a list that is kept for constant
            return [getattr(self, name) for name in self._flat_weights_names]
        if self._weights_have_changed():
            self._init_flat_weights()
        return self._flat_weights

    def _weights_have_changed(self) -> bool:
        # Parameters in their places are recognised without Module.__getattr__, which takes 3 us.
        current = map(self._parameters.get, self._flat_weights_names)
        if all(map(operator.is_, current, self._flat_weights)):
            return False
        return super()._weights_have_changed()

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels read the parameters where they are."""


class RNN(_Network):
    """__init__(input_size, hidden_size, num_layers=1, nonlinearity='tanh', bias=True, \
batch_first=False, dropout=0.0, bidirectional=False, device=None, dtype=None)

    Elman network (1990) in place of torch.nn.RNN. Each layer computes

        h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)

    or relu instead of tanh.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the number of features of the state.
        num_layers: L; each layer reads the output of the one below.
        nonlinearity: 'tanh' or 'relu'.
        bias: whether b_ih and b_hh exist.
        batch_first: whether batched input and output are [N, T, ...] instead of [T, N, ...].
        dropout: probability of dropping an element of the output of each layer but the last, in
            training.
        bidirectional: whether each layer also reads the sequence backwards; D is 2 then, else 1.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.

    Forward takes (input, hx=None, *, lengths=None) and returns (output, h_n):
        input: [T, N, I], [N, T, I] if batch_first, [T, I] for a single sequence, or a
            PackedSequence, which is run as it is, without padding; if batch_first, also a nested
            tensor [N, T of each, I] of layout torch.jagged, as which the output comes back.
        hx: the initial state [L*D, N, H], or [L*D, H] for a single sequence; zeros if None.
        output: like input, with D*H features, those of the forward direction first.
        h_n: the final state, like hx.
        lengths: [N] integers from 0 to T, as a tensor on any device or a list: the number of steps
            of each sequence of a padded input, in any order. What stands beyond is not read, output
            is zero there, h_n is the state after the sequence's own last step, and its reverse
            direction starts there. A sequence of length 0 keeps its hx. On a GPU the call waits for
            a tensor that is there. RuntimeError if they do not fit.

    Parameters are named, ordered, shaped and initialised as in torch.nn, so that state_dicts are
    exchangeable and the same seed gives the same weights. Exceptions of the constructor and about
    dimensions, sizes and hx have torch.nn's texts.

    Differences from torch.nn:
        - Under autocast the results have the ambient dtype (see rnnkern.functional).
        - Double backward works in every mode, also in eval mode. It recomputes the layer in plain
          PyTorch: correct, but not fast.
        - An LSTM checks the sizes of packed input as it does those of padded input.
        - Backward needs the output as it was: changing it in place before backward raises an error.
          In torch.nn that holds for some LSTMs only.
        - It is no instance of torch.nn.RNN, and torch.jit.script does not take it:
          rnnkern.to_torch gives a torch.nn module with the same Parameters.
        - lengths and jagged input are its own.
    """

    _input_dim_text = "RNN: Expected input to be 2D or 3D, got {}D tensor instead"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        nonlinearity = args[3] if len(args) > 3 else kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{nonlinearity.upper()}", *args[:3], *args[4:], **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(_Network):
    """__init__(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, \
dropout=0.0, bidirectional=False, proj_size=0, device=None, dtype=None)

    LSTM (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000) in place of
    torch.nn.LSTM. Each layer computes

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)
        f_t = sigmoid(W_if x_t + b_if + W_hf h_(t-1) + b_hf)
        g_t = tanh(W_ig x_t + b_ig + W_hg h_(t-1) + b_hg)
        o_t = sigmoid(W_io x_t + b_io + W_ho h_(t-1) + b_ho)
        c_t = f_t * c_(t-1) + i_t * g_t
        h_t = o_t * tanh(c_t), or W_hr (o_t * tanh(c_t)) if proj_size > 0 (Sak et al. 2014)

    Args: as for rnnkern.RNN without nonlinearity, and
        proj_size: P, the number of features of h if it is not 0; smaller than hidden_size.

    Forward takes (input, (h_0, c_0)=None, *, lengths=None, return_cell_states=False) and returns
    (output, (h_n, c_n)). With R = P, or H where there is no projection, output has D*R features,
    h_0 and h_n are [L*D, N, R], c_0 and c_n [L*D, N, H]. With return_cell_states it returns
    (output, (h_n, c_n), c): c_t of the last layer at every step, like output with D*H features. All
    else, and the differences from torch.nn, as for rnnkern.RNN.
    """

    _input_dim_text = "LSTM: Expected input to be 2D or 3D, got {}D instead"
    _hidden_dim_text = "For {} input, hx and cx should also be {} but got ({}-D, {}-D) tensors"

    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size: Callable[..., tuple[int, int, int]] = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        return_cell_states: bool = False,
    ) -> tuple[Any, ...]:
        """Runs the network; see the class for shapes."""
        options: Options = {} if lengths is None else {"lengths": lengths}
        if return_cell_states:
            options["return_cell_states"] = True
        return self._forward(input, hx, options)

    def _zeros(self, input: Tensor, batch_sizes: Tensor | None) -> Hidden:
        cell = input.new_zeros(self.get_expected_cell_size(input, batch_sizes))
        return (super()._zeros(input, batch_sizes) if self.proj_size > 0 else cell), cell

    def _check_hidden_dim(self, hx: Hidden, expected: int) -> None:
        dims = hx[0].dim(), hx[1].dim()
        if dims != (expected, expected):
            raise RuntimeError(_dim_text(self._hidden_dim_text, expected, *dims))


class GRU(_Network):
    """__init__(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, \
dropout=0.0, bidirectional=False, device=None, dtype=None)

    Gated recurrent unit (Cho et al. 2014) in place of torch.nn.GRU. Each layer computes

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_(t-1) + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_(t-1)

    where the paper has W_hn (r_t * h_(t-1)); this is torch.nn's and cuDNN's form.

    Args, forward and the differences from torch.nn: as for rnnkern.RNN without nonlinearity.
    """

    _input_dim_text = "GRU: Expected input to be 2D or 3D, got {}D instead"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        super().__init__("GRU", *args, **kwargs)


def _refuse_projection(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


def _dim_text(text: str, expected: int, *got: int) -> str:
    batched = "batched 3-D" if expected == 3 else "unbatched 2-D"
    return text.format(batched, f"{expected}-D", *got)


def _each(hx: Hidden, function: Callable[[Tensor], Tensor]) -> Hidden:
    """function of the state, or a tuple of function of each state."""
    return function(hx) if isinstance(hx, Tensor) else tuple(map(function, hx))


class _Cell(nn.RNNCellBase):
    """What RNNCell, LSTMCell and GRUCell share: a single step, of a batch or of one row."""

    def _run(self, function: Callable[..., Hidden], input: Tensor, hx: Hidden | None) -> Hidden:
        single = input.dim() == 1
        if single:
            input = input.unsqueeze(0)
            hx = None if hx is None else _each(hx, lambda state: state.unsqueeze(0))
        if hx is None:
            hx = self._zeros(input)
        new = function(input, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return _each(new, lambda state: state.squeeze(0)) if single else new

    def _zeros(self, input: Tensor) -> Hidden:
        return input.new_zeros(input.size(0), self.hidden_size)


class RNNCell(_Cell):
    """One step of an Elman network (1990) in place of torch.nn.RNNCell.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    or relu instead of tanh.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether b_ih and b_hh exist.
        nonlinearity: 'tanh' or 'relu'; checked in forward, as in torch.nn.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.

    Forward takes (input, hx=None) and returns h':
        input: [N, I] or [I].
        hx: [N, H] or [H]; zeros if None.
        h': like hx.

    The differences from torch.nn are those of rnnkern.RNN.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Runs one step; see the class for shapes."""
        _check_dims("RNNCell", input, hidden=hx)
        functions = {"tanh": functional.rnn_tanh_cell, "relu": functional.rnn_relu_cell}
        if self.nonlinearity not in functions:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._run(functions[self.nonlinearity], input, hx)


class LSTMCell(_Cell):
    """One step of an LSTM in place of torch.nn.LSTMCell; the equations are those of rnnkern.LSTM.

    Args: as for rnnkern.RNNCell without nonlinearity.

    Forward takes (input, (h, c)=None) and returns (h', c'):
        input: [N, I] or [I].
        h, c: [N, H] or [H]; zeros if None.
        h', c': like h and c.

    The differences from torch.nn are those of rnnkern.RNN.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs one step; see the class for shapes."""
        states = {} if hx is None else {f"hx[{i}]": state for i, state in enumerate(hx)}
        _check_dims("LSTMCell", input, **states)
        return self._run(functional.lstm_cell, input, hx)

    def _zeros(self, input: Tensor) -> Hidden:
        zeros = super()._zeros(input)
        return zeros, zeros


class GRUCell(_Cell):
    """One step of a GRU in place of torch.nn.GRUCell; the equations are those of rnnkern.GRU.

    Args, forward and the differences from torch.nn: as for rnnkern.RNNCell without nonlinearity.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Runs one step; see the class for shapes."""
        _check_dims("GRUCell", input, hidden=hx)
        return self._run(functional.gru_cell, input, hx)


def _check_dims(cell: str, input: Tensor, **states: Tensor | None) -> None:
    for name, tensor in {"input": input, **states}.items():
        if tensor is not None and tensor.dim() not in (1, 2):
            raise ValueError(f"{cell}: Expected {name} to be 1D or 2D, got {tensor.dim()}D instead")
