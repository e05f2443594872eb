#include "autograd.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "operators.h"

namespace rnnkern {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

DifferentiableBackward& differentiable_backward() {
  static DifferentiableBackward function;
  return function;
}

// Whether a transform of torch.func, or is_grads_batched of torch.autograd.grad, has to see what is done with the tensor.
bool is_transformed(const at::Tensor& tensor) {
  using Key = c10::DispatchKey;
  return tensor.defined() && tensor.key_set().has_any(
                                 c10::DispatchKeySet({Key::FuncTorchBatched, Key::FuncTorchGradWrapper, Key::Batched}));
}

// x, states and weights; undefined where there is no such weight.
Tensors inputs_of(const Layer& layer) {
  Tensors inputs{layer.x};
  inputs.reserve(1 + layer.states.size() + layer.weights.size());
  inputs.insert(inputs.end(), layer.states.begin(), layer.states.end());
  for (const std::optional<at::Tensor>& weight : layer.weights) inputs.push_back(weight.value_or(at::Tensor()));
  return inputs;
}

Layer layer_of(const Cell& cell, const std::optional<at::Tensor>& sizes, const Tensors& inputs) {
  const auto first_weight = inputs.begin() + 1 + cell.states;
  Layer layer{cell.name, inputs[0], sizes, {inputs.begin() + 1, first_weight}, {}};
  std::transform(first_weight, inputs.end(), std::back_inserter(layer.weights),
                 [](const at::Tensor& t) { return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt; });
  return layer;
}

Tensors defined(const Tensors& tensors) {
  Tensors result;
  std::copy_if(tensors.begin(), tensors.end(), std::back_inserter(result), [](const auto& t) { return t.defined(); });
  return result;
}

struct ForwardCall {
  const Layer& layer;
  const Tensors& inputs;  // of the layer
  bool all_states;
};

class Recurrence : public torch::autograd::Function<Recurrence> {
 public:
  // autograd sees the inputs only in a list of tensors, all of them defined.
  static variable_list forward(AutogradContext* ctx, const ForwardCall* call, at::TensorList) {
    const Layer& layer = call->layer;
    Tensors outputs = any_forward(layer, /*training=*/true, call->all_states);
    const auto first_residual = outputs.end() - find_cell(layer.cell).residuals;
    variable_list saved{layer.sizes.value_or(at::Tensor()), outputs[0]};
    saved.insert(saved.end(), first_residual, outputs.end());
    saved.insert(saved.end(), call->inputs.begin(), call->inputs.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["cell"] = layer.cell;
    ctx->set_materialize_grads(false);
    outputs.erase(first_residual, outputs.end());
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_gradients) {
    const Cell& cell = find_cell(ctx->saved_data["cell"].toStringRef());
    const variable_list saved = ctx->get_saved_variables();
    const auto first_input = saved.begin() + 2 + cell.residuals;
    const Tensors inputs(first_input, saved.end());
    BackwardCall call;
    call.layer = layer_of(cell, saved[0].defined() ? std::optional<at::Tensor>(saved[0]) : std::nullopt, inputs);
    call.outputs.assign(saved.begin() + 1, first_input);
    size_t edge = 0;
    for (const at::Tensor& input : inputs) {
      call.wanted.push_back(input.defined() && ctx->needs_input_grad(edge++));
    }
    fill_output_gradients(call, cell, output_gradients);
    const bool again = torch::autograd::compute_requires_grad(inputs, call.output_gradients) ||
                       std::any_of(output_gradients.begin(), output_gradients.end(), is_transformed);
    const OptionalTensors gradients = again ? differentiable_backward()(call) : run(call, cell);
    variable_list result{at::Tensor()};  // of the ForwardCall
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].defined()) result.push_back(gradients[i].value_or(at::Tensor()));
    }
    return result;
  }

 private:
  // An output that was not used has no gradient: zeros of the size of y, of an initial state, or of another of the states
  // after every step. If none of the last was used, there are no gradients of them.
  static void fill_output_gradients(BackwardCall& call, const Cell& cell, const variable_list& output_gradients) {
    const auto first_dstates = output_gradients.begin() + 1 + cell.states;
    const auto used = std::find_if(first_dstates, output_gradients.end(), [](const auto& t) { return t.defined(); });
    Tensors likes{call.outputs[0]};
    likes.insert(likes.end(), call.layer.states.begin(), call.layer.states.end());
    if (used != output_gradients.end()) likes.insert(likes.end(), output_gradients.end() - first_dstates, *used);
    for (size_t i = 0; i < likes.size(); ++i) {
      const at::Tensor& gradient = output_gradients[i];
      call.output_gradients.push_back(gradient.defined() ? gradient : at::zeros_like(likes[i]));
    }
  }

  static OptionalTensors run(const BackwardCall& call, const Cell& cell) {
    const auto first_residual = call.outputs.begin() + 1;
    const auto first_dfinal = call.output_gradients.begin() + 1, first_dstates = first_dfinal + cell.states;
    return any_backward(call.layer, call.outputs[0], {first_residual, call.outputs.end()}, call.output_gradients[0],
                        {first_dfinal, first_dstates}, {first_dstates, call.output_gradients.end()}, call.wanted);
  }
};

}  // namespace

void set_differentiable_backward(DifferentiableBackward function) { differentiable_backward() = std::move(function); }

Tensors recurrence(const Layer& layer, bool all_states) {
  if (at::GradMode::is_enabled()) {
    const Tensors inputs = inputs_of(layer);
    if (torch::autograd::compute_requires_grad(inputs)) {
      const ForwardCall call{layer, inputs, all_states};
      const Tensors present = defined(inputs);
      return Recurrence::apply(&call, at::TensorList(present));
    }
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return any_forward(layer, /*training=*/false, all_states);
}

}  // namespace rnnkern
