// Registers the operators of operators.h; what they do for fake tensors stands in rnnkern/operators.py.

#include <torch/library.h>

#include <algorithm>

#include "autograd.h"
#include "operators.h"

namespace rnnkern {
namespace {

Layer make_layer(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                 at::TensorList states, at::TensorList weights, at::IntArrayRef places) {
  check(weights.size() == places.size(), "places: expected one for each of ", weights.size(), " weights, got ",
        places.size());
  Layer layer{cell, x, sizes, states.vec(), {}};
  const int64_t last = places.empty() ? 0 : *std::max_element(places.begin(), places.end());
  check(last < 2 * kWeightsPerDirection, "places: expected those of at most two directions, got ", last);
  layer.weights.resize((last / kWeightsPerDirection + 1) * kWeightsPerDirection);
  for (size_t i = 0; i < weights.size(); ++i) {
    check(places[i] >= 0, "places: expected no negative one, got ", places[i]);
    layer.weights[places[i]] = weights[i];
  }
  return layer;
}

Tensors layer_forward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                      at::TensorList states, at::TensorList weights, at::IntArrayRef places, bool all_states) {
  return forward(make_layer(cell, x, sizes, states, weights, places), /*training=*/true, all_states);
}

Tensors layer(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
              at::TensorList states, at::TensorList weights, at::IntArrayRef places, bool all_states) {
  return forward(make_layer(cell, x, sizes, states, weights, places), /*training=*/false, all_states);
}

Tensors differentiable_layer(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                             at::TensorList states, at::TensorList weights, at::IntArrayRef places, bool all_states) {
  return recurrence(make_layer(cell, x, sizes, states, weights, places), all_states);
}

Tensors layer_backward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                       at::TensorList states, at::TensorList weights, at::IntArrayRef places, const at::Tensor& y,
                       at::TensorList residuals, const at::Tensor& dy, at::TensorList dfinal, at::TensorList dstates,
                       const c10::List<bool>& wanted) {
  const std::vector<bool> flags(wanted.begin(), wanted.end());
  Tensors result;
  for (const std::optional<at::Tensor>& gradient : backward(make_layer(cell, x, sizes, states, weights, places), y,
                                                            residuals.vec(), dy, dfinal.vec(), dstates.vec(), flags)) {
    if (gradient) result.push_back(*gradient);
  }
  return result;
}

TORCH_LIBRARY(rnnkern, library) {
  library.def(
      "layer(str cell, Tensor x, Tensor? sizes, Tensor[] states, Tensor[] weights, int[] places, bool all_states) -> "
      "Tensor[]",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "layer_forward(str cell, Tensor x, Tensor? sizes, Tensor[] states, Tensor[] weights, int[] places, bool "
      "all_states) "
      "-> Tensor[]",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "layer_backward(str cell, Tensor x, Tensor? sizes, Tensor[] states, Tensor[] weights, int[] places, Tensor y, "
      "Tensor[] residuals, Tensor dy, Tensor[] dfinal, Tensor[] dstates, bool[] wanted) -> Tensor[]",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(rnnkern, CompositeExplicitAutograd, library) {
  library.impl("layer", &layer);
  library.impl("layer_forward", &layer_forward);
  library.impl("layer_backward", &layer_backward);
}

TORCH_LIBRARY_IMPL(rnnkern, Autograd, library) { library.impl("layer", &differentiable_layer); }

}  // namespace
}  // namespace rnnkern
