// Layers of one direction over a sequence that comes in chunks: states and packed weights stay from chunk to chunk.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "rnn.h"

namespace rnnkern {

// Calls from several threads take turns.
class Stream {
 public:
  // weights: for each layer those of one direction; states: for each layer the first ones, [1, N, R] and [1, N, H] (see
  // rnn.h). Both are read here, and later changes of them not seen. Throws std::runtime_error where they do not fit.
  Stream(const std::string& cell, const std::vector<OptionalTensors>& weights, const std::vector<Tensors>& states);

  // x [T, N, I] -> y [T, N, R] of the last layer; the states are those after it then. Throws std::runtime_error on bad
  // input, and leaves the states as they were.
  at::Tensor run(const at::Tensor& x);

  std::vector<Tensors> states() const;
  void set_states(const std::vector<Tensors>& states);
  // Other weights of the same sizes; the states go on, on their device and in their dtype.
  void set_weights(const std::vector<OptionalTensors>& weights);

 private:
  void copy_states(const std::vector<Tensors>& states);
  void pack(const std::vector<OptionalTensors>& weights);

  mutable std::mutex mutex_;
  at::ScalarType storage_, kernel_type_;  // the dtype of the weights, and that of the tensors in layers_
  std::vector<Layer> layers_;             // without x
};

}  // namespace rnnkern
