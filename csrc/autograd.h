// Gradients of one layer for eager PyTorch, torch.compile and torch.export. The transforms of torch.func differentiate
// forward and backward in Python instead.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rnn.h"

namespace rnnkern {

// The arguments of backward in rnn.h.
struct BackwardCall {
  Layer layer;
  Tensors outputs;           // y, residuals
  Tensors output_gradients;  // dy, dfinal, dstates
  std::vector<bool> wanted;
};
using DifferentiableBackward = std::function<OptionalTensors(const BackwardCall&)>;

// What computes the result of backward in rnn.h so that autograd can differentiate it again; set once, before any call
// of recurrence.
void set_differentiable_backward(DifferentiableBackward function);

// forward of rnn.h without the residuals; part of autograd's graph where gradients are enabled and a tensor requires one.
Tensors recurrence(const Layer& layer, bool all_states);

}  // namespace rnnkern
