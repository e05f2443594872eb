#include "cuda/plan.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "common/schedule.h"
#include "cuda/arch/ampere.h"
#include "cuda/arch/blackwell.h"
#include "cuda/arch/hopper.h"
#include "cuda/arch/turing.h"
#include "cuda/resident_layout.h"

namespace rnnkern::cuda {
namespace {

constexpr int kLeastCluster = 4;   // fewer blocks would each read more weights a step than the exchange costs
constexpr int64_t kLeastRows = 8;  // of the batch in a shard: a product takes 8 rows in the time of one

std::string megabytes(int64_t bytes) {
  const std::string tenths = std::to_string((bytes * 10 + (1 << 19)) >> 20);
  const std::string padded = tenths.size() == 1 ? "0" + tenths : tenths;
  return padded.substr(0, padded.size() - 1) + "." + padded.back() + " MiB";
}

std::string version(int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); }

// A geometry of the resident kernels, or why there is none.
struct Choice {
  Resident resident{};
  std::string refusal;
};

resident::Layout layout_of(const Resident& plan, const Work& work) {
  const int hidden = static_cast<int>(work.hidden), bytes = static_cast<int>(element_bytes(work.storage));
  return {plan, hidden, work.backward ? 1 : work.gates, work.backward ? work.gates : 1, bytes};
}

bool fits(const Resident& plan, const Work& work, const Gpu& gpu) {
  return int64_t{plan.units} * plan.rows <= resident::kItems * resident::kThreads &&
         layout_of(plan, work).bytes <= gpu.shared_bytes;
}

// What neither strategy has kernels for.
std::string resident_refusal(const Work& work) {
  if (work.arithmetic == Arithmetic::kDouble) return "has no kernels for float64";
  if (work.output != work.hidden) return "has no kernels for projections";
  if (work.packed) return "has no kernels for packed sequences";
  return "";
}

// Groups of `blocks` blocks, each with a slice of units and of the batch; no shard is empty.
Resident divide(const Work& work, bool clusters, int64_t blocks, int64_t shards) {
  const int64_t lines = ceil_div(work.hidden, resident::kUnitsAlign);
  const int64_t units = ceil_div(lines, blocks) * resident::kUnitsAlign;
  const int64_t batch = std::max<int64_t>(work.batch, 1), rows = ceil_div(batch, shards);
  return {clusters, static_cast<int>(ceil_div(lines * resident::kUnitsAlign, units)), static_cast<int>(units),
          static_cast<int>(rows), static_cast<int>(ceil_div(batch, rows))};
}

std::string too_large(const Work& work, const std::string& where) {
  const int64_t weights = work.gates * work.hidden * work.output * element_bytes(work.storage);
  return std::string(work.backward ? "backward, " : "") + "the recurrent weights of a direction, " +
         megabytes(weights) + ", the exchange and the states of a batch of " + std::to_string(work.batch) +
         " do not fit into " + where;
}

// The smallest cluster that holds a direction's weights; a shard of the batch for each.
Choice choose_cluster(const Work& work, const Gpu& gpu) {
  if (gpu.cluster_blocks == 0) {
    return {{}, "needs thread block clusters (compute capability 9.0), this GPU has " + version(gpu.capability)};
  }
  if (const std::string reason = resident_refusal(work); !reason.empty()) return {{}, reason};
  for (int blocks = 1; blocks <= gpu.cluster_blocks; blocks *= 2) {
    for (const int64_t rows : {16, 8}) {
      const Resident plan = divide(work, true, blocks, ceil_div(std::max<int64_t>(work.batch, 1), rows));
      if (blocks >= kLeastCluster && fits(plan, work, gpu)) return {plan, ""};
    }
  }
  return {{}, too_large(work, "a cluster of " + std::to_string(gpu.cluster_blocks) + " blocks")};
}

// As few units to a block, and as many shards of the batch, as the multiprocessors allow with one block on each.
Choice choose_persistent(const Work& work, const Gpu& gpu) {
  if (gpu.capability < 80) return {{}, "needs compute capability 8.0, this GPU has " + version(gpu.capability)};
  if (const std::string reason = resident_refusal(work); !reason.empty()) return {{}, reason};
  const int64_t lines = ceil_div(work.hidden, resident::kUnitsAlign);
  for (int64_t lines_each = 1; lines_each <= lines; ++lines_each) {
    const int64_t blocks = ceil_div(lines, lines_each), groups = gpu.multiprocessors / (blocks * work.directions);
    if (groups == 0) continue;
    const int64_t shards = std::min(groups, ceil_div(std::max<int64_t>(work.batch, 1), kLeastRows));
    const Resident plan = divide(work, false, blocks, shards);
    if (fits(plan, work, gpu)) return {plan, ""};
  }
  return {{}, too_large(work, "the shared memory of " + std::to_string(gpu.multiprocessors) + " multiprocessors")};
}

Choice choose(Strategy strategy, const Work& work, const Gpu& gpu) {
  if (strategy == Strategy::kStepwise) return {};
  const auto search = strategy == Strategy::kCluster ? choose_cluster : choose_persistent;
  Choice choice = search(work, gpu);
  if (!work.training || work.backward || !choice.refusal.empty()) return choice;
  Work behind = work;
  behind.backward = true;
  choice.refusal = search(behind, gpu).refusal;
  return choice;
}

// Gates of a thousandth of the device's memory, shared by the directions; those of one step at least.
int64_t chunk_rows(const Work& work, const Gpu& gpu) {
  const int64_t row_bytes = work.gates * work.hidden * element_bytes(compute_type(work.storage)) * work.directions;
  return std::min(work.rows, std::max(work.batch, gpu.memory_bytes / 1024 / row_bytes));
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
  const std::string reason = choose(strategy, work, gpu).refusal;
  return reason.empty() ? std::nullopt : std::optional(reason);
}

Arithmetic arithmetic_of(DType storage, bool allow_tf32) {
  switch (storage) {
    case DType::kDouble:
      return Arithmetic::kDouble;
    case DType::kHalf:
      return Arithmetic::kHalf;
    case DType::kBFloat16:
      return Arithmetic::kBFloat16;
    case DType::kFloat:
      break;
  }
  return allow_tf32 ? Arithmetic::kTf32 : Arithmetic::kFloat;
}

Plan choose_plan(const Work& work, const Gpu& gpu, const std::string& forced) {
  Plan plan{Strategy::kStepwise, work.arithmetic, {}, chunk_rows(work, gpu)};
  if (forced.empty()) return plan;
  plan.strategy = find_strategy(forced);
  const Choice choice = choose(plan.strategy, work, gpu);
  if (!choice.refusal.empty()) {
    throw std::runtime_error("RNNKERN_CUDA_STRATEGY: " + forced + " cannot run this: " + choice.refusal);
  }
  plan.resident = choice.resident;
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
