// Stands in for csrc/cuda/device.cpp and for the CPU side: a GPU whose memory is the CPU's, so that CPU tensors are run
// by the CUDA side.
#include "cuda/device.h"

#include <stdexcept>

#include "cpu/backend.h"
#include "cuda/backend.h"

namespace rnnkern::cuda {

int build_version() { return 13000; }

bool serves(std::string_view device_type) { return device_type == "cpu"; }

// So little memory that sequences fall into several chunks.
const Gpu& current_gpu() {
  static const Gpu gpu{"emulation", 90, 8, 160 << 10, 8 << 20, 16, false};
  return gpu;
}

cudaStream_t current_stream() { return nullptr; }

void run_directions(int directions, const std::function<bool(int)>& advance) {
  for (bool going[2] = {true, directions > 1}; going[0] || going[1];) {
    for (int d = 0; d < directions; ++d) {
      if (going[d]) going[d] = advance(d);
    }
  }
}

}  // namespace rnnkern::cuda

namespace rnnkern::cpu {

std::vector<const Backend*> supported_backends() { return {}; }
const Backend& active_backend() { throw std::logic_error("the emulation runs no CPU kernels"); }
int choose_threads(double) { return 1; }

}  // namespace rnnkern::cpu
