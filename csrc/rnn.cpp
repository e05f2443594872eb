#include "rnn.h"

#include <ATen/ATen.h>

#include <optional>
#include <sstream>
#include <stdexcept>

#include "cells/all.h"
#include "common/problem.h"
#include "cpu/backend.h"
#include "cuda/backend.h"

namespace rnnkern {
namespace {

constexpr int kWeightsPerDirection = 5;  // w_ih w_hh b_ih b_hh w_hr
constexpr const char* kWeightNames[kWeightsPerDirection] = {"w_ih", "w_hh", "b_ih", "b_hh", "w_hr"};

struct Cell {
  int index;
  CellInfo info;
  int saved;
};

template <class... Cells>
std::vector<Cell> list_cells(CellList<Cells...>) {
  int index = 0;
  // Residuals: the further states, the saved values, h before the projection.
  return {Cell{
      index++, {Cells::kName, Cells::kGates, Cells::kStates, Cells::kStates + 1, !Cells::kDirectH}, Cells::kSaved}...};
}

const std::vector<Cell>& all_cells() {
  static const std::vector<Cell> result = list_cells(AllCells{});
  return result;
}

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

const Cell& find_cell(const std::string& name) {
  std::string known;
  for (const Cell& cell : all_cells()) {
    if (cell.info.name == name) return cell;
    known += (known.empty() ? "" : ", ") + cell.info.name;
  }
  throw std::runtime_error("cell: expected one of " + known + ", got '" + name + "'");
}

void check_sizes(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  check(tensor.sizes() == expected, name, ": expected size ", expected, ", got ", tensor.sizes());
}

// A tensor whose memory a kernel may read: no wrapper of a transform, no fake, no sparse or quantized layout.
void check_plain(const char* name, const at::Tensor& tensor) {
  using Key = c10::DispatchKey;
  check(tensor.defined(), name, ": expected a tensor, got none");
  const bool wrapped = tensor.key_set().has_any(c10::DispatchKeySet(
      {Key::Python, Key::FuncTorchBatched, Key::FuncTorchGradWrapper, Key::Functionalize, Key::BatchedNestedTensor}));
  check(!wrapped && tensor.layout() == c10::kStrided && tensor.has_storage() && !tensor.is_quantized(), name,
        ": expected a dense tensor with memory of its own, got a ", tensor.toString(),
        " (a wrapped, fake, sparse or quantized tensor)");
}

DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kFloat;
    case at::kDouble:
      return DType::kDouble;
    case at::kHalf:
      return DType::kHalf;
    case at::kBFloat16:
      return DType::kBFloat16;
    default:
      throw std::runtime_error("input: expected dtype float32, float64, bfloat16 or float16, got " +
                               std::string(at::toString(type)));
  }
}

// Checks what all tensors share, the first time against x's dtype and device.
class Common {
 public:
  explicit Common(const at::Tensor& x) : x_(x) {
    check(x.defined(), "input: expected a tensor, got none");
    on_gpu_ = cuda::serves(c10::DeviceTypeName(x.device().type(), /*lower_case=*/true));
    check(on_gpu_ || !x.device().is_cuda(), "input: expected device cpu, got ", x.device(),
          ". This build of rnnkern has no CUDA kernels: install it again with a PyTorch that has CUDA and an nvcc of "
          "the same major version, in CUDA_HOME or on PATH");
    check_plain("input", x);
    storage_ = to_dtype(x.scalar_type());
    compute_type_ = storage_ == DType::kDouble ? at::kDouble : at::kFloat;
    kernel_type_ = on_gpu_ ? x.scalar_type() : compute_type_;
  }

  // Once all tensors are known to be on one device, is it one with kernels?
  void check_device() const {
    check(on_gpu_ || x_.device().is_cpu(), "input: expected device ",
          cuda::build_version() == 0 ? "cpu" : "cpu or cuda", ", got ", x_.device());
  }

  void check_tensor(const char* name, const char* kind, const at::Tensor& tensor) const {
    check(tensor.defined(), name, ": expected a tensor, got none");
    check(tensor.device() == x_.device(), "Input and ", kind,
          " tensors are not at the same device, found input tensor at ", x_.device(), " and ", kind, " tensor at ",
          tensor.device());
    check_plain(name, tensor);
    check(tensor.scalar_type() == x_.scalar_type(), name, ": expected the input's dtype ", x_.scalar_type(), ", got ",
          tensor.scalar_type());
  }

  bool on_gpu() const { return on_gpu_; }
  DType storage() const { return storage_; }
  at::Device device() const { return x_.device(); }
  // Of what kernels read and write as storage, and of what they compute with. Those of a CPU have one type for both.
  at::TensorOptions kernel_options() const { return x_.options().dtype(kernel_type_); }
  at::TensorOptions compute_options() const { return x_.options().dtype(compute_type_); }

  // Dense and in the kernels' type. Tensors that are so already are passed on without asking torch's dispatcher, which
  // would take longer than a small step.
  at::Tensor prepare(const at::Tensor& tensor) const {
    // autograd hands over zeros that have no memory.
    if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), kernel_options());
    if (tensor.scalar_type() == kernel_type_ && tensor.is_contiguous() && !tensor.is_neg()) return tensor;
    return tensor.to(kernel_type_).contiguous().resolve_neg();
  }
  at::Tensor to_storage(const at::Tensor& tensor) const {
    return tensor.scalar_type() == x_.scalar_type() ? tensor : tensor.to(x_.scalar_type());
  }

 private:
  const at::Tensor& x_;
  DType storage_;
  bool on_gpu_;
  at::ScalarType compute_type_, kernel_type_;
};

// Rows alive at each time step, and where they begin.
class Rows {
 public:
  explicit Rows(std::vector<int64_t> active) : active_(std::move(active)), offsets_{0} {
    for (const int64_t rows : active_) offsets_.push_back(offsets_.back() + rows);
  }

  size_t steps() const { return active_.size(); }
  void describe(Shape& shape) const {
    shape.steps = static_cast<int64_t>(active_.size());
    shape.batch = active_.front();
    shape.rows = offsets_.back();
    shape.active = active_.data();
    shape.offsets = offsets_.data();
  }

 private:
  std::vector<int64_t> active_, offsets_;
};

double forward_flops(const Cell& cell, const Shape& shape) {
  return 2.0 * static_cast<double>(shape.rows) * static_cast<double>(cell.info.gates * shape.hidden) *
         static_cast<double>(shape.input + shape.output()) * shape.directions;
}

const cpu::Kernels& cpu_kernels(const Cell& cell, DType storage) {
  return cpu::active_backend().kernels[cell.index][storage == DType::kDouble ? 1 : 0];
}

cuda::Work gpu_work(const Cell& cell, DType storage, const Shape& shape) {
  return {cell.info.gates, storage, shape.batch, shape.hidden, shape.output(), shape.directions};
}

// A call's arguments, checked and made dense, with its shape.
class Call {
 public:
  Call(const std::string& cell_name, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
       const Tensors& states, const OptionalTensors& weights)
      : cell(find_cell(cell_name)), common(x) {
    read_weights(weights);
    read_sequence(x, batch_sizes);
    read_states(states);
    common.check_device();
  }

  at::IntArrayRef y_sizes() const { return y_sizes_; }
  std::vector<int64_t> state_sizes(int state) const {
    return {shape.directions, shape.batch, state == 0 ? shape.output() : shape.hidden};
  }
  // Residuals are the further states, the saved values and h before the projection.
  std::vector<int64_t> residual_sizes(int residual) const {
    int64_t width = shape.hidden;
    if (residual == saved_residual()) width = cell.saved * shape.hidden;
    if (residual > saved_residual() && shape.projection == 0) width = 0;
    return {shape.directions, shape.rows, width};
  }
  at::TensorOptions residual_options(int residual) const {
    return residual > saved_residual() ? common.kernel_options() : common.compute_options();
  }
  Weights direction_weights(int direction) const {
    const at::Tensor* w = &weights_[direction * kWeightsPerDirection];
    const auto pointer = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
    return {pointer(w[0]), pointer(w[1]), pointer(w[2]), pointer(w[3]), pointer(w[4])};
  }
  const at::Tensor& weight(size_t index) const { return weights_[index]; }
  cuda::Plan gpu_plan() const {
    return cuda::choose_plan(gpu_work(cell, common.storage(), shape), cuda::current_gpu(), cuda::forced_strategy());
  }
  at::Tensor scratch(size_t bytes) const {
    return at::empty({static_cast<int64_t>(bytes)}, x.options().dtype(at::kByte));
  }

  const Cell& cell;
  const Common common;
  Shape shape{};
  at::Tensor x;
  Tensors initial;

 private:
  void read_weights(const OptionalTensors& weights) {
    const size_t count = weights.size();
    check(count == kWeightsPerDirection || count == 2 * kWeightsPerDirection,
          "weights: expected 5 for each of one or two directions, got ", count);
    shape.directions = static_cast<int>(count / kWeightsPerDirection);
    const auto defined = [&](size_t i) { return weights[i].has_value() && weights[i]->defined(); };
    check(defined(0) && weights[0]->dim() == 2 && weights[0]->size(0) > 0 && weights[0]->size(0) % cell.info.gates == 0,
          "w_ih: expected a matrix with a positive multiple of ", cell.info.gates, " rows",
          defined(0) ? ", got size " : ", got none", defined(0) ? weights[0]->sizes() : at::IntArrayRef{});
    shape.hidden = weights[0]->size(0) / cell.info.gates;
    shape.input = weights[0]->size(1);
    shape.projection = defined(4) && weights[4]->dim() == 2 ? weights[4]->size(0) : 0;
    check(shape.projection == 0 || cell.info.projection, "w_hr: the cell ", cell.info.name, " takes no projection");
    const int64_t gate_rows = cell.info.gates * shape.hidden;
    const std::vector<int64_t> sizes[kWeightsPerDirection] = {{gate_rows, shape.input},
                                                              {gate_rows, shape.output()},
                                                              {gate_rows},
                                                              {gate_rows},
                                                              {shape.projection, shape.hidden}};
    for (size_t i = 0; i < count; ++i) {
      const size_t kind = i % kWeightsPerDirection;
      const bool required = kind < 2 || (kind == 4 && shape.projection > 0);
      check(defined(i) || !required, kWeightNames[kind], ": expected size ", at::IntArrayRef(sizes[kind]),
            ", got none");
      weights_.emplace_back();
      if (!defined(i)) continue;
      common.check_tensor(kWeightNames[kind], "parameter", *weights[i]);
      check_sizes(kWeightNames[kind], *weights[i], sizes[kind]);
      weights_.back() = common.prepare(*weights[i]);
    }
  }

  void read_sequence(const at::Tensor& input, const std::optional<at::Tensor>& batch_sizes) {
    const bool packed = batch_sizes.has_value();
    const int64_t dims = packed ? 2 : 3;
    check(input.dim() == dims, "input must have ", dims, " dimensions, got ", input.dim());
    check(input.size(-1) == shape.input, "input.size(-1) must be equal to input_size. Expected ", shape.input, ", got ",
          input.size(-1));
    rows_ = Rows(packed ? read_batch_sizes(*batch_sizes) : std::vector<int64_t>(input.size(0), input.size(1)));
    check(rows_.steps() > 0, "Expected sequence length to be larger than 0 in RNN");
    rows_.describe(shape);
    check(!packed || shape.rows == input.size(0), "batch_sizes: expected to sum to the ", input.size(0),
          " rows of input, got ", shape.rows);
    x = common.prepare(input);
    y_sizes_ = input.sizes().vec();
    y_sizes_.back() = shape.directions * shape.output();
  }

  static std::vector<int64_t> read_batch_sizes(const at::Tensor& batch_sizes) {
    check(batch_sizes.defined() && batch_sizes.device().is_cpu() && batch_sizes.scalar_type() == at::kLong &&
              batch_sizes.dim() == 1,
          "batch_sizes: expected a 1-D int64 tensor on the CPU, got ", batch_sizes.dim(), "-D ",
          batch_sizes.scalar_type(), " on ", batch_sizes.device());
    check_plain("batch_sizes", batch_sizes);
    const at::Tensor dense = batch_sizes.contiguous();
    const int64_t* sizes = dense.const_data_ptr<int64_t>();
    std::vector<int64_t> active(sizes, sizes + dense.numel());
    for (size_t t = 0; t < active.size(); ++t) {
      check(active[t] > 0 && (t == 0 || active[t] <= active[t - 1]),
            "batch_sizes: expected positive sizes that never increase, got ", active[t], " at time step ", t,
            t == 0 ? "" : " after ", t == 0 ? "" : std::to_string(active[t - 1]));
    }
    return active;
  }

  void read_states(const Tensors& states) {
    check(static_cast<int>(states.size()) == cell.info.states, "states: expected ", cell.info.states, " for the cell ",
          cell.info.name, ", got ", states.size());
    for (int k = 0; k < cell.info.states; ++k) {
      common.check_tensor("hx", "hidden", states[k]);
      const std::vector<int64_t> expected = state_sizes(k);
      check(states[k].sizes() == expected, "Expected hidden", cell.info.states > 1 ? "[" + std::to_string(k) + "]" : "",
            " size ", at::IntArrayRef(expected), ", got ", states[k].sizes());
      initial.push_back(common.prepare(states[k]));
    }
  }

  int saved_residual() const { return cell.info.states - 1; }

  Rows rows_{{}};
  std::vector<int64_t> y_sizes_;
  Tensors weights_;
};

// Start of a direction's part of a tensor whose first dimension is directions.
void* part(const at::Tensor& tensor, int direction) {
  const int64_t bytes = tensor.numel() / tensor.size(0) * static_cast<int64_t>(tensor.element_size());
  return static_cast<char*>(tensor.data_ptr()) + direction * bytes;
}

void run(const Call& call, const ForwardProblem& problem) {
  if (call.common.on_gpu()) {
    const cuda::Plan plan = call.gpu_plan();
    const int cell = call.cell.index;
    const DType storage = call.common.storage();
    const at::Tensor scratch = call.scratch(cuda::forward_scratch(cell, storage, problem, plan));
    cuda::forward(cell, storage, problem, plan, scratch.data_ptr());
  } else {
    const cpu::Kernels& kernels = cpu_kernels(call.cell, call.common.storage());
    const int threads = cpu::choose_threads(forward_flops(call.cell, call.shape));
    kernels.forward(problem, threads, call.scratch(kernels.forward_scratch(problem, threads)).data_ptr());
  }
}

void run(const Call& call, const BackwardProblem& problem) {
  if (call.common.on_gpu()) {
    const cuda::Plan plan = call.gpu_plan();
    const int cell = call.cell.index;
    const DType storage = call.common.storage();
    const at::Tensor scratch = call.scratch(cuda::backward_scratch(cell, storage, problem, plan));
    cuda::backward(cell, storage, problem, plan, scratch.data_ptr());
  } else {
    const cpu::Kernels& kernels = cpu_kernels(call.cell, call.common.storage());
    const int threads = cpu::choose_threads(2 * forward_flops(call.cell, call.shape));
    kernels.backward(problem, threads, call.scratch(kernels.backward_scratch(problem, threads)).data_ptr());
  }
}

Explanation explain_cpu(const Cell& cell, DType storage, const Shape& shape) {
  const ForwardProblem problem{shape, false, nullptr, {}, nullptr};
  const int threads = cpu::choose_threads(forward_flops(cell, shape));
  const cpu::Plan plan = cpu_kernels(cell, storage).forward_plan(problem, threads);
  const std::string each = plan.team_size == 1 ? "one thread" : std::to_string(plan.team_size) + " threads";
  return {{"device", "cpu"},
          {"instruction set", cpu::active_backend().name},
          {"threads", plan.teams > 1 ? "the directions side by side, " + each + " each" : each},
          {"division", plan.team_size == 1 ? "none"
                       : plan.by_batch     ? "rows of the batch to each thread"
                                           : "hidden units to each thread, which meet at every step"},
          {"recurrent weights", plan.packed ? "packed once a call" : "read as they are"},
          {"input projection", std::to_string(plan.chunk_rows) + " rows ahead"}};
}

cuda::Gpu find_gpu(const std::string& device) {
  if (device == "cuda") {
    check(cuda::build_version() > 0, "device: expected cpu or one of rnnkern.gpus(), got cuda: this build has no CUDA");
    return cuda::current_gpu();
  }
  std::string known = "cpu, cuda";
  for (const cuda::Gpu& gpu : cuda::recorded_gpus()) {
    if (gpu.name == device) return gpu;
    known += ", " + gpu.name;
  }
  throw std::runtime_error("device: expected one of " + known + ", got '" + device + "'");
}

Explanation explain_gpu(const Cell& cell, DType storage, const Shape& shape, const std::string& device) {
  const cuda::Gpu gpu = find_gpu(device);
  const cuda::Work work = gpu_work(cell, storage, shape);
  const cuda::Plan plan = cuda::choose_plan(work, gpu, cuda::forced_strategy());
  Explanation lines{{"device", gpu.name},
                    {"strategy", cuda::name(plan.strategy)},
                    {"elementwise blocks", std::to_string(cuda::kPointwiseThreads) + " threads, one a unit and row"},
                    {"input projection", std::to_string(std::min(plan.chunk_rows, shape.rows)) + " rows ahead"}};
  for (const cuda::Strategy other : cuda::kStrategies) {
    if (const auto reason = cuda::refusal(other, work, gpu)) lines.emplace_back(cuda::name(other), *reason);
  }
  return lines;
}

// Allocates and launches on the GPU of the call's tensors, whichever is current.
std::optional<c10::DeviceGuard> guard(const Common& common) {
  if (!common.on_gpu()) return std::nullopt;
  return std::optional<c10::DeviceGuard>(std::in_place, common.device());
}

}  // namespace

std::vector<CellInfo> cells() {
  std::vector<CellInfo> result;
  for (const Cell& cell : all_cells()) result.push_back(cell.info);
  return result;
}

std::vector<std::string> backends() {
  std::vector<std::string> names;
  for (const cpu::Backend* backend : cpu::supported_backends()) names.emplace_back(backend->name);
  return names;
}

std::string active_backend() { return cpu::active_backend().name; }

std::optional<std::string> cuda_version() {
  const int version = cuda::build_version();
  if (version == 0) return std::nullopt;
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::vector<std::string> gpus() {
  std::vector<std::string> names;
  for (const cuda::Gpu& gpu : cuda::recorded_gpus()) names.push_back(gpu.name);
  return names;
}

Explanation explain(const std::string& cell_name, at::ScalarType dtype, const std::vector<int64_t>& batch_sizes,
                    int64_t input, int64_t hidden, int64_t projection, int directions, const std::string& device) {
  const Cell& cell = find_cell(cell_name);
  const DType storage = to_dtype(dtype);
  check(!batch_sizes.empty(), "Expected sequence length to be larger than 0 in RNN");
  const Rows rows(batch_sizes);
  Shape shape{};
  rows.describe(shape);
  shape.input = input;
  shape.hidden = hidden;
  shape.projection = projection;
  shape.directions = directions;
  return device == "cpu" ? explain_cpu(cell, storage, shape) : explain_gpu(cell, storage, shape, device);
}

Tensors forward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                const Tensors& states, const OptionalTensors& weights, bool training) {
  const Call call(cell, x, batch_sizes, states, weights);
  const std::optional<c10::DeviceGuard> on_device = guard(call.common);
  const at::TensorOptions options = call.common.kernel_options();
  const int state_count = call.cell.info.states;

  Tensors outputs{at::empty(call.y_sizes(), options)};
  for (int k = 0; k < state_count; ++k) outputs.push_back(at::empty(call.state_sizes(k), options));
  Tensors residuals;
  for (int i = 0; training && i < call.cell.info.residuals; ++i) {
    residuals.push_back(at::empty(call.residual_sizes(i), call.residual_options(i)));
  }

  if (call.shape.rows > 0) {
    ForwardProblem problem{call.shape, training, call.x.const_data_ptr(), {}, outputs[0].data_ptr()};
    for (int d = 0; d < call.shape.directions; ++d) {
      ForwardDirection& own = problem.direction[d];
      own.weights = call.direction_weights(d);
      for (int k = 0; k < state_count; ++k) {
        own.initial[k] = part(call.initial[k], d);
        own.final[k] = part(outputs[k + 1], d);
        if (training && k > 0) own.states[k] = part(residuals[k - 1], d);
      }
      if (!training) continue;
      own.saved = part(residuals[state_count - 1], d);
      own.unprojected = part(residuals[state_count], d);
    }
    run(call, problem);
  }

  for (at::Tensor& output : outputs) output = call.common.to_storage(output);
  outputs.insert(outputs.end(), residuals.begin(), residuals.end());
  return outputs;
}

OptionalTensors backward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                         const Tensors& states, const OptionalTensors& weights, const at::Tensor& y,
                         const Tensors& residuals, const at::Tensor& dy, const Tensors& dfinal,
                         const std::vector<bool>& wanted) {
  const Call call(cell, x, batch_sizes, states, weights);
  const Common& common = call.common;
  const std::optional<c10::DeviceGuard> on_device = guard(common);
  const Shape& shape = call.shape;
  const int state_count = call.cell.info.states;
  check(static_cast<int>(dfinal.size()) == state_count, "dfinal: expected ", state_count, ", got ", dfinal.size());
  check(static_cast<int>(residuals.size()) == call.cell.info.residuals, "residuals: expected ",
        call.cell.info.residuals, ", got ", residuals.size());
  check(wanted.size() == 1 + states.size() + weights.size(), "wanted: expected ", 1 + states.size() + weights.size(),
        " flags, got ", wanted.size());
  for (size_t i = 0; i < residuals.size(); ++i) {
    check_plain("residuals", residuals[i]);
    const int index = static_cast<int>(i);
    check_sizes("residuals", residuals[i], call.residual_sizes(index));
    check(residuals[i].dtype() == call.residual_options(index).dtype() && residuals[i].is_contiguous() &&
              residuals[i].device() == common.device(),
          "residuals: expected the tensors that forward returned, got a ", residuals[i].toString());
  }
  common.check_tensor("y", "output", y);
  check_sizes("y", y, call.y_sizes());
  common.check_tensor("dy", "gradient", dy);
  check_sizes("dy", dy, call.y_sizes());

  const at::Tensor y_dense = common.prepare(y), dy_dense = common.prepare(dy);
  const at::TensorOptions options = common.compute_options();
  Tensors dstates;
  for (int k = 0; k < state_count; ++k) {
    common.check_tensor("dfinal", "gradient", dfinal[k]);
    check_sizes("dfinal", dfinal[k], call.state_sizes(k));
    dstates.push_back(at::empty(call.state_sizes(k), options).copy_(dfinal[k]));
  }
  at::Tensor dx;
  if (wanted[0]) dx = at::empty({shape.directions, shape.rows, shape.input}, options);
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
        own.dstate[k] = part(dstates[k], d);
        if (k > 0) own.states[k] = part(residuals[k - 1], d);
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
    const at::Tensor sum = shape.directions == 1 ? dx[0] : dx[0].add(dx[1]);
    gradients[0] = common.to_storage(sum.view(x.sizes()));
  }
  for (int k = 0; k < state_count; ++k) {
    if (wanted[1 + k]) gradients[1 + k] = common.to_storage(dstates[k]);
  }
  for (size_t i = 0; i < dweights.size(); ++i) {
    if (dweights[i].defined()) gradients[1 + states.size() + i] = common.to_storage(dweights[i]);
  }
  return gradients;
}

}  // namespace rnnkern
