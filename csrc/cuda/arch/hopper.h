// Compute capability 9.0. A cluster of 16 blocks has to be asked for as non-portable.
#pragma once

#include "cuda/gpu.h"

namespace rnnkern::cuda {

inline const Gpu kH100{"H100", 90, 132, 227 << 10, int64_t{80} << 30, 16, false};
inline const Gpu kH200{"H200", 90, 132, 227 << 10, int64_t{140} << 30, 16, true};

}  // namespace rnnkern::cuda
