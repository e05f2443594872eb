// Compute capability 8.x: Ampere and Ada.
#pragma once

#include "cuda/gpu.h"

namespace rnnkern::cuda {

inline const Gpu kA100{"A100", 80, 108, 163 << 10, int64_t{80} << 30, 0, false};
inline const Gpu kRtx4090{"RTX 4090", 89, 128, 99 << 10, int64_t{24} << 30, 0, false};

}  // namespace rnnkern::cuda
