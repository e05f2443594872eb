#include "layer.h"

#include <numeric>

namespace rnnkern::sanitizers {

Layer::Layer(const Traits& cell, const Case& own) : cell_(cell), case_(own), offsets_(own.active.size() + 1) {
  const std::vector<int64_t>& active = case_.active;
  std::partial_sum(active.begin(), active.end(), offsets_.begin() + 1);
  shape_ = {static_cast<int64_t>(active.size()),    active.front(),   offsets_.back(), case_.input,    case_.hidden,
            cell.projection ? case_.projection : 0, case_.directions, active.data(),   offsets_.data()};
}

std::string Layer::description() const {
  const auto number = [](const char* letter, int64_t value) { return letter + std::to_string(value); };
  std::string text = cell_.name + number(" T=", shape_.steps) + number(" N=", shape_.batch);
  text += number(" I=", shape_.input) + number(" H=", shape_.hidden) + number(" P=", shape_.projection);
  text += number(" D=", shape_.directions);
  if (!case_.biases) text += " without biases";
  if (!case_.unwanted.empty()) text += " without " + case_.unwanted;
  if (shape_.rows < shape_.steps * shape_.batch) text += " packed";
  return text;
}

Sizes Layer::weights() const {
  const int64_t gates = cell_.gates * shape_.hidden;
  Sizes sizes;
  for (int d = 0; d < shape_.directions; ++d) {
    sizes[of("w_ih", d)] = gates * shape_.input;
    sizes[of("w_hh", d)] = gates * shape_.output();
    if (case_.biases) sizes[of("b_ih", d)] = sizes[of("b_hh", d)] = gates;
    if (shape_.projection > 0) sizes[of("w_hr", d)] = shape_.projection * shape_.hidden;
  }
  return sizes;
}

Sizes Layer::data() const {
  Sizes sizes{{"x", shape_.rows * shape_.input}};
  for (int d = 0; d < shape_.directions; ++d) {
    for (int k = 0; k < cell_.states; ++k) sizes[of("initial", k, d)] = shape_.batch * width(k);
  }
  return sizes;
}

Sizes Layer::results() const {
  Sizes sizes{{"y", shape_.rows * shape_.directions * shape_.output()}};
  for (int d = 0; d < shape_.directions; ++d) {
    for (int k = 0; k < cell_.states; ++k) sizes[of("final", k, d)] = shape_.batch * width(k);
  }
  return sizes;
}

Sizes Layer::residuals() const {
  Sizes sizes;
  for (int d = 0; d < shape_.directions; ++d) {
    for (int k = 1; k < cell_.states; ++k) sizes[of("states", k, d)] = shape_.rows * shape_.hidden;
    sizes[of("saved", d)] = shape_.rows * cell_.saved * shape_.hidden;
    if (shape_.projection > 0) sizes[of("unprojected", d)] = shape_.rows * shape_.hidden;
  }
  return sizes;
}

Sizes Layer::cotangents() const {
  Sizes sizes = state_gradients();
  sizes["dy"] = shape_.rows * shape_.directions * shape_.output();
  for (int d = 0; d < shape_.directions; ++d) {
    for (int k = 1; k < cell_.states; ++k) sizes[of("dstates", k, d)] = shape_.rows * shape_.hidden;
  }
  return sizes;
}

Sizes Layer::state_gradients() const {
  Sizes sizes;
  for (int d = 0; d < shape_.directions; ++d) {
    for (int k = 0; k < cell_.states; ++k) sizes[of("dstate", k, d)] = shape_.batch * width(k);
  }
  return sizes;
}

Sizes Layer::gradients() const {
  Sizes sizes;
  for (int d = 0; d < shape_.directions; ++d) sizes[of("dx", d)] = shape_.rows * shape_.input;
  for (const auto& [name, size] : weights()) sizes["d" + name] = size;
  return sizes;
}

}  // namespace rnnkern::sanitizers
