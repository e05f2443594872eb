"""The other contenders: torch.nn run in other ways, JAX, ONNX Runtime and OpenVINO.

requirements-peers.txt installs the packages; one that is missing is left out.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .contenders import TORCH, Contender, Job, Modules, module_job, with_weights
from .shapes import INFERENCE, Problem, Shape

ONNX_OPERATORS = {
    "lstm": ("LSTM", (0, 3, 1, 2)),
    "gru": ("GRU", (1, 0, 2)),
    "rnn_tanh": ("RNN", (0,)),
}
"""The operator, and where its gates stand among torch's: LSTM i o f g, GRU z r n."""
CELL_MODULES = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn_tanh": nn.RNNCell}


class OneStep(nn.Module):
    """A cell of torch.nn, called as a layer is."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, states: Any) -> tuple[Tensor, Any]:
        if isinstance(states, tuple):
            h, c = self.cell(x[0], tuple(state[0] for state in states))
            return h.unsqueeze(0), (h.unsqueeze(0), c.unsqueeze(0))
        h = self.cell(x[0], states[0]).unsqueeze(0)
        return h, h


class Cells:
    """torch.nn's cells: what its users call for a single step."""

    name, version = "torch.nn cell", torch.__version__

    def takes(self, problem: Problem, mode: str) -> bool:
        return problem.shape.T == 1 and is_plain(problem.shape)

    def job(self, problem: Problem, mode: str) -> Job:
        return module_job(self.module(problem), problem, mode)

    def module(self, problem: Problem) -> nn.Module:
        cell = CELL_MODULES[problem.cell](problem.shape.input_size(0), problem.shape.H)
        return OneStep(with_weights(cell.to(problem.x.dtype), problem))


class Compiled:
    """A contender of torch's, under torch.compile.

    torch 2.13 unrolls a loop over time, and compiles a minute for 20 steps; LSTM without gradients
    is one operator to it. Training of nn.LSTM it cannot compile.
    """

    def __init__(self, inner: Modules | Cells) -> None:
        self.inner, self.name, self.version = inner, f"{inner.name} compiled", inner.version

    def takes(self, problem: Problem, mode: str) -> bool:
        if not self.inner.takes(problem, mode) or problem.batch_sizes is not None:
            return False
        if problem.cell == "lstm" and isinstance(self.inner, Modules):
            return mode == INFERENCE and problem.shape.dtype == "float32"
        return problem.shape.T == 1

    def job(self, problem: Problem, mode: str) -> Job:
        dynamo: Any = import_module("torch._dynamo.config")
        inductor: Any = import_module("torch._inductor.config")
        inductor.compile_threads = 1
        dynamo.allow_rnn = True  # else nn.LSTM, nn.GRU and nn.RNN are run uncompiled
        torch._dynamo.reset()
        module = self.inner.module(problem)
        module.compile()
        return module_job(module, problem, mode)


def is_plain(shape: Shape) -> bool:
    """One layer, one direction, no projection, no lengths."""
    return (shape.L, shape.D, shape.P, shape.packed) == (1, 1, 0, False)


class Jax:
    """One layer as users of JAX write it: one projection, lax.scan, jit, vjp."""

    name = "JAX"

    def __init__(self) -> None:
        # Read when the first computation starts XLA's threads.
        os.environ["NPROC"] = str(torch.get_num_threads())
        os.environ["JAX_PLATFORMS"] = "cpu"
        self.jax = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.version = version("jax")

    def takes(self, problem: Problem, mode: str) -> bool:
        return is_plain(problem.shape)

    def job(self, problem: Problem, mode: str) -> Job:
        jax = self.jax
        layer = self.layer(self.step(problem.cell), len(problem.states))
        leaves = [jax.device_put(as_numpy(leaf)) for leaf in problem.leaves.values()]
        gradients = [jax.device_put(as_numpy(gradient)) for gradient in problem.gradients]

        def train(leaves: Any, gradients: Any) -> Any:
            outputs, pull_back = jax.vjp(layer, *leaves)
            return [*outputs, *pull_back(gradients)]

        infer, train = jax.jit(layer), jax.jit(train)

        def run() -> Any:
            done = infer(*leaves) if mode == INFERENCE else train(leaves, gradients)
            return jax.block_until_ready(done)

        return Job(run, from_numpy)

    def layer(self, step: Callable[..., Any], states: int) -> Callable[..., Any]:
        """From x, the states and the weights to [y, *final_states]."""
        lax = self.jax.lax

        def layer(x: Any, *rest: Any) -> Any:
            w_ih, w_hh, b_ih, b_hh = rest[states:]

            def advance(carry: Any, x_gates: Any) -> Any:
                new = step(x_gates, carry[0] @ w_hh.T + b_hh, carry)
                return new, new[0]

            first = tuple(state[0] for state in rest[:states])
            final, y = lax.scan(advance, first, x @ w_ih.T + b_ih)
            return [y, *(state[None] for state in final)]

        return layer

    def step(self, cell: str) -> Callable[..., Any]:
        """The equations of a cell, in torch's order of gates."""
        jnp, sigmoid = self.jax.numpy, self.jax.nn.sigmoid

        def lstm(x: Any, h: Any, states: Any) -> Any:
            i, f, g, o = jnp.split(x + h, 4, axis=-1)
            c = sigmoid(f) * states[1] + sigmoid(i) * jnp.tanh(g)
            return sigmoid(o) * jnp.tanh(c), c

        def gru(x: Any, h: Any, states: Any) -> Any:
            (x_r, x_z, x_n), (h_r, h_z, h_n) = (jnp.split(part, 3, axis=-1) for part in (x, h))
            r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
            return ((1 - z) * jnp.tanh(x_n + r * h_n) + z * states[0],)

        def rnn_tanh(x: Any, h: Any, states: Any) -> Any:
            return (jnp.tanh(x + h),)

        return {"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh}[cell]


class OnnxRuntime:
    """ONNX's operator for the cell; weights are constants of the graph, and packed before."""

    name = "ONNX Runtime"

    def __init__(self) -> None:
        self.graphs = OnnxGraphs()
        self.runtime = import_module("onnxruntime")
        self.version = version("onnxruntime")

    def takes(self, problem: Problem, mode: str) -> bool:
        return self.graphs.takes(problem, mode)

    def job(self, problem: Problem, mode: str) -> Job:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        session = self.runtime.InferenceSession(
            self.graphs.model(problem), options, providers=["CPUExecutionProvider"]
        )
        inputs = onnx_inputs(problem)
        return Job(lambda: session.run(None, inputs), from_numpy)


class OpenVino:
    """The same graphs."""

    name = "OpenVINO"

    def __init__(self) -> None:
        self.graphs = OnnxGraphs()
        self.openvino = import_module("openvino")
        self.version = version("openvino")

    def takes(self, problem: Problem, mode: str) -> bool:
        return self.graphs.takes(problem, mode)

    def job(self, problem: Problem, mode: str) -> Job:
        core = self.openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the machine has it
            "ENABLE_CPU_PINNING": False,  # the thread that calls is everybody's
        }
        model = core.compile_model(core.read_model(self.graphs.model(problem)), "CPU", options)
        request, inputs = model.create_infer_request(), onnx_inputs(problem)

        def run() -> list[Any]:
            done = request.infer(inputs, share_inputs=True, share_outputs=True)
            return [done[index] for index in range(len(problem.states) + 1)]

        return Job(run, from_numpy)


class OnnxGraphs:
    """The operators LSTM, GRU and RNN of ONNX, one node a layer."""

    def __init__(self) -> None:
        self.onnx = import_module("onnx")

    def takes(self, problem: Problem, mode: str) -> bool:
        shape = problem.shape
        return (mode, shape.P, shape.packed, shape.dtype) == (INFERENCE, 0, False, "float32")

    def model(self, problem: Problem) -> bytes:
        """The graph with its weights; inputs x and the states, outputs y and the final states."""
        helper, shape = self.onnx.helper, problem.shape
        T, N, H, L, D = shape.T, shape.N, shape.H, shape.L, shape.D
        nodes: list[Any] = []
        constants = {"side by side": np.array([T, N, D * H]), "each": np.full(L, D)}
        for name in problem.states:
            parts = [f"{name} {layer}" for layer in range(L)]
            nodes.append(helper.make_node("Split", [name, "each"], parts, axis=0))
        below = "x"
        for layer in range(L):
            constants |= self.weights(problem, layer)
            nodes += self.layer(problem, layer, below)
            below = f"y {layer}"
        for name in problem.states:
            parts = [f"{name}_n {layer}" for layer in range(L)]
            nodes.append(helper.make_node("Concat", parts, [f"{name}_n"], axis=0))
        tensors = [
            self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in constants.items()
        ]
        states = [(name, [L * D, N, H]) for name in problem.states]
        inputs = [("x", [T, N, shape.input_size(0)]), *states]
        outputs = [(below, [T, N, D * H]), *((f"{name}_n", size) for name, size in states)]
        graph = helper.make_graph(
            nodes, problem.cell, self.values(inputs), self.values(outputs), tensors
        )
        opset = helper.make_opsetid("", 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        self.onnx.checker.check_model(model)
        return model.SerializeToString()

    def layer(self, problem: Problem, layer: int, below: str) -> list[Any]:
        """The operator, and its output [T, D, N, H] as [T, N, D*H]."""
        helper, shape = self.onnx.helper, problem.shape
        operator, _ = ONNX_OPERATORS[problem.cell]
        options = {"linear_before_reset": 1} if operator == "GRU" else {}
        states = [f"{name} {layer}" for name in problem.states]
        node = helper.make_node(
            operator,
            [below, f"W {layer}", f"R {layer}", f"B {layer}", "", *states],
            [f"Y {layer}", *(f"{name}_n {layer}" for name in problem.states)],
            hidden_size=shape.H,
            direction="bidirectional" if shape.D == 2 else "forward",
            **options,
        )
        swap = helper.make_node("Transpose", [f"Y {layer}"], [f"S {layer}"], perm=[0, 2, 1, 3])
        join = helper.make_node("Reshape", [f"S {layer}", "side by side"], [f"y {layer}"])
        return [node, swap, join]

    def weights(self, problem: Problem, layer: int) -> dict[str, Any]:
        """W, R and B of a layer, directions first."""
        _, order = ONNX_OPERATORS[problem.cell]

        def of(direction: str, name: str) -> Tensor:
            parts = problem.weights[f"{name}_l{layer}{direction}"].chunk(len(order))
            return torch.cat([parts[gate] for gate in order])

        directions = ("", "_reverse")[: problem.shape.D]
        biases = [torch.cat([of(d, "b_ih"), of(d, "b_hh")]) for d in directions]
        return {
            f"W {layer}": as_numpy(torch.stack([of(d, "w_ih") for d in directions])),
            f"R {layer}": as_numpy(torch.stack([of(d, "w_hh") for d in directions])),
            f"B {layer}": as_numpy(torch.stack(biases)),
        }

    def values(self, sizes: Sequence[tuple[str, list[int]]]) -> list[Any]:
        """Inputs or outputs of the graph."""
        kind = self.onnx.TensorProto.FLOAT
        return [self.onnx.helper.make_tensor_value_info(name, kind, size) for name, size in sizes]


def onnx_inputs(problem: Problem) -> dict[str, Any]:
    return {name: as_numpy(tensor) for name, tensor in ({"x": problem.x} | problem.states).items()}


def as_numpy(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


def from_numpy(arrays: Sequence[Any]) -> list[Tensor]:
    return [torch.from_numpy(np.array(array)) for array in arrays]


def peers() -> tuple[list[Contender], list[str]]:
    """Those that can run here, and what is missing, in words."""
    found: list[Contender] = [Cells(), Compiled(TORCH), Compiled(Cells())]
    missing = []
    for kind in (Jax, OnnxRuntime, OpenVino):
        try:
            found.append(kind())
        except ImportError as error:
            missing.append(f"{kind.name} ({error})")
    return found, missing
