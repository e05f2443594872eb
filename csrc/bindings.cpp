#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "autograd.h"
#include "explain.h"
#include "operators.h"
#include "stream.h"

namespace py = pybind11;

namespace {

using rnnkern::Layer, rnnkern::OptionalTensors, rnnkern::Tensors;
using OptionalTensor = std::optional<at::Tensor>;

py::dict cells() {
  py::dict result;
  for (const rnnkern::Cell& cell : rnnkern::all_cells()) {
    result[py::str(cell.name)] =
        py::dict(py::arg("gates") = cell.gates, py::arg("states") = cell.states, py::arg("residuals") = cell.residuals,
                 py::arg("saved") = cell.saved, py::arg("projection") = cell.projection);
  }
  return result;
}

// The function lives as long as the process: autograd may call it until the end.
void set_differentiable_backward(py::function function) {
  const py::handle callee = function.release();
  rnnkern::set_differentiable_backward([callee](const rnnkern::BackwardCall& call) {
    const py::gil_scoped_acquire gil;
    const rnnkern::Layer& layer = call.layer;
    return callee(layer.cell, layer.x, layer.sizes, layer.states, layer.weights, call.outputs, call.output_gradients,
                  call.wanted)
        .cast<rnnkern::OptionalTensors>();
  });
}

}  // namespace

// A Layer is made and destroyed under the GIL: letting go of a tensor without it would take it, once for each tensor.

Tensors recurrence(std::string cell, at::Tensor x, OptionalTensor sizes, Tensors states, OptionalTensors weights,
                   bool all_states) {
  const Layer layer{std::move(cell), std::move(x), std::move(sizes), std::move(states), std::move(weights)};
  const py::gil_scoped_release no_gil;
  return rnnkern::recurrence(layer, all_states);
}

Tensors forward(std::string cell, at::Tensor x, OptionalTensor sizes, Tensors states, OptionalTensors weights,
                bool training, bool all_states) {
  const Layer layer{std::move(cell), std::move(x), std::move(sizes), std::move(states), std::move(weights)};
  const py::gil_scoped_release no_gil;
  return rnnkern::any_forward(layer, training, all_states);
}

OptionalTensors backward(std::string cell, at::Tensor x, OptionalTensor sizes, Tensors states, OptionalTensors weights,
                         const at::Tensor& y, const Tensors& residuals, const at::Tensor& dy, const Tensors& dfinal,
                         const std::vector<bool>& wanted, const Tensors& dstates) {
  const Layer layer{std::move(cell), std::move(x), std::move(sizes), std::move(states), std::move(weights)};
  const py::gil_scoped_release no_gil;
  return rnnkern::any_backward(layer, y, residuals, dy, dfinal, dstates, wanted);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("cells", &cells);
  m.def("backends", &rnnkern::backends);
  m.def("active_backend", &rnnkern::active_backend);
  m.def("cuda_version", &rnnkern::cuda_version);
  m.def("gpus", &rnnkern::gpus);
  m.def("explain", &rnnkern::explain, py::arg("cell"), py::arg("dtype"), py::arg("batch_sizes"), py::arg("input"),
        py::arg("hidden"), py::arg("projection"), py::arg("directions"), py::arg("device"));
  m.def("set_differentiable_backward", &set_differentiable_backward, py::arg("function"));
  py::class_<rnnkern::Stream>(m, "Stream", py::module_local())
      .def(py::init<const std::string&, const std::vector<OptionalTensors>&, const std::vector<Tensors>&>(),
           py::arg("cell"), py::arg("weights"), py::arg("states"), py::call_guard<py::gil_scoped_release>())
      .def("run", &rnnkern::Stream::run, py::arg("x"), py::call_guard<py::gil_scoped_release>())
      .def("states", &rnnkern::Stream::states, py::call_guard<py::gil_scoped_release>())
      .def("set_states", &rnnkern::Stream::set_states, py::arg("states"), py::call_guard<py::gil_scoped_release>())
      .def("set_weights", &rnnkern::Stream::set_weights, py::arg("weights"), py::call_guard<py::gil_scoped_release>());
  m.def("recurrence", &recurrence, py::arg("cell"), py::arg("x"), py::arg("sizes").none(true), py::arg("states"),
        py::arg("weights"), py::arg("all_states") = false);
  m.def("forward", &forward, py::arg("cell"), py::arg("x"), py::arg("sizes").none(true), py::arg("states"),
        py::arg("weights"), py::arg("training"), py::arg("all_states") = false);
  m.def("backward", &backward, py::arg("cell"), py::arg("x"), py::arg("sizes").none(true), py::arg("states"),
        py::arg("weights"), py::arg("y"), py::arg("residuals"), py::arg("dy"), py::arg("dfinal"), py::arg("wanted"),
        py::arg("dstates") = Tensors{});
}
