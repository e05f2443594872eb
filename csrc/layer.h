// A call of one layer, from tensors as a user gave them to what kernels take. Errors are std::runtime_error and name
// the argument, what was expected and what came; torch.nn's texts where it has one.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/problem.h"
#include "cpu/backend.h"
#include "cuda/plan.h"

namespace rnnkern {

using Tensors = std::vector<at::Tensor>;
using OptionalTensors = std::vector<std::optional<at::Tensor>>;

inline constexpr int kWeightsPerDirection = 5;  // w_ih w_hh b_ih b_hh w_hr

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

void check_sizes(const char* name, const at::Tensor& tensor, at::IntArrayRef expected);

// Whether the tensor stands for another: that of a transform or of a graph.
bool is_wrapper(const at::Tensor& tensor);

// That a kernel may read the tensor's memory: no wrapper, no sparse or quantized layout.
void check_plain(const char* name, const at::Tensor& tensor);

struct Cell {
  std::string name;
  int index;                            // in AllCells
  int gates, states, residuals, saved;  // residuals: the further states, the saved values, h before the projection
  bool projection;                      // takes w_hr
};

const std::vector<Cell>& all_cells();
const Cell& find_cell(const std::string& name);

DType to_dtype(at::ScalarType type);

// Rows alive at each time step, and where they begin.
class Rows {
 public:
  explicit Rows(std::vector<int64_t> active) : active_(std::move(active)), offsets_{0} {
    for (const int64_t rows : active_) offsets_.push_back(offsets_.back() + rows);
  }

  size_t steps() const { return active_.size(); }
  void describe(Shape& shape) const {
    shape.steps = static_cast<int64_t>(active_.size());
    shape.batch = active_.empty() ? 0 : active_.front();
    shape.rows = offsets_.back();
    shape.active = active_.data();
    shape.offsets = offsets_.data();
  }

 private:
  std::vector<int64_t> active_, offsets_;
};

// The weights of one direction as a CPU's kernels packed them; without kernels, none.
struct Frozen {
  const cpu::Kernels* kernels = nullptr;
  std::shared_ptr<void> memory;
};

// One layer, as it is called; see rnn.h.
struct Layer {
  std::string cell;
  at::Tensor x;
  std::optional<at::Tensor> sizes;
  Tensors states;
  OptionalTensors weights;
  Frozen frozen = {};  // of these weights, for forward without gradients
};

double forward_flops(const Cell& cell, const Shape& shape);
const cpu::Kernels& cpu_kernels(const Cell& cell, DType storage);
cuda::Work gpu_work(const Cell& cell, DType storage, const Shape& shape, bool training, bool backward);

// What the tensors of a call have in common: x's dtype and device.
class Common {
 public:
  explicit Common(const at::Tensor& x);

  // Once all tensors are known to be on one device: is it one with kernels?
  void check_device() const;
  // kind is torch.nn's word for what the tensor is.
  void check_tensor(const char* name, const char* kind, const at::Tensor& tensor) const;

  bool on_gpu() const { return on_gpu_; }
  DType storage() const { return storage_; }
  at::Device device() const { return x_.device(); }
  // Of what kernels read and write as storage, and of what they compute with. Those of a CPU have one type for both.
  at::TensorOptions kernel_options() const { return x_.options().dtype(kernel_type_); }
  at::TensorOptions compute_options() const { return x_.options().dtype(compute_type_); }

  // Dense and in the kernels' type; the tensor itself where it is so already.
  at::Tensor prepare(const at::Tensor& tensor) const;
  // In x's dtype.
  at::Tensor to_storage(const at::Tensor& tensor) const;

 private:
  const at::Tensor& x_;
  DType storage_;
  bool on_gpu_;
  at::ScalarType compute_type_, kernel_type_;
};

// Padded sequences of unequal lengths as the packed sequence that kernels run: by falling length, without padding.
class Packing {
 public:
  // lengths [N] of sequences in a tensor [T, N, ...].
  Packing(const at::Tensor& lengths, int64_t steps, int64_t batch, at::Device device);

  const std::vector<int64_t>& active() const { return active_; }
  int64_t capacity() const { return steps_ * batch_; }

  at::Tensor pack(const at::Tensor& padded) const;    // [T, N, F] -> [M, F]
  at::Tensor unpack(const at::Tensor& packed) const;  // [M + 1, F], the last row of zeros -> [T, N, F]
  // States [D, N, F] -> [D, N', F] of the sequences that have a step, and back beside those of the others.
  at::Tensor pick(const at::Tensor& states) const;
  at::Tensor place(const at::Tensor& picked, const at::Tensor& rest) const;

 private:
  int64_t steps_, batch_;
  std::vector<int64_t> active_;             // rows alive at each time step that has any
  at::Tensor order_;                        // [N'] the sequences that have a step, by falling length
  at::Tensor by_time_, by_batch_, places_;  // [M] rows of [T, N] and of [N, T]; [T*N] rows of the packed sequence
};

// A call's arguments, checked and made dense, with its shape: that of what kernels run, without padding.
class Call {
 public:
  explicit Call(const Layer& layer);

  std::vector<int64_t> y_sizes() const { return row_sizes(shape.directions * shape.output()); }
  std::vector<int64_t> row_sizes(int64_t width) const;  // of a result with one row for each of x
  std::vector<int64_t> state_sizes(int state) const;
  std::vector<int64_t> residual_sizes(int residual) const;
  at::TensorOptions residual_options(int residual) const;
  Weights direction_weights(int direction) const;
  const at::Tensor& weight(size_t index) const { return weights_[index]; }
  cuda::Plan gpu_plan(bool training, bool backward) const;
  at::Tensor scratch(size_t bytes) const;

  // A tensor with a row for each of x, as kernels read it.
  at::Tensor read_rows(const at::Tensor& tensor) const;
  // Room for the kernels' rows, and what the caller gets of it.
  at::Tensor new_rows(int64_t width, const at::TensorOptions& options) const;
  at::Tensor written_rows(const at::Tensor& rows) const;
  // The same for the states that a sequence begins or ends with; a sequence without a step takes them from rest.
  at::Tensor read_state(const at::Tensor& state) const;
  at::Tensor new_state(int state, const at::TensorOptions& options) const;
  at::Tensor written_state(const at::Tensor& state, const at::Tensor& rest) const;

  const Cell& cell;
  const Common common;
  Shape shape{};
  at::Tensor x;
  Tensors initial;

 private:
  void read_weights(const OptionalTensors& weights);
  void read_sequence(const at::Tensor& input, const std::optional<at::Tensor>& sizes);
  void read_states(const Tensors& states);
  int saved_residual() const { return cell.states - 1; }

  bool single_step_;
  Rows rows_{{}};
  std::optional<Packing> packing_;
  int64_t batch_ = 0;  // the caller's; shape.batch counts the sequences that have a step
  std::vector<int64_t> x_sizes_;
  Tensors weights_;
};

}  // namespace rnnkern
