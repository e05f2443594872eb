#include "cuda/resident.h"

#include <vector>

#include "cuda/device.h"
#include "cuda/launch.cuh"
#include "cuda/of_cell.h"
#include "cuda/resident_layout.h"

namespace rnnkern::cuda::resident {
namespace {

// Scratch of the exchange through the L2 cache, without any tag of a turn.
char* take_exchange(Arena& arena, const Resident& plan, int directions, const Layout& layout) {
  if (plan.clusters) return nullptr;
  const int64_t bytes = int64_t{directions} * plan.shards * layout.exchange_bytes;
  char* memory = arena.take(bytes);
  if (memory == nullptr) return memory;
  check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), current_stream()), "cannot clear the exchange");
  return memory;
}

// The weights of a direction, packed.
const void* pack(Arena& arena, const Options& options, const Layout& layout, const Pass& pass, bool backward) {
  char* packed = arena.take(packed_bytes(layout, options.plan));
  if (packed == nullptr) return packed;
  const int hidden = static_cast<int>(pass.H);
  options.kernels.pack({options.plan, pass.cell.gates, hidden, backward, pass.w_hh.data, packed}, current_stream());
  return packed;
}

// What all chunks of a call have in common.
template <class Chunk>
void describe(Chunk& chunk, const Shape& shape, const Resident& plan) {
  chunk.plan = plan;
  chunk.batch = static_cast<int>(shape.batch);
  chunk.hidden = static_cast<int>(shape.hidden);
  chunk.directions = shape.directions;
  chunk.first_tag = 1;
}

class Forward {
 public:
  Forward(const ForwardProblem& problem, const Options& options, Arena& arena) : shape_(problem.shape) {
    const Layout layout(options.plan, options.arithmetic, options.pass.cell.gates, 1, options.pass.cell.states);
    for (int d = 0; d < shape_.directions; ++d) {
      passes_.emplace_back(problem, options.pass, d, arena);
      for (int k = 1; k < options.pass.cell.states; ++k) {
        running_[d][k] = passes_[d].take_compute(arena, shape_.batch, shape_.hidden).data;
      }
      weights_[d] = pack(arena, options, layout, passes_[d], false);
    }
    chunk_.exchange = take_exchange(arena, options.plan, shape_.directions, layout);
    describe(chunk_, shape_, options.plan);
  }

  void run(const Kernels& kernels) {
    for (int64_t step = 0; step < shape_.steps; step = passes_[0].chunk.steps.end) {
      for (int d = 0; d < shape_.directions; ++d) {
        passes_[d].project_input(step);
        chunk_.row_step[d] = d == 0 ? shape_.batch : -shape_.batch;
        chunk_.direction[d] = direction(d);
      }
      chunk_.steps = static_cast<int>(passes_[0].chunk.steps.size());
      kernels.forward(chunk_, current_stream());
      chunk_.first_tag += static_cast<uint32_t>(chunk_.steps);
    }
  }

 private:
  resident::ForwardDirection direction(int d) const {
    const ForwardPass& pass = passes_[d];
    const int64_t H = pass.H, first = pass.chunk.steps.begin, row = pass.schedule.offset(first);
    const bool begins = first == 0, ends = pass.chunk.steps.end == shape_.steps;
    resident::ForwardDirection result{};
    result.weights = weights_[d];
    result.b_ih = pass.own.weights.b_ih;
    result.b_hh = pass.own.weights.b_hh;
    result.x_gates = pass.x_gates.at(row - pass.chunk.rows.begin);
    result.h = begins ? pass.own.initial[0] : pass.y.at(pass.schedule.offset(first - 1));
    result.h_stride = begins ? H : pass.y.stride;
    result.y = pass.y.at(row);
    result.y_stride = pass.y.stride;
    result.saved = as_output(pass.own.saved, pass.cell.saved * H, pass.compute_bytes).at(row);
    for (int k = 0; k < pass.cell.states; ++k) {
      result.final[k] = ends ? pass.own.final[k] : nullptr;
      if (k == 0) continue;
      result.initial[k] = begins ? pass.own.initial[k] : nullptr;
      result.running[k] = running_[d][k];
      result.states[k] = as_output(pass.own.states[k], H, pass.compute_bytes).at(row);
    }
    return result;
  }

  const Shape& shape_;
  std::vector<ForwardPass> passes_;
  void* running_[2][kMaxStates] = {};
  const void* weights_[2] = {};
  ForwardChunk chunk_{};
};

class Backward {
 public:
  Backward(const BackwardProblem& problem, const Options& options, Arena& arena) : shape_(problem.shape) {
    const Layout layout(options.plan, options.arithmetic, 1, options.pass.cell.gates, options.pass.cell.states);
    for (int d = 0; d < shape_.directions; ++d) {
      passes_.emplace_back(problem, options.pass, d, arena);
      weights_[d] = pack(arena, options, layout, passes_[d], true);
    }
    chunk_.exchange = take_exchange(arena, options.plan, shape_.directions, layout);
    describe(chunk_, shape_, options.plan);
  }

  void run(const Kernels& kernels) {
    for (int64_t end = shape_.steps; end > 0; end = passes_[0].chunk.steps.begin) {
      for (int d = 0; d < shape_.directions; ++d) {
        passes_[d].chunk = passes_[d].schedule.chunk_until(end, passes_[d].chunk_rows);
        chunk_.row_step[d] = d == 0 ? -shape_.batch : shape_.batch;
        chunk_.direction[d] = direction(d);
      }
      chunk_.steps = static_cast<int>(passes_[0].chunk.steps.size());
      chunk_.ends = end == shape_.steps;
      kernels.backward(chunk_, current_stream());
      chunk_.first_tag += static_cast<uint32_t>(chunk_.steps);
      for (const BackwardPass& pass : passes_) pass.finish_chunk();
    }
  }

 private:
  resident::BackwardDirection direction(int d) const {
    const BackwardPass& pass = passes_[d];
    const int64_t H = pass.H, row = pass.schedule.offset(pass.chunk.steps.end - 1);
    const int64_t row_in_chunk = row - pass.chunk.rows.begin;
    const bool begins = pass.chunk.steps.begin == 0;
    resident::BackwardDirection result{};
    result.weights = weights_[d];
    result.y = pass.y.at(row);
    result.dy = pass.dy.at(row);
    result.y_stride = pass.y.stride;
    for (int k = 0; k < pass.cell.states; ++k) {
      result.initial[k] = begins ? pass.own.initial[k] : nullptr;
      result.dstate[k] = pass.own.dstate[k];
      if (k == 0) continue;
      result.states[k] = pass.state_rows(pass.own.states, k).at(row);
      result.dstates[k] = pass.state_rows(pass.own.dstates, k).at(row);
    }
    result.saved = as_input(pass.own.saved, pass.cell.saved * H, pass.compute_bytes).at(row);
    result.product = pass.product.data;
    result.dx_gates = pass.dx_gates.at(row_in_chunk);
    result.dr_gates = pass.dr_gates.at(row_in_chunk);
    result.previous_h = pass.previous_h.at(row_in_chunk);
    return result;
  }

  const Shape& shape_;
  std::vector<BackwardPass> passes_;
  const void* weights_[2] = {};
  BackwardChunk chunk_{};
};

template <class Pass, class Problem>
size_t scratch_bytes(const Problem& problem, const Options& options) {
  Arena arena(nullptr);
  Pass(problem, options, arena);
  return arena.used();
}

}  // namespace

Kernels kernels(int cell, Arithmetic arithmetic) {
  return of_cell(AllCells{}, cell, [&]<class Cell>() { return make_kernels<Cell>(arithmetic); });
}

size_t forward_scratch(const ForwardProblem& problem, const Options& options) {
  return scratch_bytes<Forward>(problem, options);
}
size_t backward_scratch(const BackwardProblem& problem, const Options& options) {
  return scratch_bytes<Backward>(problem, options);
}
void forward(const ForwardProblem& problem, const Options& options, void* scratch) {
  Arena arena(scratch);
  Forward(problem, options, arena).run(options.kernels);
}
void backward(const BackwardProblem& problem, const Options& options, void* scratch) {
  Arena arena(scratch);
  Backward(problem, options, arena).run(options.kernels);
}

}  // namespace rnnkern::cuda::resident
