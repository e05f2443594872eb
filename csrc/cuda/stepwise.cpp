#include "cuda/stepwise.h"

#include <cuda_runtime.h>

#include <array>
#include <optional>
#include <utility>

#include "cuda/device.h"
#include "cuda/launch.cuh"

namespace rnnkern::cuda::stepwise {
namespace {

void copy_rows(const Output& to, int64_t to_row, const Input& from, int64_t from_row, int64_t rows, int64_t width) {
  const auto bytes = [&](int64_t elements) { return static_cast<size_t>(elements * to.bytes); };
  check(cudaMemcpy2DAsync(to.at(to_row), bytes(to.stride), from.at(from_row), bytes(from.stride), bytes(width),
                          static_cast<size_t>(rows), cudaMemcpyDeviceToDevice, current_stream()),
        "cannot copy final states");
}

// What the fused kernels of a pass over one direction read and write besides its own arrays.
class Fused {
 public:
  Fused(const fused::Kernels& kernels, const Pass& pass, bool backward, Arena& arena)
      : kernels_(kernels),
        layout_(kernels.arithmetic, backward ? 1 : pass.cell.gates, backward ? pass.cell.gates : 1, pass.shape.batch,
                pass.H),
        weights_(arena.take(layout_.weight_words() * fused::kWordBytes)) {
    for (void*& operand : operands_) operand = arena.take(operand_bytes());
    if (weights_ != nullptr) kernels_.pack({layout_, backward, pass.w_hh.data, weights_}, current_stream());
  }

  // Starts a forward pass.
  void start(const void* h) const {
    if (weights_ != nullptr) kernels_.start({layout_, h, {operands_[0], operands_[1]}}, current_stream());
  }
  // Starts a backward pass: with gradients of nothing.
  void start() const {
    for (void* const operand : operands_) {
      if (operand == nullptr) continue;
      check(cudaMemsetAsync(operand, 0, static_cast<size_t>(operand_bytes()), current_stream()),
            "cannot clear an operand");
    }
  }

  void forward(const ForwardStep& step) { kernels_.forward(step, next(), current_stream()); }
  void backward(const BackwardStep& step) { kernels_.backward(step, next(), current_stream()); }

 private:
  int64_t operand_bytes() const { return layout_.operand_words() * fused::kWordBytes; }
  fused::Step next() {
    std::swap(operands_[0], operands_[1]);
    return {layout_, weights_, operands_[1], operands_[0]};
  }

  const fused::Kernels kernels_;
  const fused::Layout layout_;
  void* const weights_;
  void* operands_[2] = {};  // of the steps in turn; the first was written last
};

class Forward : ForwardPass {
 public:
  Forward(const ForwardProblem& problem, const Options& options, int direction, Arena& arena)
      : ForwardPass(problem, options.pass, direction, arena) {
    if (options.fused) {
      fused_.emplace(*options.fused, pass(), false, arena);
      fused_->start(own.initial[0]);
    } else {
      r_gates_ = take_compute(arena, shape.batch, gate_rows);
    }
    if (training) {
      unprojected_ = as_output(own.unprojected, H, storage_bytes);
    } else {
      for (int k = 1; k < cell.states; ++k) running_[k] = take_compute(arena, shape.batch, H);
      if (projected()) unprojected_ = take_storage(arena, shape.batch, H);
    }
  }

  // Runs the next step; false after the last.
  bool advance() {
    if (step_ == chunk.steps.end) project_input(step_);
    if (!fused_) multiply_state();
    run_cells();
    if (projected()) project_output();
    return ++step_ < shape.steps;
  }

 private:
  const Pass& pass() const { return *this; }

  // r_gates_ = h W_hh^T.
  void multiply_state() {
    const int64_t active = schedule.active(step_), continuing = schedule.continuing(step_);
    const auto product = [&](const Matrix& h, Range rows) {
      multiply(storage, compute, {rows.size(), gate_rows, R, h, transposed(w_hh), r_gates_.at(rows.begin), gate_rows});
    };
    if (continuing > 0) product(matrix(y, schedule.offset(step_ - 1)), {0, continuing});
    if (continuing < active) {
      product(matrix(as_input(own.initial[0], R, storage_bytes), continuing), {continuing, active});
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
    step.x_gates = x_gates.at(row - chunk.rows.begin);
    step.r_gates = r_gates_.data;
    step.b_ih = own.weights.b_ih;
    step.b_hh = own.weights.b_hh;
    step.old_h = y.at(before);
    step.h_stride = y.stride;
    const Output h = projected() ? unprojected_ : y;
    step.new_h = h.at(projected() && !training ? 0 : row);
    step.new_h_stride = h.stride;
    for (int k = 0; k < cell.states; ++k) {
      step.initial[k] = own.initial[k];
      step.final[k] = k == 0 && projected() ? nullptr : own.final[k];
      if (k == 0) continue;
      const Output states = training ? as_output(own.states[k], H, compute_bytes) : running_[k];
      step.old_states[k] = states.at(training ? before : 0);
      step.new_states[k] = states.at(training ? row : 0);
    }
    if (training) step.saved = as_output(own.saved, cell.saved * H, compute_bytes).at(row);
    fused_ ? fused_->forward(step) : cell.forward(step, current_stream());
  }

  void project_output() {
    const int64_t row = schedule.offset(step_), active = schedule.active(step_);
    const int64_t ending = schedule.continuing(step_ + 1);
    multiply(storage, storage,
             {active, R, H, matrix(unprojected_, training ? row : 0), transposed(w_hr), y.at(row), y.stride});
    if (ending == active) return;
    copy_rows(as_output(own.final[0], R, storage_bytes), ending, as_input(y), row + ending, active - ending, R);
  }

  std::optional<Fused> fused_;
  Output r_gates_{};
  std::array<Output, kMaxStates> running_{};  // states of inference
  Output unprojected_{};

  int64_t step_ = 0;
};

class Backward : BackwardPass {
 public:
  Backward(const BackwardProblem& problem, const Options& options, int direction, Arena& arena)
      : BackwardPass(problem, options.pass, direction, arena), step_(shape.steps) {
    if (projected()) dh_ = take_compute(arena, shape.batch, H);
    if (!options.fused) return;
    fused_.emplace(*options.fused, pass(), true, arena);
    fused_->start();
  }

  // Runs the next step, from the last to the first; false after that.
  bool advance() {
    if (step_ == chunk.steps.begin || step_ == shape.steps) chunk = schedule.chunk_until(step_, chunk_rows);
    --step_;
    if (projected()) project_gradient();
    run_cells();
    multiply_gates();
    if (step_ == chunk.steps.begin) finish_chunk();
    return step_ > 0;
  }

 private:
  const Pass& pass() const { return *this; }
  int64_t row() const { return schedule.offset(step_); }
  int64_t row_in_chunk() const { return row() - chunk.rows.begin; }
  int64_t row_before() const { return step_ > 0 ? schedule.offset(step_ - 1) : 0; }

  // dh_ = the gradient of the output times W_hr.
  void project_gradient() {
    OutputGradient step{};
    step.rows = schedule.active(step_);
    step.continuing = schedule.continuing(step_);
    step.later = schedule.continuing(step_ + 1);
    step.width = R;
    step.product = product.data;
    step.dy = dy.at(row());
    step.y_stride = y.stride;
    step.dfinal = own.dstate[0];
    step.old_h = y.at(row_before());
    step.initial_h = own.initial[0];
    step.dout = dout.at(row_in_chunk());
    step.previous_h = previous_h.at(row_in_chunk());
    kernels.output_gradient(step, current_stream());
    multiply(storage, compute, {step.rows, H, R, matrix(dout, row_in_chunk()), w_hr, dh_.data, H});
  }

  void run_cells() {
    const Input new_h = projected() ? as_input(own.unprojected, H, storage_bytes) : y;
    BackwardStep step{};
    step.rows = schedule.active(step_);
    step.continuing = schedule.continuing(step_);
    step.later = projected() ? step.rows : schedule.continuing(step_ + 1);
    step.hidden = H;
    step.product = projected() ? dh_.data : product.data;
    step.dy = projected() ? nullptr : dy.at(row());
    step.y_stride = y.stride;
    step.old_h = y.at(row_before());
    step.new_h = new_h.at(row());
    step.new_h_stride = new_h.stride;
    for (int k = 0; k < cell.states; ++k) {
      step.initial[k] = own.initial[k];
      step.dstate[k] = own.dstate[k];
      if (k == 0) continue;
      step.old_states[k] = state_rows(own.states, k).at(row_before());
      step.new_states[k] = state_rows(own.states, k).at(row());
      step.dstates[k] = state_rows(own.dstates, k).at(row());
    }
    step.saved = as_input(own.saved, cell.saved * H, compute_bytes).at(row());
    step.dx_gates = dx_gates.at(row_in_chunk());
    step.dr_gates = dr_gates.at(row_in_chunk());
    step.previous_h = projected() ? nullptr : previous_h.at(row_in_chunk());
    fused_ ? fused_->backward(step) : cell.backward(step, current_stream());
  }

  // The gate gradients of this step, times W_hh, are what the step before it gets, unless that is fused; for rows that
  // started here, what their initial state gets, beside the direct path that is there already.
  void multiply_gates() {
    const int64_t active = schedule.active(step_), continuing = schedule.continuing(step_);
    const auto multiply_rows = [&](Range rows, const Output& to, bool accumulate) {
      multiply(storage, compute,
               {rows.size(), R, gate_rows, matrix(dr_gates, row_in_chunk() + rows.begin), w_hh, to.at(rows.begin), R,
                accumulate});
    };
    if (continuing > 0 && !fused_) multiply_rows({0, continuing}, product, false);
    if (own.dh_wanted && continuing < active) {
      multiply_rows({continuing, active}, as_output(own.dstate[0], R, compute_bytes), cell.direct_h);
    }
  }

  std::optional<Fused> fused_;
  Output dh_{};  // [N, H] the gradient of h before the projection
  int64_t step_;
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
