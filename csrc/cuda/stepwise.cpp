#include "cuda/stepwise.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "common/schedule.h"
#include "cuda/device.h"
#include "cuda/gemm.h"

namespace rnnkern::cuda::stepwise {
namespace {

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

Input as_input(const void* data, int64_t stride, int64_t bytes) {
  return {static_cast<const char*>(data), stride, bytes};
}
Output as_output(void* data, int64_t stride, int64_t bytes) { return {static_cast<char*>(data), stride, bytes}; }
Input as_input(const Output& rows) { return {rows.data, rows.stride, rows.bytes}; }

Matrix matrix(const Input& rows, int64_t first = 0) { return {rows.at(first), rows.stride}; }
Matrix matrix(const Output& rows, int64_t first = 0) { return matrix(as_input(rows), first); }
Matrix transposed(const Matrix& of) { return {of.data, of.stride, true}; }

void copy_rows(const Output& to, int64_t to_row, const Input& from, int64_t from_row, int64_t rows, int64_t width) {
  const auto bytes = [&](int64_t elements) { return static_cast<size_t>(elements * to.bytes); };
  const cudaError_t status =
      cudaMemcpy2DAsync(to.at(to_row), bytes(to.stride), from.at(from_row), bytes(from.stride), bytes(width),
                        static_cast<size_t>(rows), cudaMemcpyDeviceToDevice, current_stream());
  if (status != cudaSuccess) throw std::runtime_error(std::string("cudaMemcpy2DAsync: ") + cudaGetErrorString(status));
}

// What both passes over one direction know.
struct Pass {
  Pass(const Shape& sizes, const Weights& matrices, const Options& chosen, int direction)
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
        chunk_rows(std::min(sizes.rows, std::max(sizes.batch, chosen.chunk_rows))) {}

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

class Forward : Pass {
 public:
  Forward(const ForwardProblem& problem, const Options& options, int direction, Arena& arena)
      : Pass(problem.shape, problem.direction[direction].weights, options, direction),
        own_(problem.direction[direction]),
        training_(problem.training),
        x_(as_input(problem.x, shape.input, storage_bytes)),
        y_(as_output(static_cast<char*>(problem.y) + direction * R * storage_bytes, shape.directions * R,
                     storage_bytes)),
        x_gates_(take_compute(arena, chunk_rows, gate_rows)),
        r_gates_(take_compute(arena, shape.batch, gate_rows)) {
    if (training_) {
      unprojected_ = as_output(own_.unprojected, H, storage_bytes);
    } else {
      for (int k = 1; k < cell.states; ++k) running_[k] = take_compute(arena, shape.batch, H);
      if (projected()) unprojected_ = take_storage(arena, shape.batch, H);
    }
  }

  // Runs the next step; false after the last.
  bool advance() {
    if (step_ == chunk_.steps.end) project_input();
    multiply_state();
    run_cells();
    if (projected()) project_output();
    return ++step_ < shape.steps;
  }

 private:
  void project_input() {
    chunk_ = schedule.chunk_from(step_, chunk_rows);
    multiply(storage, compute,
             {chunk_.rows.size(), gate_rows, shape.input, matrix(x_, chunk_.rows.begin), transposed(w_ih),
              x_gates_.data, gate_rows});
  }

  // r_gates_ = h W_hh^T.
  void multiply_state() {
    const int64_t active = schedule.active(step_), continuing = schedule.continuing(step_);
    const auto product = [&](const Matrix& h, Range rows) {
      multiply(storage, compute, {rows.size(), gate_rows, R, h, transposed(w_hh), r_gates_.at(rows.begin), gate_rows});
    };
    if (continuing > 0) product(matrix(y_, schedule.offset(step_ - 1)), {0, continuing});
    if (continuing < active) {
      product(matrix(as_input(own_.initial[0], R, storage_bytes), continuing), {continuing, active});
    }
  }

  void run_cells() {
    const int64_t row = schedule.offset(step_);
    const int64_t before = step_ > 0 ? schedule.offset(step_ - 1) : 0;
    ForwardStep step{};
    step.rows = schedule.active(step_);
    step.continuing = schedule.continuing(step_);
    step.ending = schedule.continuing(step_ + 1);
    step.hidden = H;
    step.x_gates = x_gates_.at(row - chunk_.rows.begin);
    step.r_gates = r_gates_.data;
    step.b_ih = own_.weights.b_ih;
    step.b_hh = own_.weights.b_hh;
    step.old_h = y_.at(before);
    step.h_stride = y_.stride;
    const Output h = projected() ? unprojected_ : y_;
    step.new_h = h.at(projected() && !training_ ? 0 : row);
    step.new_h_stride = h.stride;
    for (int k = 0; k < cell.states; ++k) {
      step.initial[k] = own_.initial[k];
      step.final[k] = k == 0 && projected() ? nullptr : own_.final[k];
      if (k == 0) continue;
      const Output states = training_ ? as_output(own_.states[k], H, compute_bytes) : running_[k];
      step.old_states[k] = states.at(training_ ? before : 0);
      step.new_states[k] = states.at(training_ ? row : 0);
    }
    if (training_) step.saved = as_output(own_.saved, cell.saved * H, compute_bytes).at(row);
    cell.forward(step, current_stream());
  }

  void project_output() {
    const int64_t row = schedule.offset(step_), active = schedule.active(step_);
    const int64_t ending = schedule.continuing(step_ + 1);
    multiply(storage, storage,
             {active, R, H, matrix(unprojected_, training_ ? row : 0), transposed(w_hr), y_.at(row), y_.stride});
    if (ending == active) return;
    copy_rows(as_output(own_.final[0], R, storage_bytes), ending, as_input(y_), row + ending, active - ending, R);
  }

  const ForwardDirection& own_;
  const bool training_;
  const Input x_;
  const Output y_;
  const Output x_gates_, r_gates_;
  std::array<Output, kMaxStates> running_{};  // states of inference
  Output unprojected_{};

  int64_t step_ = 0;
  Chunk chunk_{};
};

class Backward : Pass {
 public:
  Backward(const BackwardProblem& problem, const Options& options, int direction, Arena& arena)
      : Pass(problem.shape, problem.direction[direction].weights, options, direction),
        own_(problem.direction[direction]),
        rows_(row_kernels(options.storage)),
        x_(as_input(problem.x, shape.input, storage_bytes)),
        y_(direction_of(problem.y, direction)),
        dy_(direction_of(problem.dy, direction)),
        product_(take_compute(arena, shape.batch, R)),
        dx_gates_(take_storage(arena, chunk_rows, gate_rows)),
        dr_gates_(cell.split_gates ? take_storage(arena, chunk_rows, gate_rows) : dx_gates_),
        step_(shape.steps) {
    if (own_.dw_hh != nullptr) previous_h_ = take_storage(arena, chunk_rows, R);
    if (own_.db_ih != nullptr || own_.db_hh != nullptr) {
      partial_sums_ = arena.take(column_sum_slabs(chunk_rows) * gate_rows * compute_bytes);
    }
    if (!projected()) return;
    dout_ = take_storage(arena, chunk_rows, R);
    dh_ = take_compute(arena, shape.batch, H);
  }

  // Runs the next step, from the last to the first; false after that.
  bool advance() {
    if (step_ == chunk_.steps.begin || step_ == shape.steps) chunk_ = schedule.chunk_until(step_, chunk_rows);
    --step_;
    if (projected()) project_gradient();
    run_cells();
    multiply_gates();
    if (step_ == chunk_.steps.begin) finish_chunk();
    return step_ > 0;
  }

 private:
  Input direction_of(const void* data, int direction) const {
    return as_input(static_cast<const char*>(data) + direction * R * storage_bytes, shape.directions * R,
                    storage_bytes);
  }
  int64_t row() const { return schedule.offset(step_); }
  int64_t row_in_chunk() const { return row() - chunk_.rows.begin; }
  int64_t row_before() const { return step_ > 0 ? schedule.offset(step_ - 1) : 0; }

  // dh_ = the gradient of the output times W_hr.
  void project_gradient() {
    OutputGradient step{};
    step.rows = schedule.active(step_);
    step.continuing = schedule.continuing(step_);
    step.later = schedule.continuing(step_ + 1);
    step.width = R;
    step.product = product_.data;
    step.dy = dy_.at(row());
    step.y_stride = y_.stride;
    step.dfinal = own_.dstate[0];
    step.old_h = y_.at(row_before());
    step.initial_h = own_.initial[0];
    step.dout = dout_.at(row_in_chunk());
    step.previous_h = previous_h_.at(row_in_chunk());
    rows_.output_gradient(step, current_stream());
    multiply(storage, compute, {step.rows, H, R, matrix(dout_, row_in_chunk()), w_hr, dh_.data, H});
  }

  void run_cells() {
    const Input new_h = projected() ? as_input(own_.unprojected, H, storage_bytes) : y_;
    BackwardStep step{};
    step.rows = schedule.active(step_);
    step.continuing = schedule.continuing(step_);
    step.later = projected() ? step.rows : schedule.continuing(step_ + 1);
    step.hidden = H;
    step.product = projected() ? dh_.data : product_.data;
    step.dy = projected() ? nullptr : dy_.at(row());
    step.y_stride = y_.stride;
    step.old_h = y_.at(row_before());
    step.new_h = new_h.at(row());
    step.new_h_stride = new_h.stride;
    for (int k = 0; k < cell.states; ++k) {
      step.initial[k] = own_.initial[k];
      step.dstate[k] = own_.dstate[k];
      if (k == 0) continue;
      step.old_states[k] = state_rows(own_.states, k).at(row_before());
      step.new_states[k] = state_rows(own_.states, k).at(row());
    }
    step.saved = as_input(own_.saved, cell.saved * H, compute_bytes).at(row());
    step.dx_gates = dx_gates_.at(row_in_chunk());
    step.dr_gates = dr_gates_.at(row_in_chunk());
    step.previous_h = projected() ? nullptr : previous_h_.at(row_in_chunk());
    cell.backward(step, current_stream());
  }

  // The gate gradients of this step, times W_hh, are what the step before it gets; for rows that started here, what
  // their initial state gets, beside the direct path that is there already.
  void multiply_gates() {
    const int64_t active = schedule.active(step_), continuing = schedule.continuing(step_);
    const auto product = [&](Range rows, const Output& to, bool accumulate) {
      multiply(storage, compute,
               {rows.size(), R, gate_rows, matrix(dr_gates_, row_in_chunk() + rows.begin), w_hh, to.at(rows.begin), R,
                accumulate});
    };
    if (continuing > 0) product({0, continuing}, product_, false);
    if (own_.dh_wanted && continuing < active) {
      product({continuing, active}, as_output(own_.dstate[0], R, compute_bytes), cell.direct_h);
    }
  }

  // What the gate gradients of the chunk give to weights and input. The first chunk sets the weights', the others add.
  void finish_chunk() {
    const int64_t count = chunk_.rows.size(), first = chunk_.rows.begin;
    const bool add = chunk_.steps.end < shape.steps;
    const auto weight_gradient = [&](const Matrix& gradient, int64_t rows, const Matrix& value, int64_t columns,
                                     void* out) {
      if (out != nullptr) {
        multiply(storage, compute, {rows, columns, count, transposed(gradient), value, out, columns, add});
      }
    };
    const Matrix dx_gates = matrix(dx_gates_), dr_gates = matrix(dr_gates_);
    weight_gradient(dx_gates, gate_rows, matrix(x_, first), shape.input, own_.dw_ih);
    weight_gradient(dr_gates, gate_rows, matrix(previous_h_), R, own_.dw_hh);
    if (projected()) {
      const Input unprojected = as_input(own_.unprojected, H, storage_bytes);
      weight_gradient(matrix(dout_), R, matrix(unprojected, first), H, own_.dw_hr);
    }
    bias_gradient(dx_gates, add, own_.db_ih);
    bias_gradient(dr_gates, add, own_.db_hh);
    if (own_.dx == nullptr) return;
    multiply(storage, compute,
             {count, shape.input, gate_rows, dx_gates, w_ih, as_output(own_.dx, shape.input, compute_bytes).at(first),
              shape.input});
  }

  void bias_gradient(const Matrix& gates, bool add, void* out) const {
    if (out == nullptr) return;
    rows_.column_sums({chunk_.rows.size(), gate_rows, gates.data, add, partial_sums_, out}, current_stream());
  }

  const BackwardDirection& own_;
  const RowKernels rows_;
  const Input x_, y_, dy_;
  const Output product_;  // [N, R] what the later step gives to h
  const Output dx_gates_, dr_gates_;
  Output previous_h_{};  // [row of the chunk, R]
  Output dout_{}, dh_{};
  char* partial_sums_ = nullptr;

  int64_t step_;
  Chunk chunk_{};
};

template <class Direction, class Problem>
size_t scratch_bytes(const Problem& problem, const Options& options) {
  Arena arena(nullptr);
  for (int d = 0; d < problem.shape.directions; ++d) Direction(problem, options, d, arena);
  return arena.used();
}

template <class Direction, class Problem>
void run(const Problem& problem, const Options& options, void* scratch) {
  Arena arena(scratch);
  std::optional<Direction> directions[2];
  for (int d = 0; d < problem.shape.directions; ++d) directions[d].emplace(problem, options, d, arena);
  run_directions(problem.shape.directions, [&](int d) { return directions[d]->advance(); });
}

}  // namespace

size_t forward_scratch(const ForwardProblem& problem, const Options& options) {
  return scratch_bytes<Forward>(problem, options);
}
size_t backward_scratch(const BackwardProblem& problem, const Options& options) {
  return scratch_bytes<Backward>(problem, options);
}
void forward(const ForwardProblem& problem, const Options& options, void* scratch) {
  run<Forward>(problem, options, scratch);
}
void backward(const BackwardProblem& problem, const Options& options, void* scratch) {
  run<Backward>(problem, options, scratch);
}

}  // namespace rnnkern::cuda::stepwise
