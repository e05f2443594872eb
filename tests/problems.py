"""One layer's call as a value: its tensors, its exact answer in float64, and torch's answer.

`T N I H P` are time, batch, input, hidden and projection size, `D` the directions, as everywhere.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from rnnkern import _C, reference

SHORT = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
}


# Where torch.nn, the peer, computes: on the device of the backend under test.
DEVICE = "cpu"

# Kernels run a sequence in chunks of steps. These have several, in float64 and with every cell.
MANY_CHUNKS = {"T": 110, "N": 20, "I": 16, "H": 128}
MANY_CHUNKS_LENGTHS = tuple(110 - n * (n + 3) // 4 for n in range(20))


class Layer(NamedTuple):
    """The arguments of `_C.forward` between the cell's name and the training flag."""

    x: Tensor
    sizes: Tensor | None
    states: list[Tensor]
    weights: list[Tensor | None]

    def inputs(self) -> list[Tensor | None]:
        """What has a gradient, in the order of `_C.backward`."""
        return [self.x, *self.states, *self.weights]

    def map(self, change) -> "Layer":
        """Every floating-point tensor changed."""
        changed = [None if t is None else change(t) for t in self.inputs()]
        n = 1 + len(self.states)
        return Layer(changed[0], self.sizes, changed[1:n], changed[n:])


@dataclass(frozen=True)
class Problem:
    """Sizes and options of one layer; two equal problems have equal tensors."""

    cell: str
    dtype: torch.dtype = torch.float32
    T: int = 5
    N: int = 3
    I: int = 4
    H: int = 8
    D: int = 1
    P: int = 0
    bias: bool = True
    lengths: tuple[int, ...] | None = None  # of a packed sequence, falling
    padded: bool = False  # lengths, in any order, are those of x [T, N, I]
    all_states: bool = False
    draw: int = 0

    def __str__(self) -> str:
        size = f"T{self.T}-N{self.N}-I{self.I}-H{self.H}-D{self.D}"
        projection = f"-P{self.P}" if self.P else ""
        nobias = "" if self.bias else "-nobias"
        lengths = ("-padded" if self.padded else "-packed") if self.lengths else ""
        all_states = "-all-states" if self.all_states else ""
        return f"{self.cell}-{SHORT[self.dtype]}-{size}{projection}{nobias}{lengths}{all_states}"

    @property
    def layer(self) -> Layer:
        """The tensors, the same at every call, drawn in float64 and rounded to the dtype."""
        generator = torch.Generator().manual_seed(20 + 1000 * self.draw)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        def uniform(*shape: int) -> Tensor:
            unit = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
            return (unit / self.H**0.5).to(self.dtype)

        traits = _C.cells()[self.cell]
        rows = traits["gates"] * self.H
        R = self.P or self.H
        given = None
        x = normal(self.T, self.N, self.I)
        if self.padded:
            given = torch.tensor(self.lengths)
            x = normal(self.T, len(given), self.I)
            x[torch.arange(self.T)[:, None] >= given] = torch.nan
        elif self.lengths is not None:
            given = batch_sizes_of(self.lengths)
            x = normal(sum(self.lengths), self.I)
        N = self.N if self.lengths is None else len(self.lengths)
        sizes = [R] + [self.H] * (traits["states"] - 1)
        states = [normal(self.D, N, size) for size in sizes]
        weights: list[Tensor | None] = []
        for _ in range(self.D):
            weights += [uniform(rows, self.I), uniform(rows, R)]
            weights += [uniform(rows), uniform(rows)] if self.bias else [None, None]
            weights += [uniform(self.P, self.H)] if self.P else [None]
        return Layer(x, given, states, weights)

    @property
    def names(self) -> list[str]:
        """Names of `layer.inputs()`, for messages."""
        states = ["h0", "c0"][: _C.cells()[self.cell]["states"]]
        parts = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")
        return ["x", *states, *(f"{part}[{d}]" for d in range(self.D) for part in parts)]

    @property
    def output_names(self) -> list[str]:
        states = _C.cells()[self.cell]["states"]
        return ["y", *["h_n", "c_n"][:states], *(["c"][: states - 1] if self.all_states else [])]


def batch_sizes_of(lengths: tuple[int, ...]) -> Tensor:
    """The `batch_sizes` of sequences of these lengths, longest first."""
    return torch.tensor([sum(n > t for n in lengths) for t in range(max(lengths))])


def torch_layer(cell: str, layer: Layer) -> list[Tensor]:
    """The same layer by torch's own function; by the reference where torch has no such layer."""
    x, sizes, states, weights = layer
    twin = getattr(torch, cell, None)
    padded = sizes is not None and x.dim() == 3
    if twin is None or padded or (weights[4] is not None and cell != "lstm"):
        return list(reference.layer(cell, *layer))
    D = states[0].shape[0]
    biased = any(w is not None for i in (2, 3) for w in weights[i::5])
    params = []
    for w_ih, w_hh, b_ih, b_hh, w_hr in (weights[5 * d : 5 * d + 5] for d in range(D)):
        zeros = w_ih.new_zeros(w_ih.shape[0])
        biases = [zeros if b is None else b for b in (b_ih, b_hh)] if biased else []
        params += [w_ih, w_hh, *biases, *([] if w_hr is None else [w_hr])]
    hx = tuple(states) if len(states) > 1 else states[0]
    train = any(p.requires_grad for p in params)  # or cuDNN has no backward
    flags = (params, biased, 1, 0.0, train, D == 2)
    if sizes is None:
        return list(twin(x, hx, *flags, False))
    return list(twin(x, sizes, hx, *flags))


def ours(problem: Problem, training: bool = False) -> list[Tensor]:
    """`_C.forward`'s y and states."""
    result = _C.forward(problem.cell, *problem.layer, training, problem.all_states)
    return result[: len(problem.output_names)]


@cache
def exact(problem: Problem) -> list[Tensor]:
    """The float64 reference on the rounded tensors."""
    with torch.no_grad():
        layer = problem.layer.map(torch.Tensor.double)
        return list(reference.layer(problem.cell, *layer, problem.all_states))


def peer(problem: Problem) -> list[Tensor]:
    return _peer(problem, DEVICE)


@cache
def _peer(problem: Problem, device: str) -> list[Tensor]:
    with torch.no_grad():
        outputs = _peer_outputs(problem, problem.layer.map(lambda t: t.to(device)))
    return [t.cpu() for t in outputs]


def _peer_outputs(problem: Problem, layer: Layer) -> list[Tensor]:
    if problem.all_states:  # which no function of torch returns
        return list(reference.layer(problem.cell, *layer, all_states=True))
    return torch_layer(problem.cell, layer)


@cache
def cotangents(problem: Problem) -> list[Tensor]:
    """dy and the gradients of the states, in the problem's dtype."""
    generator = torch.Generator().manual_seed(21 + 1000 * problem.draw)
    return [
        torch.randn(out.shape, generator=generator, dtype=torch.float64).to(problem.dtype)
        for out in exact(problem)
    ]


def gradients(outputs: list[Tensor], inputs: list[Tensor | None], grads: list[Tensor]):
    """torch.autograd.grad over inputs some of which are None."""
    found = iter(torch.autograd.grad(outputs, [t for t in inputs if t is not None], grads))
    return [None if t is None else next(found) for t in inputs]


@cache
def exact_gradients(problem: Problem) -> list[Tensor | None]:
    layer = problem.layer.map(lambda t: t.double().requires_grad_())
    outputs = list(reference.layer(problem.cell, *layer, problem.all_states))
    return gradients(outputs, layer.inputs(), [t.double() for t in cotangents(problem)])


def peer_gradients(problem: Problem) -> list[Tensor | None]:
    return _peer_gradients(problem, DEVICE)


@cache
def _peer_gradients(problem: Problem, device: str) -> list[Tensor | None]:
    layer = problem.layer.map(lambda t: t.to(device).requires_grad_())
    outputs = _peer_outputs(problem, layer)
    found = gradients(outputs, layer.inputs(), [t.to(device) for t in cotangents(problem)])
    return [None if t is None else t.cpu() for t in found]


def our_gradients(problem: Problem, wanted: list[bool] | None = None) -> list[Tensor | None]:
    """`_C.forward` for training, then `_C.backward`."""
    layer = problem.layer
    y, *rest = _C.forward(problem.cell, *layer, True)
    residuals = rest[len(layer.states) :]
    dy, *given = cotangents(problem)
    dfinal, dstates = given[: len(layer.states)], given[len(layer.states) :]
    wanted = [True] * len(layer.inputs()) if wanted is None else wanted
    return _C.backward(problem.cell, *layer, y, residuals, dy, dfinal, wanted, dstates)
