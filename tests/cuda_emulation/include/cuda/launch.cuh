// csrc/cuda/launch.cuh for a host without a GPU: a launch has ended when it returns.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "emulation.h"

namespace rnnkern::cuda {

struct LaunchConfig {
  dim3 grid = {}, block = {};
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  unsigned cluster = 1;
  bool cooperative = false;
};

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchConfig& config,
            const std::type_identity_t<Parameters>&... arguments) {
  const auto thread = [&] { kernel(arguments...); };
  emulation::run({config.grid, config.block, config.shared_bytes, config.cluster, config.cooperative}, thread);
}

template <class... Parameters>
int capability_of(void (*)(Parameters...)) {
  return 90;
}

template <class... Parameters>
int resident_blocks(void (*)(Parameters...), const LaunchConfig& config) {
  return emulation::resident_blocks(
      {config.grid, config.block, config.shared_bytes, config.cluster, config.cooperative});
}

}  // namespace rnnkern::cuda
