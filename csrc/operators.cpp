#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <algorithm>

namespace rnnkern {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

c10::List<bool> to_list(const std::vector<bool>& flags) {
  c10::List<bool> result;
  for (const bool flag : flags) result.push_back(flag);
  return result;
}

// A list with gaps as an operator takes it.
struct DenseWeights {
  explicit DenseWeights(const OptionalTensors& weights) {
    for (size_t place = 0; place < weights.size(); ++place) {
      if (!weights[place]) continue;
      tensors.push_back(*weights[place]);
      places.push_back(static_cast<int64_t>(place));
    }
  }
  Tensors tensors;
  std::vector<int64_t> places;
};

}  // namespace

bool is_plain(const Layer& layer) {
  if (c10::impl::dispatch_mode_enabled() || layer.x.is_meta() || is_wrapper(layer.x)) return false;
  const auto wrapped = [](const std::optional<at::Tensor>& tensor) { return tensor && is_wrapper(*tensor); };
  return !wrapped(layer.sizes) && std::none_of(layer.states.begin(), layer.states.end(), is_wrapper) &&
         std::none_of(layer.weights.begin(), layer.weights.end(), wrapped);
}

Tensors any_forward(const Layer& layer, bool training, bool all_states) {
  if (is_plain(layer)) return forward(layer, training, all_states);
  static const auto inference = find_operator<ForwardOperator>("rnnkern::layer");
  static const auto with_residuals = find_operator<ForwardOperator>("rnnkern::layer_forward");
  const auto& chosen = training ? with_residuals : inference;
  const DenseWeights weights(layer.weights);
  return chosen.call(layer.cell, layer.x, layer.sizes, layer.states, weights.tensors, weights.places, all_states);
}

OptionalTensors any_backward(const Layer& layer, const at::Tensor& y, const Tensors& residuals, const at::Tensor& dy,
                             const Tensors& dfinal, const Tensors& dstates, const std::vector<bool>& wanted) {
  if (is_plain(layer)) return backward(layer, y, residuals, dy, dfinal, dstates, wanted);
  static const auto backward_operator = find_operator<BackwardOperator>("rnnkern::layer_backward");
  const DenseWeights weights(layer.weights);
  const Tensors gradients = backward_operator.call(layer.cell, layer.x, layer.sizes, layer.states, weights.tensors,
                                                   weights.places, y, residuals, dy, dfinal, dstates, to_list(wanted));
  OptionalTensors result(wanted.size());
  auto next = gradients.begin();
  const size_t first_weight = wanted.size() - layer.weights.size();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool exists = i < first_weight || layer.weights[i - first_weight].has_value();
    if (wanted[i] && exists) result[i] = *next++;
  }
  return result;
}

}  // namespace rnnkern
