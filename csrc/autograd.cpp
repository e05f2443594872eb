#include "autograd.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace rnnkern {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

DifferentiableBackward& differentiable_backward() {
  static DifferentiableBackward function;
  return function;
}

OptionalTensors optional(at::TensorList tensors) {
  OptionalTensors result;
  for (const at::Tensor& tensor : tensors) {
    result.push_back(tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt);
  }
  return result;
}

// Whether a transform of torch.func has to see what is done with the tensor.
bool is_transformed(const at::Tensor& tensor) {
  using Key = c10::DispatchKey;
  return tensor.defined() &&
         tensor.key_set().has_any(c10::DispatchKeySet({Key::FuncTorchBatched, Key::FuncTorchGradWrapper}));
}

struct ForwardCall {
  const std::string& cell;
  const std::optional<at::Tensor>& batch_sizes;
  const Tensors& states;
  const OptionalTensors& weights;
  const Tensors& inputs;  // x, states and weights
};

Tensors defined(const Tensors& tensors) {
  Tensors result;
  std::copy_if(tensors.begin(), tensors.end(), std::back_inserter(result), [](const auto& t) { return t.defined(); });
  return result;
}

class Recurrence : public torch::autograd::Function<Recurrence> {
 public:
  // autograd sees the inputs only in a list of tensors, all of them defined.
  static variable_list forward(AutogradContext* ctx, const ForwardCall* call, at::TensorList) {
    Tensors outputs = rnnkern::forward(call->cell, call->inputs[0], call->batch_sizes, call->states, call->weights,
                                       /*training=*/true);
    const auto first_residual = outputs.begin() + 1 + static_cast<int64_t>(call->states.size());
    variable_list saved{call->batch_sizes.value_or(at::Tensor()), outputs[0]};
    saved.insert(saved.end(), first_residual, outputs.end());
    saved.insert(saved.end(), call->inputs.begin(), call->inputs.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["cell"] = call->cell;
    ctx->set_materialize_grads(false);
    outputs.erase(first_residual, outputs.end());
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_gradients) {
    BackwardCall call;
    call.cell = ctx->saved_data["cell"].toStringRef();
    const Cell& cell = find_cell(call.cell);
    const variable_list saved = ctx->get_saved_variables();
    const auto first_input = saved.begin() + 2 + cell.residuals;
    if (saved[0].defined()) call.batch_sizes = saved[0];
    call.outputs.assign(saved.begin() + 1, first_input);
    call.inputs.assign(first_input, saved.end());
    size_t edge = 0;
    for (const at::Tensor& input : call.inputs) {
      call.wanted.push_back(input.defined() && ctx->needs_input_grad(edge++));
    }
    // An output that was not used has no gradient; each has the size of y or of its initial state.
    for (int i = 0; i < 1 + cell.states; ++i) {
      const at::Tensor& gradient = output_gradients[i];
      call.output_gradients.push_back(gradient.defined() ? gradient
                                                         : at::zeros_like(i == 0 ? call.outputs[0] : call.inputs[i]));
    }
    const bool again = torch::autograd::compute_requires_grad(call.inputs, call.output_gradients) ||
                       std::any_of(output_gradients.begin(), output_gradients.end(), is_transformed);
    const OptionalTensors gradients = again ? differentiable_backward()(call) : run(call, cell);
    variable_list result{at::Tensor()};  // of the ForwardCall
    for (size_t i = 0; i < call.inputs.size(); ++i) {
      if (call.inputs[i].defined()) result.push_back(gradients[i].value_or(at::Tensor()));
    }
    return result;
  }

 private:
  static OptionalTensors run(const BackwardCall& call, const Cell& cell) {
    const auto first_weight = call.inputs.begin() + 1 + cell.states;
    const Tensors states(call.inputs.begin() + 1, first_weight), weights(first_weight, call.inputs.end());
    const Tensors residuals(call.outputs.begin() + 1, call.outputs.end());
    const Tensors dfinal(call.output_gradients.begin() + 1, call.output_gradients.end());
    return rnnkern::backward(call.cell, call.inputs[0], call.batch_sizes, states, optional(weights), call.outputs[0],
                             residuals, call.output_gradients[0], dfinal, call.wanted);
  }
};

}  // namespace

void set_differentiable_backward(DifferentiableBackward function) { differentiable_backward() = std::move(function); }

Tensors recurrence(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                   const Tensors& states, const OptionalTensors& weights) {
  Tensors inputs{x};
  inputs.reserve(1 + states.size() + weights.size());
  inputs.insert(inputs.end(), states.begin(), states.end());
  for (const std::optional<at::Tensor>& weight : weights) inputs.push_back(weight.value_or(at::Tensor()));
  if (!torch::autograd::compute_requires_grad(inputs)) return forward(cell, x, batch_sizes, states, weights, false);
  const ForwardCall call{cell, batch_sizes, states, weights, inputs};
  const Tensors present = defined(inputs);
  return Recurrence::apply(&call, at::TensorList(present));
}

}  // namespace rnnkern
