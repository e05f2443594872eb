// Gradients of one layer for plain eager PyTorch. What has to see through a call, as the transforms of torch.func do,
// differentiates forward and backward of rnn.h in Python instead.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rnn.h"

namespace rnnkern {

// The arguments of backward in rnn.h.
struct BackwardCall {
  std::string cell;
  std::vector<bool> wanted;
  std::optional<at::Tensor> batch_sizes;
  Tensors inputs;            // x, states, weights; undefined where there is no such weight
  Tensors output_gradients;  // dy, dfinal
  Tensors outputs;           // y, residuals
};
using DifferentiableBackward = std::function<OptionalTensors(const BackwardCall&)>;

// What computes the result of backward in rnn.h so that autograd can differentiate it again; set once, before any call
// of recurrence.
void set_differentiable_backward(DifferentiableBackward function);

// forward of rnn.h without the residuals, [y, *final states]; part of autograd's graph where gradients are enabled and
// a tensor requires one.
Tensors recurrence(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                   const Tensors& states, const OptionalTensors& weights);

}  // namespace rnnkern
