#include "cuda/backend.h"

#include "cuda/fused.h"
#include "cuda/pointwise.h"
#include "cuda/resident.h"
#include "cuda/stepwise.h"

namespace rnnkern::cuda {
namespace {

PassOptions pass_options(int cell, DType storage, const Plan& plan) {
  return {pointwise_kernels(cell, storage), storage, plan.chunk_rows};
}

bool launches_steps(const Plan& plan) {
  return plan.strategy == Strategy::kStepwise || plan.strategy == Strategy::kFused;
}

stepwise::Options stepwise_options(int cell, DType storage, const Plan& plan) {
  stepwise::Options options{pass_options(cell, storage, plan), {}};
  if (plan.strategy == Strategy::kFused) options.fused = fused::kernels(cell, plan.arithmetic);
  return options;
}

resident::Options resident_options(int cell, DType storage, const Plan& plan) {
  return {pass_options(cell, storage, plan), plan.resident, plan.arithmetic, resident::kernels(cell, plan.arithmetic)};
}

}  // namespace

size_t forward_scratch(int cell, DType storage, const ForwardProblem& problem, const Plan& plan) {
  if (launches_steps(plan)) {
    return stepwise::forward_scratch(problem, stepwise_options(cell, storage, plan));
  }
  return resident::forward_scratch(problem, resident_options(cell, storage, plan));
}

void forward(int cell, DType storage, const ForwardProblem& problem, const Plan& plan, void* scratch) {
  if (launches_steps(plan)) {
    return stepwise::forward(problem, stepwise_options(cell, storage, plan), scratch);
  }
  resident::forward(problem, resident_options(cell, storage, plan), scratch);
}

size_t backward_scratch(int cell, DType storage, const BackwardProblem& problem, const Plan& plan) {
  if (launches_steps(plan)) {
    return stepwise::backward_scratch(problem, stepwise_options(cell, storage, plan));
  }
  return resident::backward_scratch(problem, resident_options(cell, storage, plan));
}

void backward(int cell, DType storage, const BackwardProblem& problem, const Plan& plan, void* scratch) {
  if (launches_steps(plan)) {
    return stepwise::backward(problem, stepwise_options(cell, storage, plan), scratch);
  }
  resident::backward(problem, resident_options(cell, storage, plan), scratch);
}

}  // namespace rnnkern::cuda
