// What this build and this machine can run, and what a call would do.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rnnkern {

// Instruction sets that this CPU can run, the best first, and the one that the next call will use.
std::vector<std::string> backends();
std::string active_backend();

// The CUDA release that this build's kernels were compiled with, as "13.0"; none without CUDA.
std::optional<std::string> cuda_version();

// GPUs whose facts are recorded, for explain.
std::vector<std::string> gpus();

// What a forward call would do, as terms and their values in the order in which to read them. batch_sizes has the rows
// of each time step. device is "cpu", "cuda" for the current GPU, or one of gpus(). Throws std::runtime_error on an
// unknown cell or device, or a strategy forced that cannot run.
using Explanation = std::vector<std::pair<std::string, std::string>>;
Explanation explain(const std::string& cell, at::ScalarType dtype, const std::vector<int64_t>& batch_sizes,
                    int64_t input, int64_t hidden, int64_t projection, int directions, const std::string& device);

}  // namespace rnnkern
