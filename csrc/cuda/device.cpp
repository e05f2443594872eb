#include "cuda/device.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/backend.h"
#include "cuda/pointwise.h"

namespace rnnkern::cuda {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

Gpu describe(int device) {
  const cudaDeviceProp& properties = *at::cuda::getDeviceProperties(device);
  Gpu gpu;
  gpu.name = properties.name;
  gpu.capability = properties.major * 10 + properties.minor;
  gpu.multiprocessors = properties.multiProcessorCount;
  gpu.shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  gpu.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  const bool clusters = attribute(cudaDevAttrClusterLaunch, device) != 0;
  gpu.cluster_blocks = clusters ? largest_cluster(gpu.capability) : 0;
  gpu.measured = was_measured(gpu);
  // Code compiled for older devices has their instructions only.
  gpu.capability = std::min(gpu.capability, compiled_capability());
  if (gpu.capability < kClusterCapability) gpu.cluster_blocks = 0;
  return gpu;
}

// The stream beside the current one is the same at every call: cuBLAS keeps a workspace for each stream that a thread
// has ever used it on.
at::cuda::CUDAStream side_stream(const at::cuda::CUDAStream& current) {
  thread_local std::map<std::pair<c10::DeviceIndex, c10::StreamId>, at::cuda::CUDAStream> streams;
  const std::pair key(current.device_index(), current.id());
  if (const auto found = streams.find(key); found != streams.end()) return found->second;
  at::cuda::CUDAStream side = at::cuda::getStreamFromPool();
  while (side == current) side = at::cuda::getStreamFromPool();
  streams.emplace(key, side);
  return side;
}

// A second stream beside the current one, from its construction to its destruction.
class Fork {
 public:
  Fork() : first_(at::cuda::getCurrentCUDAStream()), second_(side_stream(first_)) {
    at::cuda::CUDAEvent event;
    event.record(first_);
    event.block(second_);
  }
  ~Fork() {
    try {
      at::cuda::CUDAEvent event;
      event.record(second_);
      event.block(first_);
    } catch (const std::exception&) {  // the device is lost, and whoever asks it next is told so
    }
  }
  Fork(const Fork&) = delete;
  Fork& operator=(const Fork&) = delete;

  at::cuda::CUDAStream stream(int direction) const { return direction == 0 ? first_ : second_; }

 private:
  at::cuda::CUDAStream first_, second_;
};

}  // namespace

int build_version() { return CUDART_VERSION; }

bool serves(std::string_view device_type) { return device_type == "cuda"; }

const Gpu& current_gpu() {
  static std::mutex mutex;
  static std::map<int, Gpu> known;
  const int device = at::cuda::current_device();
  const std::lock_guard lock(mutex);
  const auto found = known.find(device);
  return found != known.end() ? found->second : known.emplace(device, describe(device)).first->second;
}

cudaStream_t current_stream() { return at::cuda::getCurrentCUDAStream(); }

void run_directions(int directions, const std::function<bool(int)>& advance) {
  if (directions == 1) {
    while (advance(0)) {
    }
    return;
  }
  const Fork fork;
  for (bool going[2] = {true, true}; going[0] || going[1];) {
    for (int d = 0; d < 2; ++d) {
      const c10::cuda::CUDAStreamGuard guard(fork.stream(d));
      if (going[d]) going[d] = advance(d);
    }
  }
}

}  // namespace rnnkern::cuda
