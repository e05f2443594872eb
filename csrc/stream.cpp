#include "stream.h"

#include <iterator>
#include <utility>

namespace rnnkern {

Stream::Stream(const std::string& cell, const std::vector<OptionalTensors>& weights,
               const std::vector<Tensors>& states) {
  const at::Tensor& first = weights.at(0).at(0).value();
  storage_ = first.scalar_type();
  const bool converts = first.is_cpu() && (storage_ == at::kHalf || storage_ == at::kBFloat16);
  kernel_type_ = converts ? at::kFloat : storage_;
  layers_.resize(weights.size());
  set_states(states);
  for (size_t i = 0; i < weights.size(); ++i) {
    Layer& layer = layers_[i];
    layer.cell = cell;
    for (const std::optional<at::Tensor>& weight : weights[i]) {
      layer.weights.push_back(weight ? std::optional(weight->to(kernel_type_).contiguous()) : std::nullopt);
    }
    Layer step = layer;
    step.x = at::empty({1, layer.states.at(0).size(1), layer.weights[0]->size(1)}, layer.weights[0]->options());
    layer.frozen = freeze(step);
  }
}

// dtypes change as they do in one long call: between layers to storage, but not between chunks.
at::Tensor Stream::run(const at::Tensor& x) {
  check(x.scalar_type() == storage_, "input: expected dtype ", storage_, " as of the weights, got ", x.scalar_type());
  std::vector<Tensors> states;
  at::Tensor y = x;
  for (const Layer& layer : layers_) {
    Layer call = layer;
    call.x = y.to(kernel_type_);
    Tensors outputs = forward(call, /*training=*/false, /*all_states=*/false);
    y = outputs[0].to(storage_);
    states.emplace_back(std::next(outputs.begin()), outputs.end());
  }
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i].states = std::move(states[i]);
  return y;
}

std::vector<Tensors> Stream::states() const {
  std::vector<Tensors> result(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (const at::Tensor& state : layers_[i].states) result[i].push_back(state.to(storage_));
  }
  return result;
}

void Stream::set_states(const std::vector<Tensors>& states) {
  check(states.size() == layers_.size(), "states: expected those of ", layers_.size(), " layers, got ", states.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].states.clear();
    for (const at::Tensor& state : states[i]) layers_[i].states.push_back(state.to(kernel_type_));
  }
}

}  // namespace rnnkern
