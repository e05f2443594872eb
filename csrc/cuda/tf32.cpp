#include <ATen/Context.h>

#include "cuda/backend.h"

namespace rnnkern::cuda {

bool allow_tf32() { return at::globalContext().allowTF32CuDNN(at::Float32Op::RNN); }

}  // namespace rnnkern::cuda
