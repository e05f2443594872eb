#include "cuda/plan.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "common/schedule.h"
#include "cuda/arch/ampere.h"
#include "cuda/arch/blackwell.h"
#include "cuda/arch/hopper.h"
#include "cuda/arch/turing.h"
#include "cuda/fused_layout.h"
#include "cuda/resident_layout.h"

namespace rnnkern::cuda {
namespace {

// The model of an H200, in nanoseconds and bytes a nanosecond. Exchanges and rates are from what was measured there
// (benchmarks/results/gpu-nvidia-h200-*); products, cells and a call are estimates, and launches half of what was seen.
constexpr double kExchangeThroughL2 = 850, kL2Rate = 120;  // of a multiprocessor
constexpr double kExchangeInCluster = 250, kClusterRate = 29;
constexpr double kProduct = 0.85;  // 16 gates by 8 rows of the batch by 32 bytes of depth
constexpr double kSharedRate = 190;
constexpr double kCells = 250, kMoreCells = 200;  // of a group of rows: the first of a step, and each further one
constexpr double kLaunches = 8000;                // of a direction's step of the strategy stepwise, by the host
constexpr double kCall = 25000;                   // what the others do once a call: clear, pack, start

constexpr int kTensorCoreCapability = 80;  // from which on tensor cores take every type
constexpr int kLeastCluster = 2;           // the hardware runs no smaller one
constexpr int kMostWaves = 4;              // of clusters one after the other

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
  double time = 0;  // nanoseconds of a step
};

resident::Layout layout_of(const Resident& plan, const Work& work) {
  const int gates = work.backward ? 1 : work.gates, segments = work.backward ? work.gates : 1;
  return {plan, work.arithmetic, gates, segments, work.states};
}

bool fits(const Resident& plan, const Work& work, const Gpu& gpu) {
  const resident::Layout layout = layout_of(plan, work);
  return layout.valid() && layout.bytes <= gpu.shared_bytes;
}

// What a block takes for a step.
double block_time(const Resident& plan, const Work& work) {
  const resident::Layout layout = layout_of(plan, work);
  const resident::Held own = resident::held(plan.clusters, layout.gates, work.arithmetic);
  const double columns = layout.groups * layout.group_rows / double(resident::kColumns);
  const double products = work.arithmetic == Arithmetic::kFloat ? 3 : 1;
  const double received = double(plan.rows) * layout.words * resident::kWordBytes;
  const double swept = double(layout.chunks_shared) * own.registers * layout.tiles_each * resident::kWarps * 32 *
                       resident::kWordBytes * layout.groups;
  const double exchange =
      plan.clusters ? kExchangeInCluster + received / kClusterRate : kExchangeThroughL2 + received / kL2Rate;
  return exchange + kProduct * products * layout.tiles * layout.chunks * own.registers * columns + swept / kSharedRate +
         kCells + kMoreCells * (layout.groups - 1);
}

std::string needs_capability(int needed, const Gpu& gpu) {
  return "needs compute capability " + version(needed) + ", this GPU has " + version(gpu.capability);
}

// What no strategy but stepwise has kernels for.
std::string common_refusal(const Work& work) {
  if (work.arithmetic == Arithmetic::kDouble) return "has no kernels for float64";
  if (work.projected) return "has no kernels for projections";
  return "";
}

std::string resident_refusal(const Work& work) {
  if (work.packed) return "has no kernels for packed sequences";
  return common_refusal(work);
}

std::string fused_refusal(const Work& work, const Gpu& gpu) {
  if (gpu.capability < kTensorCoreCapability) return needs_capability(kTensorCoreCapability, gpu);
  if (work.arithmetic == Arithmetic::kFloat) return "has no kernels for float32 without TF32";
  constexpr int64_t kMostRows = fused::kMostRowBlocks * fused::kMostWarpsAcross * fused::kRows;
  if (work.batch > kMostRows) return "takes a batch of at most " + std::to_string(kMostRows);
  return common_refusal(work);
}

// Blocks with so many units each, and shards of the batch of which none is empty.
Resident divide(const Work& work, bool clusters, int64_t units, int64_t blocks, int64_t shards) {
  const int64_t batch = std::max<int64_t>(work.batch, 1), rows = ceil_div(batch, shards);
  return {clusters, static_cast<int>(blocks), static_cast<int>(units), static_cast<int>(rows),
          static_cast<int>(ceil_div(batch, rows))};
}

// The fastest of the divisions that fit; none has no blocks.
class Fastest {
 public:
  Fastest(const Work& work, const Gpu& gpu) : work_(work), gpu_(gpu) {}

  void consider(const Resident& plan, double waves = 1) {
    if (!fits(plan, work_, gpu_)) return;
    const double time = waves * block_time(plan, work_);
    if (plan_.blocks > 0 && time >= time_) return;
    plan_ = plan;
    time_ = time;
  }
  const Resident& plan() const { return plan_; }
  double time() const { return time_; }

 private:
  const Work& work_;
  const Gpu& gpu_;
  Resident plan_{};
  double time_ = 0;
};

std::string too_large(const Work& work, const std::string& where) {
  const int64_t weights = work.gates * work.hidden * work.hidden * element_bytes(work.storage);
  return std::string(work.backward ? "backward, " : "") + "the recurrent weights of a direction, " +
         megabytes(weights) + ", the exchange and the states of a batch of " + std::to_string(work.batch) +
         " do not fit into " + where;
}

// A cluster for each shard of the batch and direction.
Choice choose_cluster(const Work& work, const Gpu& gpu) {
  if (gpu.cluster_blocks == 0) {
    return {{}, "needs thread block clusters (compute capability 9.0), this GPU has " + version(gpu.capability)};
  }
  if (const std::string reason = resident_refusal(work); !reason.empty()) return {{}, reason};
  constexpr int64_t kAlign = resident::units_align(true);
  const int64_t most = int64_t{gpu.cluster_blocks} * resident::most_units(true);
  if (work.hidden > most) return {{}, "takes at most " + std::to_string(most) + " hidden units"};
  Fastest fastest(work, gpu);
  for (int64_t blocks = kLeastCluster; blocks <= gpu.cluster_blocks; blocks *= 2) {
    const int64_t units = ceil_div(ceil_div(work.hidden, blocks), kAlign) * kAlign;
    const int64_t groups = gpu.clusters(static_cast<int>(blocks));
    for (int64_t waves = 1; waves <= kMostWaves; ++waves) {
      const int64_t shards = groups * waves / work.directions;
      if (shards == 0) continue;
      const Resident plan = divide(work, true, units, blocks, std::min(shards, std::max<int64_t>(work.batch, 1)));
      fastest.consider(plan, static_cast<double>(ceil_div(int64_t{plan.shards} * work.directions, groups)));
    }
  }
  if (fastest.plan().blocks > 0) return {fastest.plan(), "", fastest.time()};
  return {{}, too_large(work, "a cluster of " + std::to_string(gpu.cluster_blocks) + " blocks")};
}

// All blocks at once, one on a multiprocessor.
Choice choose_persistent(const Work& work, const Gpu& gpu) {
  if (gpu.capability < kTensorCoreCapability) return {{}, needs_capability(kTensorCoreCapability, gpu)};
  if (const std::string reason = resident_refusal(work); !reason.empty()) return {{}, reason};
  constexpr int64_t kAlign = resident::units_align(false);
  Fastest fastest(work, gpu);
  const int64_t most_units = std::min<int64_t>(work.hidden + kAlign - 1, resident::most_units(false));
  for (int64_t units = kAlign; units <= most_units; units += kAlign) {
    const int64_t blocks = ceil_div(work.hidden, units), groups = gpu.multiprocessors / (blocks * work.directions);
    if (groups == 0) continue;
    fastest.consider(divide(work, false, units, blocks, std::min(groups, std::max<int64_t>(work.batch, 1))));
  }
  if (fastest.plan().blocks > 0) return {fastest.plan(), "", fastest.time()};
  return {{},
          too_large(work,
                    "the registers and shared memory of " + std::to_string(gpu.multiprocessors) + " multiprocessors")};
}

Choice choose(Strategy strategy, const Work& work, const Gpu& gpu) {
  if (strategy == Strategy::kStepwise) return {};
  if (strategy == Strategy::kFused) return {{}, fused_refusal(work, gpu)};
  return strategy == Strategy::kCluster ? choose_cluster(work, gpu) : choose_persistent(work, gpu);
}

// The same, refused where the backward call of a training step would be.
Choice choose_throughout(Strategy strategy, const Work& work, const Gpu& gpu) {
  Choice choice = choose(strategy, work, gpu);
  if (!work.training || work.backward || !choice.refusal.empty()) return choice;
  Work behind = work;
  behind.backward = true;
  choice.refusal = choose(strategy, behind, gpu).refusal;
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
    case Strategy::kFused:
      return "fused";
    case Strategy::kStepwise:
      break;
  }
  return "stepwise";
}

std::optional<std::string> caution(Strategy strategy, const Work& work, const Gpu& gpu) {
  if (strategy == Strategy::kFused) return "not run on a GPU yet";
  if (!gpu.measured) return "not measured on such a GPU yet";
  if (work.arithmetic == Arithmetic::kFloat) return "not known yet to be as exact as torch.nn without TF32";
  return std::nullopt;
}

std::optional<std::string> refusal(Strategy strategy, const Work& work, const Gpu& gpu) {
  const std::string reason = choose_throughout(strategy, work, gpu).refusal;
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
  if (!forced.empty()) {
    plan.strategy = find_strategy(forced);
    const Choice choice = choose_throughout(plan.strategy, work, gpu);
    if (!choice.refusal.empty()) {
      throw std::runtime_error("RNNKERN_CUDA_STRATEGY: " + forced + " cannot run this: " + choice.refusal);
    }
    plan.resident = choice.resident;
  } else {
    const double steps = static_cast<double>(work.rows) / static_cast<double>(std::max<int64_t>(work.batch, 1));
    double best = steps * kLaunches * work.directions;
    for (const Strategy strategy : {Strategy::kCluster, Strategy::kPersistent}) {
      if (caution(strategy, work, gpu)) continue;
      const Choice choice = choose(strategy, work, gpu);
      const double time = steps * choice.time + kCall;
      if (!choice.refusal.empty() || time >= best) continue;
      plan.strategy = strategy;
      plan.resident = choice.resident;
      best = time;
    }
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

bool was_measured(const Gpu& gpu) {
  const auto& gpus = recorded_gpus();
  return std::any_of(gpus.begin(), gpus.end(), [&](const Gpu& known) {
    return known.measured && gpu.name == "NVIDIA " + known.name && gpu.capability == known.capability &&
           gpu.multiprocessors == known.multiprocessors;
  });
}

int largest_cluster(int capability) {
  int blocks = kPortableCluster;
  for (const Gpu& gpu : recorded_gpus()) {
    if (gpu.capability == capability) blocks = gpu.cluster_blocks;
  }
  return blocks;
}

}  // namespace rnnkern::cuda
