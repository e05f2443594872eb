#include "layer.h"

#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "cells/all.h"
#include "cuda/backend.h"

namespace rnnkern {
namespace {

constexpr const char* kWeightNames[kWeightsPerDirection] = {"w_ih", "w_hh", "b_ih", "b_hh", "w_hr"};

template <class... Cells>
std::vector<Cell> list_cells(CellList<Cells...>) {
  int index = 0;
  return {Cell{Cells::kName, index++, Cells::kGates, Cells::kStates, Cells::kStates + 1, Cells::kSaved,
               !Cells::kDirectH}...};
}

std::vector<int64_t> read_batch_sizes(const at::Tensor& batch_sizes) {
  check(batch_sizes.defined() && batch_sizes.device().is_cpu() && batch_sizes.scalar_type() == at::kLong &&
            batch_sizes.dim() == 1,
        "batch_sizes: expected a 1-D int64 tensor on the CPU, got ", batch_sizes.dim(), "-D ",
        batch_sizes.scalar_type(), " on ", batch_sizes.device());
  check_plain("batch_sizes", batch_sizes);
  const at::Tensor dense = batch_sizes.contiguous();
  const int64_t* sizes = dense.const_data_ptr<int64_t>();
  std::vector<int64_t> active(sizes, sizes + dense.numel());
  for (size_t t = 0; t < active.size(); ++t) {
    const char* expected = "batch_sizes: expected positive sizes that never increase, got ";
    check(active[t] > 0, expected, active[t], " at time step ", t);
    check(t == 0 || active[t] <= active[t - 1], expected, active[t], " at time step ", t, " after ", active[t - 1]);
  }
  return active;
}

std::vector<int64_t> read_lengths(const at::Tensor& lengths, int64_t steps, int64_t batch) {
  check(lengths.defined() && lengths.dim() == 1 && lengths.size(0) == batch &&
            at::isIntegralType(lengths.scalar_type(), /*includeBool=*/false),
        "lengths: expected a 1-D tensor of ", batch, " integers (the batch of input), got ", lengths.sizes(), " of ",
        lengths.scalar_type());
  const at::Tensor dense = lengths.to(at::kCPU, at::kLong).contiguous();
  check_plain("lengths", dense);
  const int64_t* values = dense.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < batch; ++n) {
    check(values[n] >= 0 && values[n] <= steps, "lengths: expected values from 0 to ", steps,
          " (the time steps of input), got ", values[n], " at ", n);
  }
  return {values, values + batch};
}

at::Tensor to_index(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace

const std::vector<Cell>& all_cells() {
  static const std::vector<Cell> result = list_cells(AllCells{});
  return result;
}

const Cell& find_cell(const std::string& name) {
  for (const Cell& cell : all_cells()) {
    if (cell.name == name) return cell;
  }
  std::string known;
  for (const Cell& cell : all_cells()) known += (known.empty() ? "" : ", ") + cell.name;
  throw std::runtime_error("cell: expected one of " + known + ", got '" + name + "'");
}

void check_sizes(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  check(tensor.sizes() == expected, name, ": expected size ", expected, ", got ", tensor.sizes());
}

bool is_wrapper(const at::Tensor& tensor) {
  using Key = c10::DispatchKey;
  constexpr c10::DispatchKeySet kWrappers(
      {Key::Python, Key::FuncTorchBatched, Key::FuncTorchGradWrapper, Key::Functionalize, Key::BatchedNestedTensor});
  return tensor.defined() && tensor.key_set().has_any(kWrappers);
}

void check_plain(const char* name, const at::Tensor& tensor) {
  check(tensor.defined(), name, ": expected a tensor, got none");
  if (!is_wrapper(tensor) && tensor.layout() == c10::kStrided && tensor.has_storage() && !tensor.is_quantized()) return;
  check(false, name, ": expected a dense tensor with memory of its own, got a ", tensor.toString(),
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

double forward_flops(const Cell& cell, const Shape& shape) {
  return 2.0 * static_cast<double>(shape.rows) * static_cast<double>(cell.gates * shape.hidden) *
         static_cast<double>(shape.input + shape.output()) * shape.directions;
}

const cpu::Kernels& cpu_kernels(const Cell& cell, DType storage) {
  return cpu::active_backend().kernels[cell.index][storage == DType::kDouble ? 1 : 0];
}

cuda::Work gpu_work(const Cell& cell, DType storage, const Shape& shape, bool training, bool backward) {
  cuda::Work work{};
  work.gates = cell.gates;
  work.states = cell.states;
  work.storage = storage;
  work.arithmetic = cuda::arithmetic_of(storage, cuda::allow_tf32());
  work.rows = shape.rows;
  work.batch = shape.batch;
  work.hidden = shape.hidden;
  work.directions = shape.directions;
  work.projected = shape.projection > 0;
  work.packed = shape.rows < shape.steps * shape.batch;
  work.training = training;
  work.backward = backward;
  return work;
}

Common::Common(const at::Tensor& x) : x_(x) {
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

void Common::check_device() const {
  check(on_gpu_ || x_.device().is_cpu(), "input: expected device ", cuda::build_version() == 0 ? "cpu" : "cpu or cuda",
        ", got ", x_.device());
}

void Common::check_tensor(const char* name, const char* kind, const at::Tensor& tensor) const {
  check(tensor.defined(), name, ": expected a tensor, got none");
  check(tensor.device() == x_.device(), "Input and ", kind,
        " tensors are not at the same device, found input tensor at ", x_.device(), " and ", kind, " tensor at ",
        tensor.device());
  check_plain(name, tensor);
  check(tensor.scalar_type() == x_.scalar_type(), name, ": expected the input's dtype ", x_.scalar_type(), ", got ",
        tensor.scalar_type());
}

// A tensor that is so already is passed on without asking torch's dispatcher, which would take longer than a small step.
at::Tensor Common::prepare(const at::Tensor& tensor) const {
  // autograd hands over zeros that have no memory.
  if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), kernel_options());
  if (tensor.scalar_type() == kernel_type_ && tensor.is_contiguous() && !tensor.is_neg()) return tensor;
  return tensor.to(kernel_type_).contiguous().resolve_neg();
}

at::Tensor Common::to_storage(const at::Tensor& tensor) const {
  return tensor.scalar_type() == x_.scalar_type() ? tensor : tensor.to(x_.scalar_type());
}

Packing::Packing(const at::Tensor& lengths, int64_t steps, int64_t batch, at::Device device)
    : steps_(steps), batch_(batch) {
  const std::vector<int64_t> given = read_lengths(lengths, steps, batch);
  std::vector<int64_t> order;
  for (int64_t n = 0; n < batch; ++n) {
    if (given[n] > 0) order.push_back(n);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return given[a] > given[b]; });

  for (int64_t t = 0; !order.empty() && t < given[order.front()]; ++t) {
    active_.push_back(std::count_if(order.begin(), order.end(), [&](int64_t n) { return given[n] > t; }));
  }
  const int64_t rows = std::accumulate(active_.begin(), active_.end(), int64_t{0});
  std::vector<int64_t> by_time, by_batch, places(steps * batch, rows);
  for (size_t t = 0; t < active_.size(); ++t) {
    for (int64_t place = 0; place < active_[t]; ++place) {
      const int64_t n = order[place], row = static_cast<int64_t>(t) * batch + n;
      places[row] = static_cast<int64_t>(by_time.size());
      by_time.push_back(row);
      by_batch.push_back(n * steps + static_cast<int64_t>(t));
    }
  }
  order_ = to_index(order, device);
  by_time_ = to_index(by_time, device);
  by_batch_ = to_index(by_batch, device);
  places_ = to_index(places, device);
}

at::Tensor Packing::pack(const at::Tensor& padded) const {
  // The rows of a batch-first tensor stand in another order in memory.
  const at::Tensor turned = padded.transpose(0, 1);
  if (turned.is_contiguous()) return turned.flatten(0, 1).index_select(0, by_batch_);
  return padded.flatten(0, 1).index_select(0, by_time_);
}

at::Tensor Packing::unpack(const at::Tensor& packed) const {
  // No view: autograd would forbid to change the output of a node in place.
  return at::_unsafe_view(packed.index_select(0, places_), {steps_, batch_, packed.size(1)});
}

at::Tensor Packing::pick(const at::Tensor& states) const { return states.index_select(1, order_); }

at::Tensor Packing::place(const at::Tensor& picked, const at::Tensor& rest) const {
  return rest.index_copy(1, order_, picked);
}

Call::Call(const Layer& layer) : cell(find_cell(layer.cell)), common(layer.x) {
  single_step_ = !layer.sizes.has_value() && layer.x.dim() == 2 && !layer.states.empty() && layer.states[0].dim() == 2;
  read_weights(layer.weights);
  read_sequence(layer.x, layer.sizes);
  read_states(layer.states);
  common.check_device();
}

std::vector<int64_t> Call::row_sizes(int64_t width) const {
  std::vector<int64_t> sizes = x_sizes_;
  sizes.back() = width;
  return sizes;
}

std::vector<int64_t> Call::state_sizes(int state) const {
  const int64_t width = state == 0 ? shape.output() : shape.hidden;
  if (single_step_) return {batch_, width};
  return {shape.directions, batch_, width};
}

std::vector<int64_t> Call::residual_sizes(int residual) const {
  int64_t width = shape.hidden;
  if (residual == saved_residual()) width = cell.saved * shape.hidden;
  if (residual > saved_residual() && shape.projection == 0) width = 0;
  return {shape.directions, packing_ ? packing_->capacity() : shape.rows, width};
}

at::TensorOptions Call::residual_options(int residual) const {
  return residual > saved_residual() ? common.kernel_options() : common.compute_options();
}

Weights Call::direction_weights(int direction) const {
  const at::Tensor* w = &weights_[direction * kWeightsPerDirection];
  const auto pointer = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
  return {pointer(w[0]), pointer(w[1]), pointer(w[2]), pointer(w[3]), pointer(w[4]), nullptr};
}

cuda::Plan Call::gpu_plan(bool training, bool backward) const {
  const cuda::Work work = gpu_work(cell, common.storage(), shape, training, backward);
  return cuda::choose_plan(work, cuda::current_gpu(), cuda::forced_strategy());
}

at::Tensor Call::scratch(size_t bytes) const {
  return at::empty({static_cast<int64_t>(bytes)}, x.options().dtype(at::kByte));
}

at::Tensor Call::read_rows(const at::Tensor& tensor) const {
  return common.prepare(packing_ ? packing_->pack(tensor) : tensor);
}

at::Tensor Call::new_rows(int64_t width, const at::TensorOptions& options) const {
  if (!packing_) return at::empty(row_sizes(width), options);
  at::Tensor rows = at::empty({shape.rows + 1, width}, options);
  rows[shape.rows].zero_();
  return rows;
}

at::Tensor Call::written_rows(const at::Tensor& rows) const {
  const at::Tensor stored = common.to_storage(rows);
  return packing_ ? packing_->unpack(stored) : stored;
}

at::Tensor Call::new_state(int state, const at::TensorOptions& options) const {
  std::vector<int64_t> sizes = state_sizes(state);
  sizes[sizes.size() - 2] = shape.batch;
  return at::empty(sizes, options);
}

at::Tensor Call::read_state(const at::Tensor& state) const { return packing_ ? packing_->pick(state) : state; }

at::Tensor Call::written_state(const at::Tensor& state, const at::Tensor& rest) const {
  const at::Tensor stored = common.to_storage(state);
  return packing_ ? packing_->place(stored, rest) : stored;
}

void Call::read_weights(const OptionalTensors& weights) {
  const size_t count = weights.size();
  check(count == kWeightsPerDirection || count == 2 * kWeightsPerDirection,
        "weights: expected 5 for each of one or two directions, got ", count);
  shape.directions = static_cast<int>(count / kWeightsPerDirection);
  const auto defined = [&](size_t i) { return weights[i].has_value() && weights[i]->defined(); };
  check(defined(0) && weights[0]->dim() == 2 && weights[0]->size(0) > 0 && weights[0]->size(0) % cell.gates == 0,
        "w_ih: expected a matrix with a positive multiple of ", cell.gates, " rows",
        defined(0) ? ", got size " : ", got none", defined(0) ? weights[0]->sizes() : at::IntArrayRef{});
  shape.hidden = weights[0]->size(0) / cell.gates;
  shape.input = weights[0]->size(1);
  shape.projection = defined(4) && weights[4]->dim() == 2 ? weights[4]->size(0) : 0;
  check(shape.projection == 0 || cell.projection, "w_hr: the cell ", cell.name, " takes no projection");
  const int64_t gate_rows = cell.gates * shape.hidden;
  const std::vector<int64_t> sizes[kWeightsPerDirection] = {{gate_rows, shape.input},
                                                            {gate_rows, shape.output()},
                                                            {gate_rows},
                                                            {gate_rows},
                                                            {shape.projection, shape.hidden}};
  for (size_t i = 0; i < count; ++i) {
    const size_t kind = i % kWeightsPerDirection;
    const bool required = kind < 2 || (kind == 4 && shape.projection > 0);
    check(defined(i) || !required, kWeightNames[kind], ": expected size ", at::IntArrayRef(sizes[kind]), ", got none");
    weights_.emplace_back();
    if (!defined(i)) continue;
    common.check_tensor(kWeightNames[kind], "parameter", *weights[i]);
    check_sizes(kWeightNames[kind], *weights[i], sizes[kind]);
    weights_.back() = common.prepare(*weights[i]);
  }
}

void Call::read_sequence(const at::Tensor& input, const std::optional<at::Tensor>& sizes) {
  const bool packed = sizes.has_value() && input.dim() == 2;
  const int64_t dims = packed || single_step_ ? 2 : 3;
  check(input.dim() == dims, "input must have ", dims, " dimensions, got ", input.dim());
  check(input.size(-1) == shape.input, "input.size(-1) must be equal to input_size. Expected ", shape.input, ", got ",
        input.size(-1));
  check(!single_step_ || shape.directions == 1, "weights: expected 5 for a single step, got those of two directions");
  const int64_t steps = single_step_ ? 1 : input.size(0);
  batch_ = input.size(-2);
  std::vector<int64_t> active = packed ? read_batch_sizes(*sizes) : std::vector<int64_t>(steps, batch_);
  check(!active.empty(), "Expected sequence length to be larger than 0 in RNN");
  if (packed) batch_ = active.front();
  if (sizes.has_value() && !packed) {
    packing_.emplace(*sizes, steps, batch_, common.device());
    active = packing_->active();
  }
  rows_ = Rows(std::move(active));
  rows_.describe(shape);
  check(!packed || shape.rows == input.size(0), "batch_sizes: expected to sum to the ", input.size(0),
        " rows of input, got ", shape.rows);
  x = read_rows(input);
  x_sizes_ = input.sizes().vec();
}

void Call::read_states(const Tensors& states) {
  check(static_cast<int>(states.size()) == cell.states, "states: expected ", cell.states, " for the cell ", cell.name,
        ", got ", states.size());
  for (int k = 0; k < cell.states; ++k) {
    common.check_tensor("hx", "hidden", states[k]);
    const std::vector<int64_t> expected = state_sizes(k);
    if (states[k].sizes() != expected) {
      check(false, "Expected hidden", cell.states > 1 ? "[" + std::to_string(k) + "]" : "", " size ",
            at::IntArrayRef(expected), ", got ", states[k].sizes());
    }
    initial.push_back(common.prepare(read_state(states[k])));
  }
}

}  // namespace rnnkern
