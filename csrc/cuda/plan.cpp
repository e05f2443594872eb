#include "cuda/plan.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "cuda/arch/ampere.h"
#include "cuda/arch/blackwell.h"
#include "cuda/arch/hopper.h"
#include "cuda/arch/turing.h"

namespace rnnkern::cuda {
namespace {

constexpr int kPortableCluster = 8;

std::string megabytes(int64_t bytes) {
  const std::string tenths = std::to_string((bytes * 10 + (1 << 19)) >> 20);
  const std::string padded = tenths.size() == 1 ? "0" + tenths : tenths;
  return padded.substr(0, padded.size() - 1) + "." + padded.back() + " MiB";
}

std::string version(int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); }

// What does not fit into `blocks` blocks' shared memory, of which a part is needed for the states and their exchange.
std::optional<std::string> too_large(const Work& work, const Gpu& gpu, int blocks, const char* where) {
  const int64_t weights = work.gates * work.hidden * work.output * element_bytes(work.storage);
  const int64_t room = blocks * gpu.shared_bytes / 100 * 85;
  if (weights <= room) return std::nullopt;
  return "the recurrent weights of a direction take " + megabytes(weights) + ", " + where + " has room for " +
         megabytes(room);
}

std::optional<std::string> cluster_refusal(const Work& work, const Gpu& gpu) {
  if (gpu.cluster_blocks == 0) {
    return "needs thread block clusters (compute capability 9.0), this GPU has " + version(gpu.capability);
  }
  if (const auto reason = too_large(work, gpu, gpu.cluster_blocks, "the largest cluster")) return reason;
  return "has no kernels in this version";
}

std::optional<std::string> persistent_refusal(const Work& work, const Gpu& gpu) {
  if (gpu.capability < 80) return "needs compute capability 8.0, this GPU has " + version(gpu.capability);
  if (const auto reason = too_large(work, gpu, gpu.multiprocessors, "all shared memory")) return reason;
  return "has no kernels in this version";
}

// A thousandth of the device's memory, shared by the directions; no less than a row.
int64_t chunk_rows(const Work& work, const Gpu& gpu) {
  const int64_t row_bytes = work.gates * work.hidden * element_bytes(compute_type(work.storage)) * work.directions;
  return std::max<int64_t>(1, gpu.memory_bytes / 1024 / std::max<int64_t>(1, row_bytes));
}

Strategy find_strategy(const std::string& wanted) {
  std::string known;
  for (const Strategy strategy : kStrategies) {
    if (wanted == name(strategy)) return strategy;
    known += (known.empty() ? "" : ", ") + std::string(name(strategy));
  }
  throw std::runtime_error("RNNKERN_CUDA_STRATEGY: expected one of " + known + ", got '" + wanted + "'");
}

}  // namespace

const char* name(Strategy strategy) {
  switch (strategy) {
    case Strategy::kCluster:
      return "cluster";
    case Strategy::kPersistent:
      return "persistent";
    case Strategy::kStepwise:
      break;
  }
  return "stepwise";
}

std::optional<std::string> refusal(Strategy strategy, const Work& work, const Gpu& gpu) {
  if (strategy == Strategy::kCluster) return cluster_refusal(work, gpu);
  if (strategy == Strategy::kPersistent) return persistent_refusal(work, gpu);
  return std::nullopt;
}

Plan choose_plan(const Work& work, const Gpu& gpu, const std::string& forced) {
  Plan plan{Strategy::kStepwise, chunk_rows(work, gpu)};
  if (forced.empty()) return plan;
  plan.strategy = find_strategy(forced);
  if (const auto reason = refusal(plan.strategy, work, gpu)) {
    throw std::runtime_error("RNNKERN_CUDA_STRATEGY: " + forced + " cannot run this: " + *reason);
  }
  return plan;
}

std::string forced_strategy() {
  const char* value = std::getenv("RNNKERN_CUDA_STRATEGY");
  return value == nullptr ? "" : value;
}

const std::vector<Gpu>& recorded_gpus() {
  static const std::vector<Gpu> gpus{kT4, kA100, kRtx4090, kH100, kH200, kB200};
  return gpus;
}

int largest_cluster(int capability) {
  int blocks = kPortableCluster;
  for (const Gpu& gpu : recorded_gpus()) {
    if (gpu.capability == capability) blocks = gpu.cluster_blocks;
  }
  return blocks;
}

}  // namespace rnnkern::cuda
