#include "cuda/passes.h"

#include "cuda/device.h"

namespace rnnkern::cuda {

void ForwardPass::project_input(int64_t step) {
  chunk = schedule.chunk_from(step, chunk_rows);
  multiply(storage, compute,
           {chunk.rows.size(), gate_rows, shape.input, matrix(x, chunk.rows.begin), transposed(w_ih), x_gates.data,
            gate_rows});
}

void BackwardPass::finish_chunk() const {
  const int64_t count = chunk.rows.size(), first = chunk.rows.begin;
  const bool add = chunk.steps.end < shape.steps;
  const auto weight_gradient = [&](const Matrix& gradient, int64_t rows, const Matrix& value, int64_t columns,
                                   void* out) {
    if (out == nullptr) return;
    multiply(storage, compute, {rows, columns, count, transposed(gradient), value, out, columns, add});
  };
  weight_gradient(matrix(dx_gates), gate_rows, matrix(x, first), shape.input, own.dw_ih);
  weight_gradient(matrix(dr_gates), gate_rows, matrix(previous_h), R, own.dw_hh);
  if (projected()) {
    weight_gradient(matrix(dout), R, matrix(as_input(own.unprojected, H, storage_bytes), first), H, own.dw_hr);
  }
  bias_gradient(matrix(dx_gates), add, own.db_ih);
  bias_gradient(matrix(dr_gates), add, own.db_hh);
  if (own.dx == nullptr) return;
  multiply(storage, compute,
           {count, shape.input, gate_rows, matrix(dx_gates), w_ih,
            as_output(own.dx, shape.input, compute_bytes).at(first), shape.input});
}

void BackwardPass::bias_gradient(const Matrix& gates, bool add, void* out) const {
  if (out == nullptr) return;
  kernels.column_sums({chunk.rows.size(), gate_rows, gates.data, add, partial_sums, out}, current_stream());
}

}  // namespace rnnkern::cuda
