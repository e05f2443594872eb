// Stands in for the CUDA side in a build without it.
#include <stdexcept>

#include "cuda/backend.h"

namespace rnnkern::cuda {
namespace {

[[noreturn]] void refuse() { throw std::logic_error("this build has no CUDA kernels"); }

}  // namespace

int build_version() { return 0; }
bool serves(std::string_view) { return false; }
const Gpu& current_gpu() { refuse(); }
size_t forward_scratch(int, DType, const ForwardProblem&, const Plan&) { refuse(); }
void forward(int, DType, const ForwardProblem&, const Plan&, void*) { refuse(); }
size_t backward_scratch(int, DType, const BackwardProblem&, const Plan&) { refuse(); }
void backward(int, DType, const BackwardProblem&, const Plan&, void*) { refuse(); }

}  // namespace rnnkern::cuda
