#include "stream.h"

#include <iterator>
#include <utility>

#include "operators.h"

namespace rnnkern {

Stream::Stream(const std::string& cell, const std::vector<OptionalTensors>& weights,
               const std::vector<Tensors>& states) {
  check(!weights.empty(), "weights: expected those of a layer at least, got none");
  layers_.resize(weights.size());
  for (Layer& layer : layers_) layer.cell = cell;
  pack(weights);
  copy_states(states);
}

// dtypes change as they do in one long call: between layers to storage, but not between chunks.
at::Tensor Stream::run(const at::Tensor& x) {
  const std::lock_guard lock(mutex_);
  check(x.scalar_type() == storage_, "input: expected dtype ", storage_, " as of the weights, got ", x.scalar_type());
  std::vector<Tensors> states;
  at::Tensor y = x;
  for (const Layer& layer : layers_) {
    Layer call = layer;
    call.x = y.to(kernel_type_);
    check(is_plain(call), "input: a stream is not for graphs and transforms: expected a plain tensor, got another");
    Tensors outputs = forward(call, /*training=*/false, /*all_states=*/false);
    y = outputs[0].to(storage_);
    states.emplace_back(std::next(outputs.begin()), outputs.end());
  }
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i].states = std::move(states[i]);
  return y;
}

std::vector<Tensors> Stream::states() const {
  const std::lock_guard lock(mutex_);
  std::vector<Tensors> result(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (const at::Tensor& state : layers_[i].states) result[i].push_back(state.to(storage_));
  }
  return result;
}

void Stream::set_states(const std::vector<Tensors>& states) {
  const std::lock_guard lock(mutex_);
  copy_states(states);
}

void Stream::set_weights(const std::vector<OptionalTensors>& weights) {
  const std::lock_guard lock(mutex_);
  pack(weights);
}

void Stream::copy_states(const std::vector<Tensors>& states) {
  check(states.size() == layers_.size(), "states: expected those of ", layers_.size(), " layers, got ", states.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].states.clear();
    for (const at::Tensor& state : states[i]) {
      layers_[i].states.push_back(state.to(kernel_type_, /*non_blocking=*/false, /*copy=*/true));
    }
  }
}

void Stream::pack(const std::vector<OptionalTensors>& weights) {
  check(weights.size() == layers_.size(), "weights: expected those of ", layers_.size(), " layers, got ",
        weights.size());
  std::vector<Layer> packed = layers_;
  for (size_t i = 0; i < packed.size(); ++i) {
    check(!weights[i].empty() && weights[i][0].has_value(), "weights: expected a w_ih in layer ", i, ", got none");
    const at::Tensor& w_ih = *weights[i][0];
    const bool on_cpu = w_ih.is_cpu();
    storage_ = w_ih.scalar_type();
    kernel_type_ = on_cpu && (storage_ == at::kHalf || storage_ == at::kBFloat16) ? at::kFloat : storage_;
    packed[i].weights.clear();
    for (const std::optional<at::Tensor>& weight : weights[i]) {
      packed[i].weights.emplace_back();
      // A CPU reads what freeze packs; another device reads these.
      if (weight) packed[i].weights.back() = weight->to(kernel_type_, false, /*copy=*/!on_cpu).contiguous();
    }
    packed[i].frozen = freeze(packed[i]);
    for (at::Tensor& state : packed[i].states) state = state.to(w_ih.device(), kernel_type_);
  }
  layers_ = std::move(packed);
}

}  // namespace rnnkern
