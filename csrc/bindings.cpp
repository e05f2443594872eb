#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "autograd.h"
#include "explain.h"

namespace py = pybind11;

namespace {

py::dict cells() {
  py::dict result;
  for (const rnnkern::Cell& cell : rnnkern::all_cells()) {
    result[py::str(cell.name)] =
        py::dict(py::arg("gates") = cell.gates, py::arg("states") = cell.states, py::arg("residuals") = cell.residuals,
                 py::arg("projection") = cell.projection);
  }
  return result;
}

// The function lives as long as the process: autograd may call it until the end.
void set_differentiable_backward(py::function function) {
  const py::handle callee = function.release();
  rnnkern::set_differentiable_backward([callee](const rnnkern::BackwardCall& call) {
    const py::gil_scoped_acquire gil;
    return callee(call.cell, call.wanted, call.batch_sizes, call.inputs, call.output_gradients, call.outputs)
        .cast<rnnkern::OptionalTensors>();
  });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("cells", &cells);
  m.def("backends", &rnnkern::backends);
  m.def("active_backend", &rnnkern::active_backend);
  m.def("cuda_version", &rnnkern::cuda_version);
  m.def("gpus", &rnnkern::gpus);
  m.def("explain", &rnnkern::explain, py::arg("cell"), py::arg("dtype"), py::arg("batch_sizes"), py::arg("input"),
        py::arg("hidden"), py::arg("projection"), py::arg("directions"), py::arg("device"));
  m.def("set_differentiable_backward", &set_differentiable_backward, py::arg("function"));
  m.def("recurrence", &rnnkern::recurrence, py::arg("cell"), py::arg("x"), py::arg("batch_sizes").none(true),
        py::arg("states"), py::arg("weights"), py::call_guard<py::gil_scoped_release>());
  m.def("forward", &rnnkern::forward, py::arg("cell"), py::arg("x"), py::arg("batch_sizes").none(true),
        py::arg("states"), py::arg("weights"), py::arg("training"), py::call_guard<py::gil_scoped_release>());
  m.def("backward", &rnnkern::backward, py::arg("cell"), py::arg("x"), py::arg("batch_sizes").none(true),
        py::arg("states"), py::arg("weights"), py::arg("y"), py::arg("residuals"), py::arg("dy"), py::arg("dfinal"),
        py::arg("wanted"), py::call_guard<py::gil_scoped_release>());
}
