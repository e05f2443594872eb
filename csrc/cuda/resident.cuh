// The kernels of resident.h.
//
// A block keeps its rows of the weights in shared memory as the left operand of a product whose right operand, all that
// the group's blocks put out in the last step, it also keeps there. A step: warps multiply, each a few tiles over a slice
// of the depth; the block meets; a thread per unit and row adds up the slices and runs the cell, whose states never leave
// its registers; the blocks exchange what the next step multiplies.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "cells/all.h"
#include "common/pack.h"
#include "cuda/elements.cuh"
#include "cuda/grid_barrier.cuh"
#include "cuda/resident.h"
#include "cuda/resident_layout.h"

namespace rnnkern::cuda::resident {

// ---- Arithmetic: the type of the operands and the product of a fragment of 32 bytes' depth

template <class S>
struct Mma16 {
  using Element = S;
  static __device__ __forceinline__ S round(S value) { return value; }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16<S>(sum, a, b);
  }
};

struct MmaTf32 {
  using Element = float;
  static __device__ __forceinline__ float round(float value) { return round_to_tf32(value); }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k8_tf32(sum, a, b);
  }
};

// No tensor core multiplies float32 as it is: a thread of a warp computes the elements that mma would give it.
struct Fma32 {
  using Element = float;
  static __device__ __forceinline__ float round(float value) { return value; }
};

// ---- The product

struct Operands {
  const char *a, *b;  // in shared memory, rows of `pitch` bytes: a of gates or units, b of the batch
  int pitch;
};

inline constexpr int kTiles = 4;  // tiles of 16 rows of a that a warp multiplies at once, by 16 rows of b

template <class Math>
__device__ __forceinline__ void multiply_tiles(float (&sum)[kTiles][2][4], const Operands& from, int tiles, int step,
                                               int end) {
  const int lane = threadIdx.x % 32;
  const char* a = from.a + (lane / 8 % 2 * 8 + lane % 8) * from.pitch + lane / 16 * 16;
  const char* b = from.b + (lane / 16 * 8 + lane % 8) * from.pitch + lane / 8 % 2 * 16;
  for (; step < end; ++step) {
    uint32_t right[4];
    load_matrices<4>(right, b + step * kStepBytes);
    const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
    RNNKERN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      if (i >= tiles) break;
      uint32_t left[4];
      load_matrices<4>(left, a + i * kTileRows * from.pitch + step * kStepBytes);
      Math::multiply(sum[i][0], left, first);
      Math::multiply(sum[i][1], left, second);
    }
  }
}

template <>
__device__ __forceinline__ void multiply_tiles<Fma32>(float (&sum)[kTiles][2][4], const Operands& from, int tiles,
                                                      int step, int end) {
  constexpr int kDepth = kStepBytes / sizeof(float);
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  for (; step < end; ++step) {
    float right[4][kDepth];
    RNNKERN_UNROLL
    for (int n = 0; n < 4; ++n) {
      const int row = n / 2 * 8 + quad * 2 + n % 2;
      const auto* source = reinterpret_cast<const float*>(from.b + row * from.pitch + step * kStepBytes);
      RNNKERN_UNROLL
      for (int k = 0; k < kDepth; ++k) right[n][k] = source[k];
    }
    RNNKERN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      if (i >= tiles) break;
      RNNKERN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = i * kTileRows + half * 8 + group;
        const auto* left = reinterpret_cast<const float*>(from.a + row * from.pitch + step * kStepBytes);
        RNNKERN_UNROLL
        for (int n = 0; n < 4; ++n) {
          float& out = sum[i][n / 2][half * 2 + n % 2];
          RNNKERN_UNROLL
          for (int k = 0; k < kDepth; ++k) out = fmaf(left[k], right[n][k], out);
        }
      }
    }
  }
}

// partial [slice][row of b][row of a], with `partial_pitch` floats for a row of b: what each slice of the depth gives.
template <class Math>
__device__ __forceinline__ void multiply(const Layout& layout, const char* a, const char* b, float* partial) {
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const int tile_groups = (layout.tiles + kTiles - 1) / kTiles;
  const int row_groups = layout.operand_rows / kTileRows;
  const int items = tile_groups * row_groups * layout.slices;
  for (int item = warp; item < items; item += kWarps) {
    const int slice = item % layout.slices, rows = item / layout.slices % row_groups * kTileRows;
    const int tile = item / layout.slices / row_groups * kTiles;
    const int tiles = layout.tiles - tile < kTiles ? layout.tiles - tile : kTiles;
    const Operands from{a + tile * kTileRows * layout.pitch, b + rows * layout.pitch, layout.pitch};
    float sum[kTiles][2][4] = {};
    multiply_tiles<Math>(sum, from, tiles, layout.depth_steps * slice / layout.slices,
                         layout.depth_steps * (slice + 1) / layout.slices);
    RNNKERN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      if (i >= tiles) break;
      RNNKERN_UNROLL
      for (int j = 0; j < 8; ++j) {
        const int row = (tile + i) * kTileRows + j % 4 / 2 * 8 + group;
        const int n = rows + j / 4 * 8 + quad * 2 + j % 2;
        partial[(slice * layout.operand_rows + n) * layout.partial_pitch + row] = sum[i][j / 4][j % 4];
      }
    }
  }
}

// What multiply gave for an element, the slices added in their order.
__device__ __forceinline__ float product_of(const Layout& layout, const float* partial, int n, int row) {
  float sum = partial[n * layout.partial_pitch + row];
  for (int slice = 1; slice < layout.slices; ++slice) {
    sum += partial[(slice * layout.operand_rows + n) * layout.partial_pitch + row];
  }
  return sum;
}

// ---- The exchange
//
// put() hands over an element of what the group multiplies next, swap() ends a step: behind it operand() holds what all
// blocks have put, and nobody reads what it held before. Every block puts each element of its slice in every step, those
// of units beyond the last one as zeros.

// A group's place in the grid, and a block's in its group.
struct Place {
  int group, rank;

  __device__ __forceinline__ explicit Place(const Resident& plan)
      : group(int(blockIdx.x) / plan.blocks), rank(int(blockIdx.x) % plan.blocks) {}
  __device__ __forceinline__ int direction(const Resident& plan) const { return group / plan.shards; }
  __device__ __forceinline__ int first_row(const Resident& plan) const { return group % plan.shards * plan.rows; }
};

// Through the L2 cache, with a barrier of the group's blocks.
template <class Element>
class GridExchange {
 public:
  static constexpr int kCapabilityNeeded = 80;

  __device__ __forceinline__ GridExchange(const Layout& layout, const Resident& plan, const Place& place, int rows,
                                          void* memory)
      : layout_(layout),
        rows_(rows),
        barrier_(reinterpret_cast<GridBarrierState*>(static_cast<char*>(memory) + place.group * kBarrierBytes),
                 uint32_t(plan.blocks), place.rank == 0),
        global_(static_cast<char*>(memory) + barrier_bytes(plan) + place.group * 2 * layout.exchange_bytes) {}

  __device__ __forceinline__ char* operand() const { return shared_memory<char>(layout_.operand); }

  __device__ __forceinline__ void put(int n, int k, Element value) const {
    reinterpret_cast<Element*>(next() + n * layout_.depth_valid_bytes)[k] = value;
  }

  __device__ __forceinline__ void swap() {
    if (!barrier_.sync()) give_up();
    const int chunks = layout_.depth_valid_bytes / 16, all = chunks * rows_;
    for (int i = threadIdx.x; i < all; i += kThreads) {
      const int n = i / chunks, offset = i % chunks * 16;
      copy_async<16>(operand() + n * layout_.pitch + offset, next() + n * layout_.depth_valid_bytes + offset);
    }
    ++swaps_;
    commit_group();
    wait_group<0>();
    sync_block();
  }

 private:
  __device__ __forceinline__ char* next() const { return global_ + swaps_ % 2 * layout_.exchange_bytes; }

  const Layout& layout_;
  int rows_;
  GridBarrier barrier_;
  char* global_;  // [2][row][depth]
  int swaps_ = 0;
};

// Through the cluster's shared memory: each block stores its slice into every block's operand, of which there are two,
// and a barrier in each block counts the bytes that have come. A block that has got all of a step knows that all others
// have multiplied what came two steps before, so that it may be overwritten. It has got all that is ever sent to it
// before it leaves the kernel.
template <class Element>
class ClusterExchange {
 public:
  static constexpr int kCapabilityNeeded = 90;

  __device__ __forceinline__ ClusterExchange(const Layout& layout, const Resident& plan, const Place& place, int rows,
                                             void*)
      : layout_(layout), blocks_(plan.blocks), rows_(rows), barriers_(shared_memory<Mbarrier>(layout.barriers)) {
    slice_ = layout.slice(plan, place.rank);
    if (threadIdx.x == 0) {
      mbarrier_init(&barriers_[0], 1);
      mbarrier_init(&barriers_[1], 1);
      fence_mbarrier_init();
    }
    sync_cluster();
  }

  __device__ __forceinline__ char* operand() const {
    return shared_memory<char>(layout_.operand) + swaps_ % 2 * layout_.operand_bytes;
  }

  __device__ __forceinline__ void put(int n, int k, Element value) const {
    const int segment = k / layout_.segment, inside = k % layout_.segment - slice_.begin;
    staging()[(n * layout_.segments + segment) * layout_.units + inside] = value;
  }

  __device__ __forceinline__ void swap() {
    ++swaps_;
    Mbarrier* const arrived = &barriers_[swaps_ % 2];
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(arrived, uint32_t(rows_ * layout_.depth_valid_bytes));
    sync_block();
    send(arrived);
    if (!mbarrier_wait_parity_cluster(arrived, (swaps_ - 1) / 2 % 2)) give_up();
    sync_warp();  // lanes leave the wait one by one, and what follows is warp-wide
  }

 private:
  __device__ __forceinline__ Element* staging() const { return shared_memory<Element>(layout_.staging); }

  __device__ __forceinline__ void send(Mbarrier* arrived) const {
    const int bytes = slice_.count * int(sizeof(Element)), chunks = bytes / 16;
    const int all = rows_ * layout_.segments * chunks * blocks_;
    for (int i = threadIdx.x; i < all; i += kThreads) {
      const int chunk = i % chunks, line = i / chunks % (rows_ * layout_.segments);
      const unsigned peer = unsigned(i / chunks / (rows_ * layout_.segments));
      const int n = line / layout_.segments, segment = line % layout_.segments;
      const char* from = reinterpret_cast<const char*>(staging() + line * layout_.units) + chunk * 16;
      char* to = operand() + n * layout_.pitch + (segment * layout_.segment + slice_.begin) * int(sizeof(Element)) +
                 chunk * 16;
      store_async(reinterpret_cast<uint4*>(map_to_peer(to, peer)), *reinterpret_cast<const uint4*>(from),
                  map_to_peer(arrived, peer));
    }
  }

  const Layout& layout_;
  int blocks_, rows_;
  Slice slice_;
  Mbarrier* barriers_;
  int swaps_ = 0;
};

// ---- What both passes do

// A block's part of the work: the units [begin, begin + count) and `rows` rows of the batch from first_row on.
struct Part {
  Place place;
  Slice slice;
  int direction, first_row, rows;

  template <class Chunk>
  __device__ __forceinline__ Part(const Chunk& chunk, const Layout& layout)
      : place(chunk.plan),
        slice(layout.slice(chunk.plan, place.rank)),
        direction(place.direction(chunk.plan)),
        first_row(place.first_row(chunk.plan)),
        rows(chunk.batch - first_row < chunk.plan.rows ? chunk.batch - first_row : chunk.plan.rows) {}

  // body(item, n, u) for this thread's items: row n of the shard, unit u of the slice.
  template <class Body>
  __device__ __forceinline__ void for_items(const Body& body) const {
    RNNKERN_UNROLL
    for (int item = 0; item < kItems; ++item) {
      const int index = threadIdx.x + item * kThreads;
      if (index < rows * slice.count) body(item, index / slice.count, index % slice.count);
    }
  }
};

__device__ __forceinline__ void clear(char* shared, int bytes) {
  for (int i = threadIdx.x * 16; i < bytes; i += kThreads * 16) {
    *reinterpret_cast<uint4*>(shared + i) = make_uint4(0, 0, 0, 0);
  }
}

// The operands start as zeros, so that no garbage beyond the last unit, row or step of depth is multiplied. rows_first:
// neighbouring threads read neighbouring rows, and not elements of the depth.
template <class Math, class Weight>
__device__ __forceinline__ void load_weights(const Layout& layout, int rows, int depth, bool rows_first,
                                             const Weight& weight) {
  using Element = typename Math::Element;
  clear(shared_memory<char>(layout.weights), layout.weights_bytes);
  clear(shared_memory<char>(layout.operand), layout.operands * layout.operand_bytes);
  sync_block();
  for (int i = threadIdx.x; i < rows * depth; i += kThreads) {
    const int row = rows_first ? i % rows : i / depth, k = rows_first ? i / rows : i % depth;
    auto* line = shared_memory<Element>(layout.weights + row * layout.pitch);
    line[layout.position(k)] = Math::round(weight(row, k));
  }
  sync_block();
}

// ---- Forward

template <class Cell, class Math, template <class> class Exchange>
__device__ __forceinline__ void run_forward(const ForwardChunk& chunk) {
  using S = typename Math::Element;
  using V = Scalar<float>;
  constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  const Layout layout(chunk.plan, chunk.hidden, kGates, 1, int(sizeof(S)));
  const Part part(chunk, layout);
  const ForwardDirection& own = chunk.direction[part.direction];
  const int64_t row_step = chunk.row_step[part.direction], H = chunk.hidden;
  float* const partial = shared_memory<float>(layout.partial);
  const int units = layout.units;

  load_weights<Math>(layout, kGates * units, chunk.hidden, false, [&](int row, int k) {
    const int64_t unit = part.slice.begin + row % units;
    return unit < H ? static_cast<const S*>(own.w_hh)[(row / units * H + unit) * H + k] : S{};
  });
  Exchange<S> exchange(layout, chunk.plan, part.place, part.rows, chunk.exchange);
  for (int i = threadIdx.x; i < part.rows * chunk.hidden; i += kThreads) {
    const int n = i / chunk.hidden, k = i % chunk.hidden;
    const S h = static_cast<const S*>(own.h)[(part.first_row + n) * own.h_stride + k];
    reinterpret_cast<S*>(exchange.operand() + n * layout.pitch)[k] = Math::round(h);
  }
  sync_block();

  Pack<V, kStates> state[kItems];
  Pack<V, kGates> x[kItems];
  const auto load_x = [&](int step) {
    part.for_items([&](int item, int n, int u) {
      const int64_t row = step * row_step + part.first_row + n, unit = part.slice.begin + u;
      if (unit >= H) return;
      RNNKERN_UNROLL
      for (int g = 0; g < kGates; ++g) x[item][g] = load<float>(own.x_gates, (row * kGates + g) * H + unit);
    });
  };
  part.for_items([&](int item, int n, int u) {
    const int64_t row = part.first_row + n, unit = part.slice.begin + u;
    if (unit >= H) return;
    if constexpr (Cell::kDirectH) state[item][0] = load<S>(own.h, row * own.h_stride + unit);
    RNNKERN_UNROLL
    for (int k = 1; k < kStates; ++k) {
      state[item][k] = own.initial[k] != nullptr ? load<S>(own.initial[k], row * H + unit)
                                                 : load<float>(own.running[k], row * H + unit);
    }
  });
  load_x(0);

  for (int step = 0; step < chunk.steps; ++step) {
    multiply<Math>(layout, shared_memory<char>(layout.weights), exchange.operand(), partial);
    sync_block();
    part.for_items([&](int item, int n, int u) {
      const int64_t row = step * row_step + part.first_row + n, unit = part.slice.begin + u;
      if (unit >= H) return exchange.put(n, int(unit), S{});
      Pack<V, kGates> r;
      RNNKERN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        r[g] = V(product_of(layout, partial, n, g * units + u));
        if (own.b_hh != nullptr) r[g] = r[g] + load<S>(own.b_hh, g * H + unit);
        if (own.b_ih != nullptr) x[item][g] = x[item][g] + load<S>(own.b_ih, g * H + unit);
      }
      Pack<V, Cell::kSaved> saved;
      Cell::forward(x[item], r, state[item], saved);
      store<S>(own.y, row * own.y_stride + unit, state[item][0]);
      const S h = narrow<S>(state[item][0].value);
      exchange.put(n, int(unit), Math::round(h));
      state[item][0] = V(widen(h));  // the next step reads what was put out
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        if (own.states[k] != nullptr) store<float>(own.states[k], row * H + unit, state[item][k]);
      }
      if (own.saved == nullptr) return;
      RNNKERN_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) {
        store<float>(own.saved, (row * Cell::kSaved + k) * H + unit, saved[k]);
      }
    });
    if (step + 1 == chunk.steps) break;
    load_x(step + 1);
    exchange.swap();
  }

  part.for_items([&](int item, int n, int u) {
    const int64_t at = (part.first_row + n) * H + part.slice.begin + u;
    if (part.slice.begin + u >= H) return;
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) {
      if (k > 0) store<float>(own.running[k], at, state[item][k]);
      if (own.final[k] != nullptr) store<S>(own.final[k], at, state[item][k]);
    }
  });
}

// ---- Backward

// What a thread reads of a step for one unit and row. Loaded before the blocks meet, used behind it.
template <class Cell>
struct Saved {
  using V = Scalar<float>;
  V dy;
  Pack<V, Cell::kStates> old_state, new_state;
  Pack<V, Cell::kSaved> values;
};

template <class Cell, class Math, template <class> class Exchange>
__device__ __forceinline__ void run_backward(const BackwardChunk& chunk) {
  using S = typename Math::Element;
  using V = Scalar<float>;
  constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  const Layout layout(chunk.plan, chunk.hidden, 1, kGates, int(sizeof(S)));
  const Part part(chunk, layout);
  const BackwardDirection& own = chunk.direction[part.direction];
  const int64_t row_step = chunk.row_step[part.direction], H = chunk.hidden;
  float* const partial = shared_memory<float>(layout.partial);

  load_weights<Math>(layout, layout.units, kGates * chunk.hidden, true, [&](int row, int k) {
    const int64_t unit = part.slice.begin + row;
    return unit < H ? static_cast<const S*>(own.w_hh)[k * H + unit] : S{};
  });
  Exchange<S> exchange(layout, chunk.plan, part.place, part.rows, chunk.exchange);
  sync_block();

  Saved<Cell> saved[kItems];
  Pack<V, kStates> dstate[kItems];
  const auto load_saved = [&](int step) {
    part.for_items([&](int item, int n, int u) {
      const int64_t row = step * row_step + part.first_row + n, before = row + row_step;
      const int64_t unit = part.slice.begin + u, initial = (part.first_row + n) * H + unit;
      if (unit >= H) return;
      Saved<Cell>& now = saved[item];
      const bool fresh = step + 1 == chunk.steps && own.initial[0] != nullptr;
      now.dy = load<S>(own.dy, row * own.y_stride + unit);
      now.new_state[0] = load<S>(own.y, row * own.y_stride + unit);
      if (Cell::kDirectH || own.previous_h != nullptr) {
        now.old_state[0] = fresh ? load<S>(own.initial[0], initial) : load<S>(own.y, before * own.y_stride + unit);
      }
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        now.new_state[k] = load<float>(own.states[k], row * H + unit);
        now.old_state[k] = fresh ? load<S>(own.initial[k], initial) : load<float>(own.states[k], before * H + unit);
      }
      RNNKERN_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) {
        now.values[k] = load<float>(own.saved, (row * Cell::kSaved + k) * H + unit);
      }
    });
  };
  part.for_items([&](int item, int n, int u) {
    const int64_t at = (part.first_row + n) * H + part.slice.begin + u;
    if (part.slice.begin + u >= H) return;
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) dstate[item][k] = load<float>(own.dstate[k], at);
  });
  load_saved(0);

  for (int step = 0; step < chunk.steps; ++step) {
    part.for_items([&](int item, int n, int u) {
      const int64_t row = step * row_step + part.first_row + n, unit = part.slice.begin + u;
      if (unit >= H) {
        for (int g = 0; g < kGates; ++g) exchange.put(n, g * layout.segment + int(unit), S{});
        return;
      }
      Saved<Cell>& now = saved[item];
      const bool ends = chunk.ends && step == 0;
      V dh = now.dy;
      if (step > 0) {
        dh = dh + V(product_of(layout, partial, n, u));
      } else if (!ends) {
        dh = dh + load<float>(own.product, (part.first_row + n) * H + unit);
      }
      if (Cell::kDirectH || ends) dh = dh + dstate[item][0];
      dstate[item][0] = dh;
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        if (own.dstates[k] != nullptr) dstate[item][k] = dstate[item][k] + load<float>(own.dstates[k], row * H + unit);
      }
      Pack<V, kGates> dx, dr;
      Cell::backward(now.values, now.old_state, now.new_state, dstate[item], dx, dr);
      if (own.previous_h != nullptr) store<S>(own.previous_h, row * H + unit, now.old_state[0]);
      RNNKERN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        const int64_t gate = (row * kGates + g) * H + unit;
        store<S>(own.dx_gates, gate, dx[g]);
        if constexpr (Cell::kSplitGates) store<S>(own.dr_gates, gate, dr[g]);
        const S recurrent = narrow<S>((Cell::kSplitGates ? dr[g] : dx[g]).value);
        exchange.put(n, g * layout.segment + int(unit), Math::round(recurrent));
      }
    });
    if (step + 1 < chunk.steps) load_saved(step + 1);
    exchange.swap();
    multiply<Math>(layout, shared_memory<char>(layout.weights), exchange.operand(), partial);
    sync_block();
  }

  part.for_items([&](int item, int n, int u) {
    const int64_t at = (part.first_row + n) * H + part.slice.begin + u;
    if (part.slice.begin + u >= H) return;
    const V product(product_of(layout, partial, n, u));
    const bool begins = own.initial[0] != nullptr;
    if (begins) {
      dstate[item][0] = Cell::kDirectH ? dstate[item][0] + product : product;
    } else {
      store<float>(own.product, at, product);
    }
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) {
      if (k > 0 || Cell::kDirectH || begins) store<float>(own.dstate[k], at, dstate[item][k]);
    }
  });
}

// ---- Launches

// What older devices would trap in is not compiled for them.
template <class Cell, class Math, template <class> class Exchange>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ ForwardChunk chunk) {
  if constexpr (kCapability >= Exchange<typename Math::Element>::kCapabilityNeeded) {
    run_forward<Cell, Math, Exchange>(chunk);
  } else {
    give_up();
  }
}

template <class Cell, class Math, template <class> class Exchange>
__global__ void __launch_bounds__(kThreads, 1) backward_kernel(const __grid_constant__ BackwardChunk chunk) {
  if constexpr (kCapability >= Exchange<typename Math::Element>::kCapabilityNeeded) {
    run_backward<Cell, Math, Exchange>(chunk);
  } else {
    give_up();
  }
}

template <class Chunk>
LaunchConfig launch_config(const Layout& layout, const Chunk& chunk, cudaStream_t stream) {
  LaunchConfig config;
  config.grid = dim3(unsigned(chunk.directions * chunk.plan.shards * chunk.plan.blocks));
  config.block = dim3(kThreads);
  config.shared_bytes = size_t(layout.bytes);
  config.stream = stream;
  config.cluster = chunk.plan.clusters ? unsigned(chunk.plan.blocks) : 1;
  config.cooperative = !chunk.plan.clusters;
  return config;
}

template <class Cell, class Math>
void launch_forward(const ForwardChunk& chunk, cudaStream_t stream) {
  const Layout layout(chunk.plan, chunk.hidden, Cell::kGates, 1, int(sizeof(typename Math::Element)));
  const LaunchConfig config = launch_config(layout, chunk, stream);
  chunk.plan.clusters ? launch(forward_kernel<Cell, Math, ClusterExchange>, config, chunk)
                      : launch(forward_kernel<Cell, Math, GridExchange>, config, chunk);
}

template <class Cell, class Math>
void launch_backward(const BackwardChunk& chunk, cudaStream_t stream) {
  const Layout layout(chunk.plan, chunk.hidden, 1, Cell::kGates, int(sizeof(typename Math::Element)));
  const LaunchConfig config = launch_config(layout, chunk, stream);
  chunk.plan.clusters ? launch(backward_kernel<Cell, Math, ClusterExchange>, config, chunk)
                      : launch(backward_kernel<Cell, Math, GridExchange>, config, chunk);
}

template <class Cell, class Math>
Kernels kernels_of() {
  return {launch_forward<Cell, Math>, launch_backward<Cell, Math>};
}

template <class Cell>
Kernels make_kernels(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kHalf:
      return kernels_of<Cell, Mma16<Half>>();
    case Arithmetic::kBFloat16:
      return kernels_of<Cell, Mma16<BFloat16>>();
    case Arithmetic::kTf32:
      return kernels_of<Cell, MmaTf32>();
    case Arithmetic::kFloat:
      return kernels_of<Cell, Fma32>();
    case Arithmetic::kDouble:
      break;
  }
  throw std::logic_error("no kernels of this arithmetic");
}

}  // namespace rnnkern::cuda::resident
