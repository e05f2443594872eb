#include "rnn.h"

#include <ATen/Context.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>

#include "cpu/memory.h"
#include "cuda/backend.h"

namespace rnnkern {
namespace {

// Start of a direction's part of a tensor whose first dimension is directions.
void* part(const at::Tensor& tensor, int direction) {
  const int64_t bytes = tensor.numel() / tensor.size(0) * static_cast<int64_t>(tensor.element_size());
  return static_cast<char*>(tensor.data_ptr()) + direction * bytes;
}

// Filled as torch.empty is: with NaN where torch is told to.
void fill_uninitialized(void* data, size_t bytes) {
  const at::Context& torch = at::globalContext();
  if (torch.deterministicAlgorithms() && torch.deterministicFillUninitializedMemory()) std::memset(data, 0xff, bytes);
}

// torch.empty, in memory that is kept for later calls where torch would take it from the system.
at::Tensor kept_empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
  constexpr double kLarge = 1 << 20, kPossible = 1LL << 48;  // torch reports what would overflow
  double size = static_cast<double>(options.dtype().itemsize());
  for (const int64_t count : sizes) size *= static_cast<double>(count);
  if (!options.device().is_cpu() || size < kLarge || size > kPossible) return at::empty(sizes, options);
  const auto bytes = static_cast<size_t>(size);
  void* data = cpu::allocate(bytes);
  fill_uninitialized(data, bytes);
  return at::from_blob(data, sizes, [bytes](void* block) { cpu::release(block, bytes); }, options);
}

void run(const Call& call, const ForwardProblem& problem, const Frozen& frozen) {
  if (call.common.on_gpu()) {
    const cuda::Plan plan = call.gpu_plan(problem.training, false);
    const int cell = call.cell.index;
    const DType storage = call.common.storage();
    const at::Tensor scratch = call.scratch(cuda::forward_scratch(cell, storage, problem, plan));
    cuda::forward(cell, storage, problem, plan, scratch.data_ptr());
  } else {
    const bool is_frozen = frozen.kernels != nullptr;
    const cpu::Kernels& kernels = is_frozen ? *frozen.kernels : cpu_kernels(call.cell, call.common.storage());
    const int threads = cpu::choose_threads(forward_flops(call.cell, call.shape));
    const size_t bytes = kernels.forward_scratch(problem, threads);
    const cpu::Scratch scratch(bytes);
    fill_uninitialized(scratch.data(), bytes);
    kernels.forward(problem, threads, scratch.data());
  }
}

void run(const Call& call, const BackwardProblem& problem) {
  if (call.common.on_gpu()) {
    const cuda::Plan plan = call.gpu_plan(true, true);
    const int cell = call.cell.index;
    const DType storage = call.common.storage();
    const at::Tensor scratch = call.scratch(cuda::backward_scratch(cell, storage, problem, plan));
    cuda::backward(cell, storage, problem, plan, scratch.data_ptr());
  } else {
    const cpu::Kernels& kernels = cpu_kernels(call.cell, call.common.storage());
    const int threads = cpu::choose_threads(2 * forward_flops(call.cell, call.shape));
    const size_t bytes = kernels.backward_scratch(problem, threads);
    const cpu::Scratch scratch(bytes);
    fill_uninitialized(scratch.data(), bytes);
    kernels.backward(problem, threads, scratch.data());
  }
}

// The states after each row, from a residual [D, M, H] to what the caller gets: [T, N, D*H] or [M, D*H].
at::Tensor side_by_side(const Call& call, const at::Tensor& states) {
  const int64_t rows = call.shape.rows, D = call.shape.directions, H = call.shape.hidden;
  const at::Tensor result = call.new_rows(D * H, states.options());
  result.view({-1, D, H}).narrow(0, 0, rows).copy_(states.narrow(1, 0, rows).transpose(0, 1));
  return call.written_rows(result);
}

// The way back, for gradients.
at::Tensor one_by_one(const Call& call, const at::Tensor& dstates) {
  const Common& common = call.common;
  const int64_t rows = call.shape.rows, D = call.shape.directions, H = call.shape.hidden;
  common.check_tensor("dstates", "gradient", dstates);
  check_sizes("dstates", dstates, call.row_sizes(D * H));
  const at::Tensor turned = call.read_rows(dstates).view({rows, D, H}).transpose(0, 1);
  return turned.to(common.compute_options()).contiguous();
}

// Allocates and launches on the GPU of the call's tensors, whichever is current.
std::optional<c10::DeviceGuard> guard(const Common& common) {
  if (!common.on_gpu()) return std::nullopt;
  return std::optional<c10::DeviceGuard>(std::in_place, common.device());
}

}  // namespace

Tensors forward(const Layer& layer, bool training, bool all_states) {
  const Call call(layer);
  const std::optional<c10::DeviceGuard> on_device = guard(call.common);
  const at::TensorOptions options = call.common.kernel_options();
  const Shape& shape = call.shape;
  const int state_count = call.cell.states;

  Tensors outputs{call.new_rows(shape.directions * shape.output(), options)};
  for (int k = 0; k < state_count; ++k) outputs.push_back(call.new_state(k, options));
  Tensors residuals;
  const bool keep = training || all_states;
  for (int i = 0; keep && i < call.cell.residuals; ++i) {
    residuals.push_back(kept_empty(call.residual_sizes(i), call.residual_options(i)));
  }

  if (shape.rows > 0) {
    ForwardProblem problem{shape, keep, call.x.const_data_ptr(), {}, outputs[0].data_ptr()};
    for (int d = 0; d < shape.directions; ++d) {
      ForwardDirection& own = problem.direction[d];
      own.weights = call.direction_weights(d);
      own.weights.frozen = layer.frozen.memory.get();
      for (int k = 0; k < state_count; ++k) {
        own.initial[k] = part(call.initial[k], d);
        own.final[k] = part(outputs[k + 1], d);
        if (keep && k > 0) own.states[k] = part(residuals[k - 1], d);
      }
      if (!keep) continue;
      own.saved = part(residuals[state_count - 1], d);
      own.unprojected = part(residuals[state_count], d);
    }
    run(call, problem, layer.frozen);
  }

  outputs[0] = call.written_rows(outputs[0]);
  for (int k = 0; k < state_count; ++k) outputs[k + 1] = call.written_state(outputs[k + 1], layer.states[k]);
  for (int k = 1; all_states && k < state_count; ++k) outputs.push_back(side_by_side(call, residuals[k - 1]));
  if (training) outputs.insert(outputs.end(), residuals.begin(), residuals.end());
  return outputs;
}

Frozen freeze(const Layer& layer) {
  const Cell& cell = find_cell(layer.cell);
  const at::Tensor w_ih = layer.weights.at(0).value_or(at::Tensor()), w_hh = layer.weights.at(1).value_or(at::Tensor());
  check(w_ih.defined() && w_hh.defined() && w_ih.dim() == 2 && w_hh.dim() == 2,
        "weights: expected matrices w_ih, w_hh");
  Layer step{cell.name, at::empty({1, 0, w_ih.size(1)}, w_ih.options()), std::nullopt, {}, layer.weights};
  for (int k = 0; k < cell.states; ++k) {
    step.states.push_back(at::empty({1, 0, k == 0 ? w_hh.size(1) : w_ih.size(0) / cell.gates}, w_ih.options()));
  }
  const Call call(step);
  if (call.common.on_gpu()) return {};
  check(call.shape.directions == 1, "weights: expected those of one direction, got those of two");
  const cpu::Kernels& kernels = cpu_kernels(call.cell, call.common.storage());
  ForwardProblem problem{call.shape, /*training=*/false, call.x.const_data_ptr(), {}, nullptr};
  problem.direction[0].weights = call.direction_weights(0);
  const size_t bytes = kernels.freeze(problem, nullptr);
  const std::shared_ptr<void> memory(cpu::allocate(bytes), [bytes](void* block) { cpu::release(block, bytes); });
  kernels.freeze(problem, memory.get());
  return {&kernels, memory};
}

OptionalTensors backward(const Layer& layer, const at::Tensor& y, const Tensors& residuals, const at::Tensor& dy,
                         const Tensors& dfinal, const Tensors& dstates, const std::vector<bool>& wanted) {
  const Call call(layer);
  const Tensors& states = layer.states;
  const OptionalTensors& weights = layer.weights;
  const Common& common = call.common;
  const std::optional<c10::DeviceGuard> on_device = guard(common);
  const Shape& shape = call.shape;
  const int state_count = call.cell.states;
  check(static_cast<int>(dfinal.size()) == state_count, "dfinal: expected ", state_count, ", got ", dfinal.size());
  check(static_cast<int>(residuals.size()) == call.cell.residuals, "residuals: expected ", call.cell.residuals,
        ", got ", residuals.size());
  check(dstates.empty() || static_cast<int>(dstates.size()) == state_count - 1, "dstates: expected none or ",
        state_count - 1, ", got ", dstates.size());
  check(wanted.size() == 1 + states.size() + weights.size(), "wanted: expected ", 1 + states.size() + weights.size(),
        " flags, got ", wanted.size());
  for (size_t i = 0; i < residuals.size(); ++i) {
    check_plain("residuals", residuals[i]);
    const int index = static_cast<int>(i);
    check_sizes("residuals", residuals[i], call.residual_sizes(index));
    const bool ours = residuals[i].dtype() == call.residual_options(index).dtype() && residuals[i].is_contiguous() &&
                      residuals[i].device() == common.device();
    check(ours, "residuals: expected the tensors that forward returned, got a tensor of dtype ", residuals[i].dtype(),
          " on ", residuals[i].device());
  }
  common.check_tensor("y", "output", y);
  check_sizes("y", y, call.y_sizes());
  common.check_tensor("dy", "gradient", dy);
  check_sizes("dy", dy, call.y_sizes());

  const at::Tensor y_dense = call.read_rows(y), dy_dense = call.read_rows(dy);
  const at::TensorOptions options = common.compute_options();
  Tensors dinitial, dall(state_count);
  for (int k = 0; k < state_count; ++k) {
    common.check_tensor("dfinal", "gradient", dfinal[k]);
    check_sizes("dfinal", dfinal[k], call.state_sizes(k));
    dinitial.push_back(call.new_state(k, options).copy_(call.read_state(dfinal[k])));
    if (k > 0 && !dstates.empty()) dall[k] = one_by_one(call, dstates[k - 1]);
  }
  at::Tensor dx;
  if (wanted[0]) {
    dx = shape.directions == 1 ? call.new_rows(shape.input, options)
                               : at::empty({shape.directions, shape.rows, shape.input}, options);
  }
  Tensors dweights(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!wanted[1 + states.size() + i] || !call.weight(i).defined()) continue;
    const at::IntArrayRef sizes = call.weight(i).sizes();
    dweights[i] = shape.rows > 0 ? at::empty(sizes, options) : at::zeros(sizes, options);
  }

  if (shape.rows > 0) {
    BackwardProblem problem{shape, call.x.const_data_ptr(), y_dense.const_data_ptr(), dy_dense.const_data_ptr(), {}};
    for (int d = 0; d < shape.directions; ++d) {
      BackwardDirection& own = problem.direction[d];
      own.weights = call.direction_weights(d);
      for (int k = 0; k < state_count; ++k) {
        own.initial[k] = part(call.initial[k], d);
        own.dstate[k] = part(dinitial[k], d);
        if (k > 0) own.states[k] = part(residuals[k - 1], d);
        if (dall[k].defined()) own.dstates[k] = part(dall[k], d);
      }
      own.saved = part(residuals[state_count - 1], d);
      own.unprojected = part(residuals[state_count], d);
      own.dh_wanted = wanted[1];
      own.dx = dx.defined() ? part(dx, d) : nullptr;
      const at::Tensor* dw = &dweights[static_cast<size_t>(d) * kWeightsPerDirection];
      const auto pointer = [](const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; };
      own.dw_ih = pointer(dw[0]);
      own.dw_hh = pointer(dw[1]);
      own.db_ih = pointer(dw[2]);
      own.db_hh = pointer(dw[3]);
      own.dw_hr = pointer(dw[4]);
    }
    run(call, problem);
  }

  OptionalTensors gradients(wanted.size());
  if (wanted[0]) {
    if (shape.directions > 1) {
      const at::Tensor sum = call.new_rows(shape.input, options);
      at::Tensor rows = sum.flatten(0, -2).narrow(0, 0, shape.rows);
      at::add_out(rows, dx[0], dx[1]);
      dx = sum;
    }
    gradients[0] = call.written_rows(dx);
  }
  for (int k = 0; k < state_count; ++k) {
    if (wanted[1 + k]) gradients[1 + k] = call.written_state(dinitial[k], dfinal[k]);
  }
  for (size_t i = 0; i < dweights.size(); ++i) {
    if (dweights[i].defined()) gradients[1 + states.size() + i] = common.to_storage(dweights[i]);
  }
  return gradients;
}

}  // namespace rnnkern
