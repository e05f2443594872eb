// Starting a kernel on a stream, with errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/gpu.h"

namespace rnnkern::cuda {

struct LaunchConfig {
  dim3 grid = {}, block = {};
  size_t shared_bytes = 0;  // dynamic, of each block
  cudaStream_t stream = nullptr;
  unsigned cluster = 1;      // blocks along x that share a cluster; divides grid.x
  bool cooperative = false;  // all blocks run at once, or the launch fails
};

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call that asks would report it again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline bool is_empty(const LaunchConfig& config) {
  return config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0;
}

// Lifts the limits that a kernel has unless it asks for more.
inline void allow(const void* kernel, const LaunchConfig& config) {
  constexpr size_t kSharedBytes = 48 << 10;
  if (config.shared_bytes > kSharedBytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(config.shared_bytes)),
          "cannot reserve shared memory");
  }
  if (config.cluster > unsigned{kPortableCluster}) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cannot use clusters of more than 8 blocks");
  }
}

// What the runtime takes instead of a LaunchConfig.
struct RuntimeConfig {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};

  explicit RuntimeConfig(const LaunchConfig& from) {
    config.gridDim = from.grid;
    config.blockDim = from.block;
    config.dynamicSmemBytes = from.shared_bytes;
    config.stream = from.stream;
    config.attrs = attributes;
    if (from.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = from.cluster;
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (from.cooperative) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
  }
  RuntimeConfig(const RuntimeConfig&) = delete;
  RuntimeConfig& operator=(const RuntimeConfig&) = delete;
};

// Enqueues kernel(arguments...); an empty grid is no work. Throws std::runtime_error when it cannot be started.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchConfig& config,
            const std::type_identity_t<Parameters>&... arguments) {
  if (is_empty(config)) return;
  const auto function = reinterpret_cast<const void*>(kernel);
  allow(function, config);
  const RuntimeConfig runtime(config);
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  check(cudaLaunchKernelExC(&runtime.config, function, pointers), "cannot launch a kernel");
}

// The compute capability that a kernel was compiled for, as the current device has it.
template <class... Parameters>
int capability_of(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "cannot ask for a kernel");
  return attributes.ptxVersion;
}

// Blocks of this configuration that the current device can run at once.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), const LaunchConfig& config) {
  const auto function = reinterpret_cast<const void*>(kernel);
  allow(function, config);
  int count = 0;
  if (config.cluster > 1) {
    const RuntimeConfig runtime(config);
    check(cudaOccupancyMaxActiveClusters(&count, function, &runtime.config), "cannot count resident clusters");
    return count * static_cast<int>(config.cluster);
  }
  const auto threads = static_cast<int>(config.block.x * config.block.y * config.block.z);
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "cannot tell the current device");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cannot count multiprocessors");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, function, threads, config.shared_bytes),
        "cannot count resident blocks");
  return count * multiprocessors;
}

}  // namespace rnnkern::cuda
