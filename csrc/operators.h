// The passes of rnn.h for tensors of any kind. Plain tensors go straight to the kernels; what has to see through a call,
// as torch.compile, torch.export and fake tensors do, sees operators of torch (registered in library.cpp).
#pragma once

#include <ATen/core/List.h>

#include <optional>
#include <string>
#include <vector>

#include "rnn.h"

namespace rnnkern {

// rnnkern::layer and rnnkern::layer_forward: forward of rnn.h, not training and training. rnnkern::layer_backward:
// backward of rnn.h, with only those gradients that are wanted and exist. weights are without gaps, which could not be
// traced: places says where among the 5 of each direction each stands.
using ForwardOperator = Tensors(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                                at::TensorList states, at::TensorList weights, at::IntArrayRef places, bool all_states);
using BackwardOperator = Tensors(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& sizes,
                                 at::TensorList states, at::TensorList weights, at::IntArrayRef places,
                                 const at::Tensor& y, at::TensorList residuals, const at::Tensor& dy,
                                 at::TensorList dfinal, at::TensorList dstates, const c10::List<bool>& wanted);

// Whether kernels may be given a layer's tensors: no mode has to see what is done with them, and none stands for another.
bool is_plain(const Layer& layer);

Tensors any_forward(const Layer& layer, bool training, bool all_states);
OptionalTensors any_backward(const Layer& layer, const at::Tensor& y, const Tensors& residuals, const at::Tensor& dy,
                             const Tensors& dfinal, const Tensors& dstates, const std::vector<bool>& wanted);

}  // namespace rnnkern
