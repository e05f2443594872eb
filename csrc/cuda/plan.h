// Which way a call takes on a GPU: a pure function of the problem and of recorded facts, without a call to CUDA.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/problem.h"
#include "cuda/gpu.h"

namespace rnnkern::cuda {

// stepwise: a matrix product and an elementwise kernel a time step. cluster: the recurrent weights of a direction stay
// in the shared memory of one thread block cluster. persistent: they stay in the shared memory of the whole GPU.
enum class Strategy { kCluster, kPersistent, kStepwise };

inline constexpr Strategy kStrategies[] = {Strategy::kCluster, Strategy::kPersistent, Strategy::kStepwise};

const char* name(Strategy strategy);

inline constexpr int kPointwiseThreads = 128;  // in a block of the elementwise kernels

// One layer's problem, in the letters of common/problem.h.
struct Work {
  int gates;
  DType storage;
  int64_t batch, hidden, output;
  int directions;
};

struct Plan {
  Strategy strategy;
  int64_t chunk_rows;  // rows of the sequence whose gate pre-activations, or their gradients, exist at once
};

// Why the strategy cannot run this on that GPU; nothing where it can.
std::optional<std::string> refusal(Strategy strategy, const Work& work, const Gpu& gpu);

// The best strategy that is not refused, or `forced`, the name of one, unless that is empty. Throws std::runtime_error
// where `forced` is no strategy's name or is refused.
Plan choose_plan(const Work& work, const Gpu& gpu, const std::string& forced);

// The value of RNNKERN_CUDA_STRATEGY, which is read at every call.
std::string forced_strategy();

// GPUs whose facts are recorded.
const std::vector<Gpu>& recorded_gpus();

// Blocks in the largest cluster of GPUs of that compute capability that have clusters.
int largest_cluster(int capability);

}  // namespace rnnkern::cuda
