// Compute capability 7.5.
#pragma once

#include "cuda/gpu.h"

namespace rnnkern::cuda {

inline const Gpu kT4{"T4", 75, 40, 64 << 10, int64_t{15} << 30, 0, false};

}  // namespace rnnkern::cuda
