// What the strategies share: the arrays of a pass over one direction, its scratch memory, and what is done for many steps
// at once: the input projection ahead of them, the gradients of weights and input behind them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "common/problem.h"
#include "common/schedule.h"
#include "cuda/gemm.h"
#include "cuda/pointwise.h"

namespace rnnkern::cuda {

struct PassOptions {
  PointwiseKernels cell;
  DType storage;
  int64_t chunk_rows;  // rows of the sequence whose gates exist at once, at least those of a step
};

// Hands out aligned pieces of one allocation; at nullptr it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  char* take(int64_t bytes) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += static_cast<size_t>(ceil_div(bytes, kAlignment) * kAlignment);
    return piece;
  }
  size_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 64;
  char* base_;
  size_t used_ = 0;
};

// Rows in device memory whose type is known only as a size. Null where its data is.
template <class Pointer>
struct Rows {
  Pointer data;
  int64_t stride;  // elements from row to row
  int64_t bytes;   // of an element

  Pointer at(int64_t row) const { return data == nullptr ? nullptr : data + row * stride * bytes; }
};
using Input = Rows<const char*>;
using Output = Rows<char*>;

inline Input as_input(const void* data, int64_t stride, int64_t bytes) {
  return {static_cast<const char*>(data), stride, bytes};
}
inline Output as_output(void* data, int64_t stride, int64_t bytes) { return {static_cast<char*>(data), stride, bytes}; }
inline Input as_input(const Output& rows) { return {rows.data, rows.stride, rows.bytes}; }

inline Matrix matrix(const Input& rows, int64_t first = 0) { return {rows.at(first), rows.stride}; }
inline Matrix matrix(const Output& rows, int64_t first = 0) { return matrix(as_input(rows), first); }
inline Matrix transposed(const Matrix& of) { return {of.data, of.stride, true}; }

// What both passes over one direction know.
struct Pass {
  Pass(const Shape& sizes, const Weights& matrices, const PassOptions& chosen, int direction)
      : shape(sizes),
        cell(chosen.cell),
        schedule(sizes, direction == 1),
        storage(chosen.storage),
        compute(compute_type(chosen.storage)),
        storage_bytes(element_bytes(storage)),
        compute_bytes(element_bytes(compute)),
        H(sizes.hidden),
        R(sizes.output()),
        gate_rows(cell.gates * sizes.hidden),
        w_ih{matrices.w_ih, sizes.input},
        w_hh{matrices.w_hh, R},
        w_hr{matrices.w_hr, H},
        chunk_rows(chosen.chunk_rows) {}

  const Shape& shape;
  const PointwiseKernels cell;
  const Schedule schedule;
  const DType storage, compute;
  const int64_t storage_bytes, compute_bytes;
  const int64_t H, R, gate_rows;
  const Matrix w_ih, w_hh, w_hr;
  const int64_t chunk_rows;

  bool projected() const { return shape.projection > 0; }
  Output take_storage(Arena& arena, int64_t rows, int64_t width) const {
    return {arena.take(rows * width * storage_bytes), width, storage_bytes};
  }
  Output take_compute(Arena& arena, int64_t rows, int64_t width) const {
    return {arena.take(rows * width * compute_bytes), width, compute_bytes};
  }
  Input state_rows(const void* const* states, int k) const { return as_input(states[k], H, compute_bytes); }
};

struct ForwardPass : Pass {
  ForwardPass(const ForwardProblem& problem, const PassOptions& options, int direction, Arena& arena)
      : Pass(problem.shape, problem.direction[direction].weights, options, direction),
        own(problem.direction[direction]),
        training(problem.training),
        x(as_input(problem.x, shape.input, storage_bytes)),
        y(as_output(static_cast<char*>(problem.y) + direction * R * storage_bytes, shape.directions * R,
                    storage_bytes)),
        x_gates(take_compute(arena, chunk_rows, gate_rows)) {}

  const ForwardDirection& own;
  const bool training;
  const Input x;
  const Output y;
  const Output x_gates;  // [row of the chunk, G*H]
  Chunk chunk{};

  // Makes x_gates = x W_ih^T for a chunk that starts at that step.
  void project_input(int64_t step);
};

struct BackwardPass : Pass {
  BackwardPass(const BackwardProblem& problem, const PassOptions& options, int direction, Arena& arena)
      : Pass(problem.shape, problem.direction[direction].weights, options, direction),
        own(problem.direction[direction]),
        kernels(row_kernels(options.storage)),
        x(as_input(problem.x, shape.input, storage_bytes)),
        y(direction_of(problem.y, direction)),
        dy(direction_of(problem.dy, direction)),
        product(take_compute(arena, shape.batch, R)),
        dx_gates(take_storage(arena, chunk_rows, gate_rows)),
        dr_gates(cell.split_gates ? take_storage(arena, chunk_rows, gate_rows) : dx_gates) {
    if (own.dw_hh != nullptr) previous_h = take_storage(arena, chunk_rows, R);
    if (projected()) dout = take_storage(arena, chunk_rows, R);
    if (own.db_ih == nullptr && own.db_hh == nullptr) return;
    partial_sums = arena.take(column_sum_slabs(chunk_rows) * gate_rows * compute_bytes);
  }

  const BackwardDirection& own;
  const RowKernels kernels;
  const Input x, y, dy;
  const Output product;             // [N, R] what the later step gives to h
  const Output dx_gates, dr_gates;  // [row of the chunk, G*H]; one array unless the cell splits gates
  Output previous_h{};              // [row of the chunk, R] the h that each row's product read
  Output dout{};                    // [row of the chunk, R], with a projection
  char* partial_sums = nullptr;
  Chunk chunk{};

  // What the gate gradients of the chunk give to weights and input. The last chunk in time sets the weights', the others
  // add.
  void finish_chunk() const;

 private:
  Input direction_of(const void* data, int direction) const {
    return as_input(static_cast<const char*>(data) + direction * R * storage_bytes, shape.directions * R,
                    storage_bytes);
  }
  void bias_gradient(const Matrix& gates, bool add, void* out) const;
};

}  // namespace rnnkern::cuda
