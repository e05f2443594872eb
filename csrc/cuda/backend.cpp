#include "cuda/backend.h"

#include "cuda/pointwise.h"
#include "cuda/stepwise.h"

namespace rnnkern::cuda {
namespace {

stepwise::Options options(int cell, DType storage, const Plan& plan) {
  return {pointwise_kernels(cell, storage), storage, plan.chunk_rows};
}

}  // namespace

size_t forward_scratch(int cell, DType storage, const ForwardProblem& problem, const Plan& plan) {
  return stepwise::forward_scratch(problem, options(cell, storage, plan));
}
void forward(int cell, DType storage, const ForwardProblem& problem, const Plan& plan, void* scratch) {
  stepwise::forward(problem, options(cell, storage, plan), scratch);
}
size_t backward_scratch(int cell, DType storage, const BackwardProblem& problem, const Plan& plan) {
  return stepwise::backward_scratch(problem, options(cell, storage, plan));
}
void backward(int cell, DType storage, const BackwardProblem& problem, const Plan& plan, void* scratch) {
  stepwise::backward(problem, options(cell, storage, plan), scratch);
}

}  // namespace rnnkern::cuda
