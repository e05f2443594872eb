// Which way a call takes on a GPU: a pure function of the problem and of recorded facts, without a call to CUDA.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/problem.h"
#include "cuda/gpu.h"

namespace rnnkern::cuda {

// stepwise: a matrix product and an elementwise kernel a time step. fused: one kernel for both. cluster: the recurrent
// weights of a direction stay in the registers and shared memory of one thread block cluster. persistent: in those of the
// whole GPU.
enum class Strategy { kCluster, kPersistent, kFused, kStepwise };

inline constexpr Strategy kStrategies[] = {Strategy::kCluster, Strategy::kPersistent, Strategy::kFused,
                                           Strategy::kStepwise};

const char* name(Strategy strategy);

inline constexpr int kPointwiseThreads = 128;  // in a block of the elementwise kernels

// How operands are multiplied: 16-bit types and TF32 by tensor cores, float32 and float64 in their own precision.
enum class Arithmetic { kHalf, kBFloat16, kTf32, kFloat, kDouble };

// Of cluster and persistent: a group of blocks keeps the weights of a direction, each block those of `units` hidden units,
// and runs `rows` rows of the batch, a shard.
struct Resident {
  bool clusters;  // a group is a thread block cluster; else all groups run at once
  int blocks, units, rows, shards;
};

// One layer's problem, in the letters of common/problem.h.
struct Work {
  int gates, states;
  DType storage;
  Arithmetic arithmetic;
  int64_t rows, batch, hidden;
  int directions;
  bool projected;  // also where the projection is as wide as the hidden units
  bool packed;     // the number of rows changes from step to step
  bool training;   // a forward call that is refused where its backward would be
  bool backward;   // what is exchanged and multiplied is the gradient of the gates, not h
};

struct Plan {
  Strategy strategy;
  Arithmetic arithmetic;
  Resident resident;   // of cluster and persistent
  int64_t chunk_rows;  // rows of the sequence whose gate pre-activations, or their gradients, exist at once
};

// Why the plan does not choose that strategy by itself, even where it would be faster than stepwise; nothing where it does.
std::optional<std::string> caution(Strategy strategy, const Work& work, const Gpu& gpu);

// Why the strategy cannot run this on that GPU; nothing where it can.
std::optional<std::string> refusal(Strategy strategy, const Work& work, const Gpu& gpu);

// The arithmetic for a type, with TF32 where PyTorch allows it.
Arithmetic arithmetic_of(DType storage, bool allow_tf32);

// `forced`, the name of a strategy, unless that is empty; throws std::runtime_error where it is none or is refused. Else
// the strategy that takes the least time by a model, where that was measured for the GPU and the arithmetic; stepwise,
// which runs everywhere, where it was not.
Plan choose_plan(const Work& work, const Gpu& gpu, const std::string& forced);

// The value of RNNKERN_CUDA_STRATEGY, which is read at every call.
std::string forced_strategy();

// GPUs whose facts are recorded.
const std::vector<Gpu>& recorded_gpus();

// Whether strategies were timed on a whole GPU of that kind; its name is as the driver gives it.
bool was_measured(const Gpu& gpu);

// Blocks in the largest cluster of GPUs of that compute capability that have clusters.
int largest_cluster(int capability);

}  // namespace rnnkern::cuda
