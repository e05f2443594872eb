#include "rnn.h"

#include <ATen/ATen.h>

#include <sstream>
#include <stdexcept>

#include "cells/all.h"
#include "common/problem.h"
#include "cpu/backend.h"

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

// Checks what all tensors share, the first time against x's dtype and device.
class Common {
 public:
  explicit Common(const at::Tensor& x) : x_(x) {
    check(x.defined(), "input: expected a tensor, got none");
    check_plain("input", x);
    const at::ScalarType type = x.scalar_type();
    check(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
          "input: expected dtype float32, float64, bfloat16 or float16, got ", type);
  }

  // Once all tensors are known to be on one device, is it one with kernels?
  void check_device() const { check(x_.device().is_cpu(), "input: expected device cpu, got ", x_.device()); }

  void check_tensor(const char* name, const char* kind, const at::Tensor& tensor) const {
    check(tensor.defined(), name, ": expected a tensor, got none");
    check(tensor.device() == x_.device(), "Input and ", kind,
          " tensors are not at the same device, found input tensor at ", x_.device(), " and ", kind, " tensor at ",
          tensor.device());
    check_plain(name, tensor);
    check(tensor.scalar_type() == x_.scalar_type(), name, ": expected the input's dtype ", x_.scalar_type(), ", got ",
          tensor.scalar_type());
  }

  bool is_double() const { return x_.scalar_type() == at::kDouble; }
  at::TensorOptions compute_options() const { return x_.options().dtype(is_double() ? at::kDouble : at::kFloat); }

  // Dense and in the compute type. Tensors that are so already are passed on without asking torch's dispatcher, which
  // would take longer than a small step.
  at::Tensor prepare(const at::Tensor& tensor) const {
    const at::ScalarType type = is_double() ? at::kDouble : at::kFloat;
    // autograd hands over zeros that have no memory.
    if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), compute_options());
    if (tensor.scalar_type() == type && tensor.is_contiguous() && !tensor.is_neg()) return tensor;
    return tensor.to(type).contiguous().resolve_neg();
  }
  at::Tensor to_storage(const at::Tensor& tensor) const {
    return tensor.scalar_type() == x_.scalar_type() ? tensor : tensor.to(x_.scalar_type());
  }

 private:
  const at::Tensor& x_;
};

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
    const double multiplies = static_cast<double>(shape.rows) * static_cast<double>(cell.info.gates * shape.hidden) *
                              static_cast<double>(shape.input + shape.output()) * shape.directions;
    forward_flops = 2 * multiplies;
  }

  at::IntArrayRef y_sizes() const { return y_sizes_; }
  std::vector<int64_t> state_sizes(int state) const {
    return {shape.directions, shape.batch, state == 0 ? shape.output() : shape.hidden};
  }
  std::vector<int64_t> residual_sizes(int residual) const {
    const int further_states = cell.info.states - 1;
    int64_t width = shape.hidden;
    if (residual == further_states) width = cell.saved * shape.hidden;
    if (residual > further_states && shape.projection == 0) width = 0;
    return {shape.directions, shape.rows, width};
  }
  Weights direction_weights(int direction) const {
    const at::Tensor* w = &weights_[direction * kWeightsPerDirection];
    const auto pointer = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
    return {pointer(w[0]), pointer(w[1]), pointer(w[2]), pointer(w[3]), pointer(w[4])};
  }
  const at::Tensor& weight(size_t index) const { return weights_[index]; }
  const cpu::Kernels& kernels() const { return cpu::active_backend().kernels[cell.index][common.is_double() ? 1 : 0]; }

  const Cell& cell;
  const Common common;
  Shape shape{};
  at::Tensor x;
  Tensors initial;
  double forward_flops = 0;

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
    packed ? read_batch_sizes(*batch_sizes) : active_.assign(input.size(0), input.size(1));
    shape.steps = static_cast<int64_t>(active_.size());
    check(shape.steps > 0, "Expected sequence length to be larger than 0 in RNN");
    shape.batch = active_.front();
    offsets_.assign(1, 0);
    for (const int64_t rows : active_) offsets_.push_back(offsets_.back() + rows);
    shape.rows = offsets_.back();
    check(!packed || shape.rows == input.size(0), "batch_sizes: expected to sum to the ", input.size(0),
          " rows of input, got ", shape.rows);
    shape.active = active_.data();
    shape.offsets = offsets_.data();
    x = common.prepare(input);
    y_sizes_ = input.sizes().vec();
    y_sizes_.back() = shape.directions * shape.output();
  }

  void read_batch_sizes(const at::Tensor& batch_sizes) {
    check(batch_sizes.defined() && batch_sizes.device().is_cpu() && batch_sizes.scalar_type() == at::kLong &&
              batch_sizes.dim() == 1,
          "batch_sizes: expected a 1-D int64 tensor on the CPU, got ", batch_sizes.dim(), "-D ",
          batch_sizes.scalar_type(), " on ", batch_sizes.device());
    check_plain("batch_sizes", batch_sizes);
    const at::Tensor dense = batch_sizes.contiguous();
    const int64_t* sizes = dense.const_data_ptr<int64_t>();
    active_.assign(sizes, sizes + dense.numel());
    for (size_t t = 0; t < active_.size(); ++t) {
      check(active_[t] > 0 && (t == 0 || active_[t] <= active_[t - 1]),
            "batch_sizes: expected positive sizes that never increase, got ", active_[t], " at time step ", t,
            t == 0 ? "" : " after ", t == 0 ? "" : std::to_string(active_[t - 1]));
    }
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

  std::vector<int64_t> active_, offsets_, y_sizes_;
  Tensors weights_;
};

// Start of a direction's part of a tensor whose first dimension is directions.
void* part(const at::Tensor& tensor, int direction) {
  const int64_t bytes = tensor.numel() / tensor.size(0) * static_cast<int64_t>(tensor.element_size());
  return static_cast<char*>(tensor.data_ptr()) + direction * bytes;
}

template <class Problem>
void run(const Problem& problem, double flops, size_t (*scratch_bytes)(const Problem&, int),
         void (*kernel)(const Problem&, int, void*)) {
  const int threads = cpu::choose_threads(flops);
  const auto bytes = static_cast<int64_t>(scratch_bytes(problem, threads));
  const at::Tensor scratch = at::empty({bytes}, at::kByte);
  kernel(problem, threads, scratch.data_ptr());
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

Tensors forward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                const Tensors& states, const OptionalTensors& weights, bool training) {
  const Call call(cell, x, batch_sizes, states, weights);
  const at::TensorOptions options = call.common.compute_options();
  const int state_count = call.cell.info.states;

  Tensors outputs{at::empty(call.y_sizes(), options)};
  for (int k = 0; k < state_count; ++k) outputs.push_back(at::empty(call.state_sizes(k), options));
  Tensors residuals;
  for (int i = 0; training && i < call.cell.info.residuals; ++i) {
    residuals.push_back(at::empty(call.residual_sizes(i), options));
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
    const cpu::Kernels& kernels = call.kernels();
    run(problem, call.forward_flops, kernels.forward_scratch, kernels.forward);
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
  const Shape& shape = call.shape;
  const int state_count = call.cell.info.states;
  check(static_cast<int>(dfinal.size()) == state_count, "dfinal: expected ", state_count, ", got ", dfinal.size());
  check(static_cast<int>(residuals.size()) == call.cell.info.residuals, "residuals: expected ",
        call.cell.info.residuals, ", got ", residuals.size());
  check(wanted.size() == 1 + states.size() + weights.size(), "wanted: expected ", 1 + states.size() + weights.size(),
        " flags, got ", wanted.size());
  for (size_t i = 0; i < residuals.size(); ++i) {
    check_plain("residuals", residuals[i]);
    check_sizes("residuals", residuals[i], call.residual_sizes(static_cast<int>(i)));
    check(residuals[i].scalar_type() == common.compute_options().dtype().toScalarType() && residuals[i].is_contiguous(),
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
    dweights[i] = shape.rows > 0 ? at::empty_like(call.weight(i)) : at::zeros_like(call.weight(i));
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
    const cpu::Kernels& kernels = call.kernels();
    run(problem, 2 * call.forward_flops, kernels.backward_scratch, kernels.backward);
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
