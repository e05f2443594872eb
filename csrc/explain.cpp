#include "explain.h"

#include <algorithm>

#include "cuda/backend.h"
#include "cuda/fused_layout.h"
#include "layer.h"

namespace rnnkern {
namespace {

Explanation explain_cpu(const Cell& cell, DType storage, const Shape& shape) {
  const ForwardProblem problem{shape, false, nullptr, {}, nullptr};
  const int threads = cpu::choose_threads(forward_flops(cell, shape));
  const cpu::Plan plan = cpu_kernels(cell, storage).forward_plan(problem, threads);
  const std::string each = plan.team_size == 1 ? "one thread" : std::to_string(plan.team_size) + " threads";
  return {{"device", "cpu"},
          {"instruction set", cpu::active_backend().name},
          {"threads", plan.teams > 1 ? "the directions side by side, " + each + " each" : each},
          {"division", plan.team_size == 1 ? "none"
                       : plan.by_batch     ? "rows of the batch to each thread"
                                           : "hidden units to each thread, which meet at every step"},
          {"recurrent weights", plan.packed ? "packed once a call" : "read as they are"},
          {"input projection", std::to_string(plan.chunk_rows) + " rows ahead"}};
}

cuda::Gpu find_gpu(const std::string& device) {
  if (device == "cuda") {
    check(cuda::build_version() > 0, "device: expected cpu or one of rnnkern.gpus(), got cuda: this build has no CUDA");
    return cuda::current_gpu();
  }
  std::string known = "cpu, cuda";
  for (const cuda::Gpu& gpu : cuda::recorded_gpus()) {
    if (gpu.name == device) return gpu;
    known += ", " + gpu.name;
  }
  throw std::runtime_error("device: expected one of " + known + ", got '" + device + "'");
}

std::string describe_blocks(const cuda::Work& work, const cuda::Plan& plan) {
  const auto text = [](int64_t value) { return std::to_string(value); };
  if (plan.strategy == cuda::Strategy::kStepwise) {
    return "up to " + text(cuda::kPointwiseThreads) + " threads, one for each unit and row";
  }
  const auto describe = [&](int64_t blocks, int units, int64_t shards, int rows) {
    return text(blocks) + " of " + text(units) + " units for each direction and each of " + text(shards) +
           " shards of " + text(rows) + " rows of the batch";
  };
  if (plan.strategy == cuda::Strategy::kFused) {
    const cuda::fused::Layout layout(work.arithmetic, work.gates, 1, work.batch, work.hidden);
    return describe(layout.unit_blocks, layout.units, layout.row_blocks, layout.rows);
  }
  const cuda::Resident& tiles = plan.resident;
  return describe(tiles.blocks, tiles.units, tiles.shards, tiles.rows);
}

// Why a strategy was not chosen.
std::string describe_other(cuda::Strategy strategy, cuda::Work work, const cuda::Gpu& gpu) {
  if (const auto reason = cuda::refusal(strategy, work, gpu)) return *reason;
  work.training = true;
  if (const auto reason = cuda::refusal(strategy, work, gpu)) return "possible without gradients only: " + *reason;
  if (!cuda::forced_strategy().empty()) return "possible, but another was asked for";
  return "possible, but " + cuda::caution(strategy, work, gpu).value_or("slower");
}

Explanation explain_gpu(const Cell& cell, DType storage, const Shape& shape, const std::string& device) {
  const cuda::Gpu gpu = find_gpu(device);
  const cuda::Work work = gpu_work(cell, storage, shape, /*training=*/false, /*backward=*/false);
  const cuda::Plan plan = cuda::choose_plan(work, gpu, cuda::forced_strategy());
  Explanation lines{{"device", gpu.name},
                    {"strategy", cuda::name(plan.strategy)},
                    {"blocks", describe_blocks(work, plan)},
                    {"input projection", std::to_string(plan.chunk_rows) + " rows ahead"}};
  for (const cuda::Strategy other : cuda::kStrategies) {
    if (other != plan.strategy) lines.emplace_back(cuda::name(other), describe_other(other, work, gpu));
  }
  return lines;
}

}  // namespace

std::vector<std::string> backends() {
  std::vector<std::string> names;
  for (const cpu::Backend* backend : cpu::supported_backends()) names.emplace_back(backend->name);
  return names;
}

std::string active_backend() { return cpu::active_backend().name; }

std::optional<std::string> cuda_version() {
  const int version = cuda::build_version();
  if (version == 0) return std::nullopt;
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::vector<std::string> gpus() {
  std::vector<std::string> names;
  for (const cuda::Gpu& gpu : cuda::recorded_gpus()) names.push_back(gpu.name);
  return names;
}

Explanation explain(const std::string& cell_name, at::ScalarType dtype, const std::vector<int64_t>& batch_sizes,
                    int64_t input, int64_t hidden, int64_t projection, int directions, const std::string& device) {
  const Cell& cell = find_cell(cell_name);
  const DType storage = to_dtype(dtype);
  check(!batch_sizes.empty(), "Expected sequence length to be larger than 0 in RNN");
  const Rows rows(batch_sizes);
  Shape shape{};
  rows.describe(shape);
  shape.input = input;
  shape.hidden = hidden;
  shape.projection = projection;
  shape.directions = directions;
  return device == "cpu" ? explain_cpu(cell, storage, shape) : explain_gpu(cell, storage, shape, device);
}

}  // namespace rnnkern
