// Compute capability 10.0.
#pragma once

#include "cuda/gpu.h"

namespace rnnkern::cuda {

inline const Gpu kB200{"B200", 100, 148, 227 << 10, int64_t{180} << 30, 16, false};

}  // namespace rnnkern::cuda
