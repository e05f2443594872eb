// The kernels of resident.h.
//
// A step of a group of rows of the batch: each warp multiplies the weights it keeps, mostly in registers, by what the
// group's blocks put out in the last step; the block meets; a thread per unit and row adds up what the warps have and runs
// the cell; the new values go to all blocks at once, in words that a lane of a tensor core's product takes as they are.
#pragma once

#include <algorithm>

#include "cells/all.h"
#include "common/pack.h"
#include "cuda/elements.cuh"
#include "cuda/mma.cuh"
#include "cuda/resident.h"
#include "cuda/resident_layout.h"

namespace rnnkern::cuda::resident {

// ---- Places

// A group's place in the grid, and a block's in its group.
struct Place {
  int group, rank;

  __device__ __forceinline__ explicit Place(const Resident& plan)
      : group(int(blockIdx.x) / plan.blocks), rank(int(blockIdx.x) % plan.blocks) {}
  __device__ __forceinline__ int direction(const Resident& plan) const { return group / plan.shards; }
  __device__ __forceinline__ int first_row(const Resident& plan) const { return group % plan.shards * plan.rows; }
};

// A block's part of the work: units from `first_unit` on, and `rows` rows of the batch from `first_row` on.
struct Part {
  Place place;
  int direction, first_unit, first_row, rows;

  template <class Chunk>
  __device__ __forceinline__ explicit Part(const Chunk& chunk)
      : place(chunk.plan),
        direction(place.direction(chunk.plan)),
        first_unit(place.rank * chunk.plan.units),
        first_row(place.first_row(chunk.plan)),
        rows(chunk.batch - first_row < chunk.plan.rows ? chunk.batch - first_row : chunk.plan.rows) {}
};

// The unit that a thread runs the cell for, `n` being its row in whichever group of rows. The lanes of a word's elements are
// neighbours.
struct Item {
  int n, word, unit;  // word: of the block's words of one segment; unit: of the block's
  bool exists;        // in some group

  __device__ __forceinline__ explicit Item(const Layout& layout) {
    const int lane = threadIdx.x % 32, each = 32 / layout.values;
    const int index = int(threadIdx.x) / 32 * each + lane / layout.values;
    exists = lane < each * layout.values && index < layout.group_rows * layout.slice_words;
    n = index / layout.slice_words;
    word = index % layout.slice_words;
    unit = word * layout.values + lane % layout.values;
  }
};

// ---- The exchange
//
// What the group multiplies in turn t is sent in turn t, and fetched by all its blocks. A block sends in turn t + 1 what it
// computed from all of turn t, so that buffers of two turns are enough.

// Through the L2 cache. A word has a tag, the number of its turn, and is written and read at once: whoever reads the tag has
// the elements.
template <class Math, int kGates>
class GridExchange {
 public:
  static constexpr int kCapabilityNeeded = 80;
  static constexpr bool kClusters = false;
  static constexpr Held kHeld = held(kClusters, kGates, Math::kArithmetic);
  static constexpr uint32_t kAttempts = 1u << 22;  // some seconds

  // All words of a batch of chunks, read before the first is used.
  template <int kCount>
  struct Batch {
    uint4 words[kHeld.chunks * 2 * kCount];
    __device__ __forceinline__ const uint4& word(int chunk, int half, int column) const {
      return words[(chunk * 2 + half) * kCount + column];
    }
  };

  __device__ __forceinline__ GridExchange(const Layout& layout, const Place& place, const Resident&, int rows,
                                          void* memory, uint32_t first_tag)
      : rows_(rows),
        first_tag_(first_tag),
        words_(reinterpret_cast<uint4*>(static_cast<char*>(memory) + place.group * layout.exchange_bytes)) {}

  __device__ __forceinline__ void expect(const Layout&, int, int) const {}

  // By the lane that has the whole word; `payload` of kHeld.registers registers.
  __device__ __forceinline__ void send(const Layout& layout, int turn, int group, int n, int word,
                                       const uint32_t (&payload)[4], int lane) const {
    if (lane != 0) return;
    store_relaxed_gpu(at(layout, turn, group, n, word),
                      make_uint4(payload[0], payload[1], payload[2], first_tag_ + uint32_t(turn)));
  }

  __device__ __forceinline__ void await(const Layout&, int, int) const {}

  template <int kCount>
  __device__ __forceinline__ void fetch(const Layout& layout, Batch<kCount>& batch, int turn, int group, int chunk,
                                        int count) const {
    const int row = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    const int rows = rows_ - group * layout.group_rows, words = layout.words - chunk * kChunkWords - quad;
    const uint4* const from = at(layout, turn, group, row, chunk * kChunkWords + quad);
    uint32_t missing = 0;  // a bit for each word
    visit_words<kCount>([&](int i, int c, int in_chunk, int column) {
      batch.words[i] = make_uint4(0, 0, 0, 0);
      const bool exists = c < count && c * kChunkWords + in_chunk < words && column * kColumns + row < rows;
      missing |= uint32_t(exists) << i;
    });
    for (uint32_t attempts = kAttempts; missing != 0; --attempts) {
      if (attempts == 0) give_up();
      visit_words<kCount>([&](int i, int c, int in_chunk, int column) {
        if (missing >> i & 1) {
          batch.words[i] = load_relaxed_gpu(from + (c * kChunkWords + in_chunk + column * layout.words) * kColumns);
        }
      });
      visit_words<kCount>([&](int i, int, int, int) {
        if (batch.words[i].w == first_tag_ + uint32_t(turn)) missing &= ~(1u << i);
      });
    }
    sync_warp();
  }

 private:
  // visit(index in the batch, chunk, first of the quad's words in the chunk, column).
  template <int kCount, class Visit>
  static __device__ __forceinline__ void visit_words(const Visit& visit) {
    RNNKERN_UNROLL
    for (int i = 0; i < kHeld.chunks * 2 * kCount; ++i) {
      visit(i, i / kCount / 2, i / kCount % 2 * (kChunkWords / 2), i % kCount);
    }
  }

  __device__ __forceinline__ uint4* at(const Layout& layout, int turn, int group, int n, int word) const {
    const int tile = (turn % 2 * layout.groups + group) * (layout.group_rows / kColumns) + n / kColumns;
    return words_ + (int64_t(tile) * layout.words + word) * kColumns + n % kColumns;
  }

  int rows_;
  uint32_t first_tag_;
  uint4* words_;  // [turn % 2][group][tile of 8 rows][word][row]
};

// Through the cluster's shared memory: words are stored into every block's, where a barrier counts their bytes. A block has
// got all that is ever sent to it before it leaves the kernel.
template <class Math, int kGates>
class ClusterExchange {
 public:
  static constexpr int kCapabilityNeeded = 90;
  static constexpr bool kClusters = true;
  static constexpr Held kHeld = held(kClusters, kGates, Math::kArithmetic);

  template <int>
  struct Batch {
    const uint4* first;
    int pitch;
    __device__ __forceinline__ const uint4& word(int chunk, int half, int column) const {
      return first[column * kColumns * pitch + chunk * kChunkWords + half * 4];
    }
  };

  __device__ __forceinline__ ClusterExchange(const Layout& layout, const Place&, const Resident& plan, int rows, void*,
                                             uint32_t)
      : rows_(rows),
        blocks_(plan.blocks),
        words_(shared_memory<uint4>(layout.operand)),
        barriers_(shared_memory<Mbarrier>(layout.barriers)) {
    const int all = 2 * layout.groups * layout.group_rows * layout.operand_pitch;
    for (int i = threadIdx.x; i < all; i += kThreads) words_[i] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2 * layout.groups; ++i) mbarrier_init(&barriers_[i], 1);
      fence_mbarrier_init();
    }
    sync_cluster();
  }

  // Once a turn, when the block has waited for all of turn - 2; what peers send meanwhile counts. By all threads.
  __device__ __forceinline__ void expect(const Layout& layout, int turn, int group) const {
    if (threadIdx.x != 0) return;
    const int rest = rows_ - group * layout.group_rows, rows = rest < layout.group_rows ? rest : layout.group_rows;
    mbarrier_arrive_expect_tx(barrier(layout, turn, group), rows > 0 ? uint32_t(rows * layout.words * kWordBytes) : 0);
  }

  // By all lanes that share a word, with their numbers among them: each sends it to some of the blocks.
  __device__ __forceinline__ void send(const Layout& layout, int turn, int group, int n, int word,
                                       const uint32_t (&payload)[4], int lane) const {
    uint4* const to = words_ + at(layout, turn, group, n) + word;
    const uint4 value = make_uint4(payload[0], payload[1], payload[2], payload[3]);
    for (int peer = lane; peer < blocks_; peer += layout.values) {
      store_async(map_to_peer(to, unsigned(peer)), value, map_to_peer(barrier(layout, turn, group), unsigned(peer)));
    }
  }

  // Waits for all that is sent in that turn. By all threads.
  __device__ __forceinline__ void await(const Layout& layout, int turn, int group) const {
    if (!mbarrier_wait_parity_cluster(barrier(layout, turn, group), turn / 2 % 2)) give_up();
    sync_warp();  // lanes leave the wait one by one, and what follows is warp-wide
  }

  template <int kCount>
  __device__ __forceinline__ void fetch(const Layout& layout, Batch<kCount>& batch, int turn, int group, int chunk,
                                        int) const {
    const int row = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    batch = {words_ + at(layout, turn, group, row) + chunk * kChunkWords + quad, layout.operand_pitch};
  }

 private:
  __device__ __forceinline__ Mbarrier* barrier(const Layout& layout, int turn, int group) const {
    return &barriers_[turn % 2 * layout.groups + group];
  }
  __device__ __forceinline__ int at(const Layout& layout, int turn, int group, int n) const {
    return ((turn % 2 * layout.groups + group) * layout.group_rows + n) * layout.operand_pitch;
  }

  int rows_, blocks_;
  uint4* words_;  // [turn % 2][group][row][word]
  Mbarrier* barriers_;
};

// Sends one element of each lane, in the words of its block that begin at `first_word`. Warp-wide; lanes of rows beyond the
// last send nothing.
template <class Math, class Exchange>
__device__ __forceinline__ void send_words(const Layout& layout, const Exchange& exchange, int turn, int group,
                                           const Item& item, int first_word, bool sends, uint32_t bits) {
  constexpr int kRegisters = Exchange::kHeld.registers, kValues = kRegisters * Math::kPair;
  const int lane = threadIdx.x % 32, in_word = lane % kValues;
  const int start = lane - in_word < 32 - kValues ? lane - in_word : 32 - kValues;
  if constexpr (Math::kPair == 2) bits |= shuffle_down(bits, 1) << 16;
  uint32_t payload[4] = {};
  RNNKERN_UNROLL
  for (int i = 0; i < kRegisters; ++i) payload[i] = shuffle(bits, start + i * Math::kPair);
  if (sends) exchange.send(layout, turn, group, item.n, first_word + item.word, payload, in_word);
}

// ---- The product

// The registers 2 * step and 2 * step + 1 of a lane's two words of a chunk are multiplied by this fragment of the weights.
template <class Math>
__device__ __forceinline__ uint4 find_fragment(const Packing& job, const Layout& layout, int block,
                                               const WarpPart& part, int fragment) {
  using S = typename Math::Element;
  const int registers = held(job.plan.clusters, layout.gates, Math::kArithmetic).registers;
  const int tile = fragment % layout.tiles_each, step = fragment / layout.tiles_each % registers;
  const int chunk = fragment / layout.tiles_each / registers, lane = threadIdx.x % 32;
  uint32_t a[4] = {};
  RNNKERN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int line = (part.first_tile + tile) * kTileRows + i % 2 * 8 + lane / 4, in_words = 2 * step + i / 2;
    const int word = (part.first_chunk + chunk) * kChunkWords + in_words / registers * 4 + lane % 4;
    const bool exists =
        chunk < part.chunks && tile < part.tiles && word < layout.words && line < layout.rows_of_product;
    const int64_t H = job.hidden, unit = block * layout.units + line / layout.gates;
    const int64_t other = word / layout.block_words * layout.units + word % layout.slice_words * layout.values;
    const int segment = word % layout.block_words / layout.slice_words;
    RNNKERN_UNROLL
    for (int e = 0; e < Math::kPair; ++e) {
      const int64_t k = other + in_words % registers * Math::kPair + e;
      if (!exists || unit >= H || k >= H) continue;
      const int64_t row = job.backward ? segment * H + k : line % layout.gates * H + unit;
      const S value = static_cast<const S*>(job.w_hh)[row * H + (job.backward ? unit : k)];
      a[i] |= Math::bits(Math::round(value)) << (16 * e);
    }
  }
  return make_uint4(a[0], a[1], a[2], a[3]);
}

// A block packs what a block of the group multiplies by: [warp][fragment][lane].
template <class Math>
__global__ void __launch_bounds__(kThreads) pack_kernel(const Packing job) {
  const int gates = job.backward ? 1 : job.gates, segments = job.backward ? job.gates : 1;
  const Layout layout(job.plan, Math::kArithmetic, gates, segments, 1);
  const WarpPart part(layout, int(threadIdx.x) / 32);
  const int count = layout.fragments_of_warp(held(job.plan.clusters, gates, Math::kArithmetic));
  const int block = int(blockIdx.x) % job.plan.blocks, first = int(blockIdx.x) / job.plan.blocks;
  auto* packed = static_cast<uint4*>(job.packed) + (int64_t(block) * kWarps + threadIdx.x / 32) * count * 32;
  for (int i = first; i < count; i += int(gridDim.x) / job.plan.blocks) {
    packed[i * 32 + threadIdx.x % 32] = find_fragment<Math>(job, layout, block, part, i);
  }
}

// A warp's part of the product, with the weights that it keeps. `partial` is [warp in depth][row of the batch][row of the
// product], in shared memory.
template <class Math, class Exchange>
class Product {
 public:
  static constexpr Held kHeld = Exchange::kHeld;
  static constexpr int kRegisters = kHeld.registers;
  static constexpr int kChains = kHeld.tiles > 1 ? 1 : kRegisters;  // sums that do not wait for each other

  __device__ __forceinline__ Product(const Layout& layout, const void* weights, int rank)
      : part_(layout, shuffle(int(threadIdx.x) / 32, 0)) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, each = layout.fragments_of_chunk(kHeld);
    const int all = layout.fragments_of_warp(kHeld);
    const uint4* const from = static_cast<const uint4*>(weights) + (int64_t(rank) * kWarps + warp) * all * 32 + lane;
    RNNKERN_UNROLL
    for (int c = 0; c < kHeld.chunks; ++c) {
      RNNKERN_UNROLL
      for (int s = 0; s < kRegisters; ++s) {
        RNNKERN_UNROLL
        for (int t = 0; t < kHeld.tiles; ++t) {
          const bool exists = c < layout.chunks_each && t < layout.tiles_each;
          kept_[c][s][t] = exists ? from[(c * each + s * layout.tiles_each + t) * 32] : make_uint4(0, 0, 0, 0);
        }
      }
    }
    shared_ = shared_memory<uint4>(layout.weights) + warp * layout.chunks_shared * each * 32 + lane;
    for (int i = 0; i < layout.chunks_shared * each; ++i) shared_[i * 32] = from[(kHeld.chunks * each + i) * 32];
  }

  // For a group of rows: what the exchange has in that turn. By all threads of the block.
  __device__ __forceinline__ void multiply(const Layout& layout, const Exchange& exchange, int turn, int group,
                                           float* partial) const {
    exchange.await(layout, turn, group);
    if (part_.tiles == 0) return;
    if (kHeld.columns == 1 || layout.group_rows == kColumns) {
      multiply_columns<1>(layout, exchange, turn, group, partial);
    } else {
      multiply_columns<kHeld.columns>(layout, exchange, turn, group, partial);
    }
  }

 private:
  template <int kCount>
  using Sums = float[kChains][kHeld.tiles][kCount][4];

  template <int kCount>
  __device__ __forceinline__ void multiply_columns(const Layout& layout, const Exchange& exchange, int turn, int group,
                                                   float* partial) const {
    Sums<kCount> sums = {};
    typename Exchange::template Batch<kCount> batch;
    exchange.fetch(layout, batch, turn, group, part_.first_chunk, part_.chunks);
    RNNKERN_UNROLL
    for (int c = 0; c < kHeld.chunks; ++c) {
      if (c >= part_.chunks) break;
      multiply_chunk<kCount>(sums, batch, c, [&](int s, int t) { return kept_[c][s][t]; });
    }
    RNNKERN_NO_UNROLL
    for (int first = kHeld.chunks; first < part_.chunks; first += kHeld.chunks) {
      exchange.fetch(layout, batch, turn, group, part_.first_chunk + first, part_.chunks - first);
      const int each = layout.fragments_of_chunk(kHeld);
      RNNKERN_UNROLL
      for (int c = 0; c < kHeld.chunks; ++c) {
        if (first + c >= part_.chunks) break;
        const uint4* const fragments = shared_ + (first + c - kHeld.chunks) * each * 32;
        multiply_chunk<kCount>(sums, batch, c, [&](int s, int t) {
          return t < layout.tiles_each ? fragments[(s * layout.tiles_each + t) * 32] : make_uint4(0, 0, 0, 0);
        });
      }
    }
    store_sums<kCount>(layout, sums, partial);
  }

  template <int kCount, class Batch, class Left>
  static __device__ __forceinline__ void multiply_chunk(Sums<kCount>& sums, const Batch& batch, int c,
                                                        const Left& left) {
    uint32_t right[kCount][2 * kRegisters];
    RNNKERN_UNROLL
    for (int i = 0; i < kCount * 2; ++i) {
      const uint4 word = batch.word(c, i % 2, i / 2);
      const uint32_t registers[4] = {word.x, word.y, word.z, word.w};
      RNNKERN_UNROLL
      for (int r = 0; r < kRegisters; ++r) right[i / 2][i % 2 * kRegisters + r] = registers[r];
    }
    RNNKERN_UNROLL
    for (int s = 0; s < kRegisters; ++s) {
      RNNKERN_UNROLL
      for (int t = 0; t < kHeld.tiles; ++t) {
        const uint4 fragment = left(s, t);
        const uint32_t a[4] = {fragment.x, fragment.y, fragment.z, fragment.w};
        RNNKERN_UNROLL
        for (int column = 0; column < kCount; ++column) {
          const uint32_t b[2] = {right[column][2 * s], right[column][2 * s + 1]};
          Math::multiply(sums[s % kChains][t][column], a, b);
        }
      }
    }
  }

  template <int kCount>
  __device__ __forceinline__ void store_sums(const Layout& layout, const Sums<kCount>& sums, float* partial) const {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    float* const to =
        partial + (part_.deep * layout.group_rows + quad * 2) * layout.pitch + part_.first_tile * kTileRows + group;
    RNNKERN_UNROLL
    for (int t = 0; t < kHeld.tiles; ++t) {
      if (t >= part_.tiles) break;
      RNNKERN_UNROLL
      for (int i = 0; i < kCount * 4; ++i) {
        float value = sums[0][t][i / 4][i % 4];
        RNNKERN_UNROLL
        for (int chain = 1; chain < kChains; ++chain) value += sums[chain][t][i / 4][i % 4];
        to[(i / 4 * kColumns + i % 2) * layout.pitch + t * kTileRows + i % 4 / 2 * 8] = value;
      }
    }
  }

  const WarpPart part_;
  uint4* shared_;
  uint4 kept_[kHeld.chunks][kRegisters][kHeld.tiles];
};

// The rows [row, row + kCount) of a product for a row of the batch.
template <int kCount>
__device__ __forceinline__ void add_up(float (&sum)[kCount], const Layout& layout, const float* partial, int n,
                                       int row) {
  cuda::add_up<kWarps>(sum, partial + n * layout.pitch + row, layout.group_rows * layout.pitch, layout.warps_deep);
}

// ---- What both passes do

// The two buffers that products go to in turn: one is read while the other is written.
class Partial {
 public:
  __device__ __forceinline__ explicit Partial(const Layout& layout)
      : now_(shared_memory<float>(layout.partial)), floats_(layout.warps_deep * layout.group_rows * layout.pitch) {}
  __device__ __forceinline__ float* get() const { return now_ + which_ * floats_; }
  __device__ __forceinline__ void swap() { which_ ^= 1; }

 private:
  float* now_;
  int floats_, which_ = 0;
};

// A thread's states in a group of rows, which no other reads.
__device__ __forceinline__ float& state_of(const Layout& layout, int k, int group) {
  return shared_memory<float>(layout.states)[(k * layout.groups + group) * kThreads + threadIdx.x];
}

// Where an item stands in a group of rows.
struct Spot {
  int64_t row, unit;  // of the batch, of the layer
  bool sends;         // it is part of a word
  bool runs;          // it is a unit
};

__device__ __forceinline__ Spot find_spot(const Layout& layout, const Part& part, const Item& item, int group,
                                          int hidden) {
  const int n = group * layout.group_rows + item.n, unit = part.first_unit + item.unit;
  const bool sends = item.exists && n < part.rows;
  return {part.first_row + n, unit, sends, sends && unit < hidden};
}

// ---- Forward

template <class Cell, class Math, template <class, int> class ExchangeOf>
class ForwardBlock {
 public:
  __device__ __forceinline__ explicit ForwardBlock(const ForwardChunk& chunk)
      : chunk_(chunk),
        layout_(chunk.plan, Math::kArithmetic, kGates, 1, kStates),
        part_(chunk),
        own_(chunk.direction[part_.direction]),
        row_step_(chunk.row_step[part_.direction]),
        H(chunk.hidden),
        item_(layout_),
        product_(layout_, own_.weights, part_.place.rank),
        exchange_(layout_, part_.place, chunk.plan, part_.rows, chunk.exchange, chunk.first_tag),
        b_ih_(shared_memory<float>(layout_.biases)),
        b_hh_(b_ih_ + layout_.rows_of_product) {}

  __device__ __forceinline__ void run() {
    load_biases();
    for (int group = 0; group < layout_.groups; ++group) start(group);
    load_x(0, 0);
    sync_block();
    Partial partial(layout_);
    for (int step = 0; step < chunk_.steps; ++step) {
      const bool last = step + 1 == chunk_.steps;
      for (int group = 0; group < layout_.groups; ++group) {
        product_.multiply(layout_, exchange_, step, group, partial.get());
        if (!last) exchange_.expect(layout_, step + 1, group);
        sync_block();
        run_cell(step, group, last, partial.get());
        partial.swap();
        prefetch_x(step + kStepsAhead, group);
        const int next = group + 1 < layout_.groups ? group + 1 : 0;
        if (next > 0 || !last) load_x(next > 0 ? step : step + 1, next);
      }
    }
  }

 private:
  using S = typename Math::Element;
  using V = Scalar<float>;
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  using Exchange = ExchangeOf<Math, kGates>;

  __device__ __forceinline__ void load_biases() {
    for (int i = threadIdx.x; i < layout_.rows_of_product; i += kThreads) {
      const int64_t unit = part_.first_unit + i / kGates, gate = i % kGates * H + unit;
      b_ih_[i] = unit < H && own_.b_ih != nullptr ? load<S>(own_.b_ih, gate).value : 0;
      b_hh_[i] = unit < H && own_.b_hh != nullptr ? load<S>(own_.b_hh, gate).value : 0;
    }
  }

  // The states before the chunk.
  __device__ __forceinline__ void start(int group) {
    for (int step = 0; step < kStepsAhead; ++step) prefetch_x(step, group);
    const Spot spot = find_spot(layout_, part_, item_, group, chunk_.hidden);
    const int64_t at = spot.row * H + spot.unit;
    V h(0);
    if (spot.runs) {
      h = load<S>(own_.h, spot.row * own_.h_stride + spot.unit);
      if (Cell::kDirectH) state_of(layout_, 0, group) = h.value;
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        const V state = own_.initial[k] != nullptr ? load<S>(own_.initial[k], at) : load<float>(own_.running[k], at);
        state_of(layout_, k, group) = state.value;
      }
    }
    exchange_.expect(layout_, 0, group);
    send(0, group, spot, narrow<S>(h.value));
  }

  __device__ __forceinline__ void send(int turn, int group, const Spot& spot, S h) const {
    send_words<Math>(layout_, exchange_, turn, group, item_, part_.place.rank * layout_.block_words, spot.sends,
                     Math::bits(Math::round(h)));
  }

  // visit(gate, index) of the input's part of the unit's gates.
  template <class Visit>
  __device__ __forceinline__ void visit_x(int step, int group, const Visit& visit) const {
    const Spot spot = find_spot(layout_, part_, item_, group, chunk_.hidden);
    if (!spot.runs) return;
    const int64_t row = step * row_step_ + spot.row;
    RNNKERN_UNROLL
    for (int g = 0; g < kGates; ++g) visit(g, (row * kGates + g) * H + spot.unit);
  }

  __device__ __forceinline__ void load_x(int step, int group) {
    visit_x(step, group, [&](int g, int64_t index) { x_[g] = load<float>(own_.x_gates, index); });
  }

  __device__ __forceinline__ void prefetch_x(int step, int group) const {
    if (step >= chunk_.steps) return;
    visit_x(step, group, [&](int, int64_t index) { prefetch_l2(static_cast<const float*>(own_.x_gates) + index); });
  }

  __device__ __forceinline__ void run_cell(int step, int group, bool last, const float* partial) {
    const Spot spot = find_spot(layout_, part_, item_, group, chunk_.hidden);
    Pack<V, kStates> state{};
    Pack<V, Cell::kSaved> saved{};
    S h{};
    if (spot.runs) {
      const int first_gate = item_.unit * kGates;
      float sum[kGates];
      add_up(sum, layout_, partial, item_.n, first_gate);
      Pack<V, kGates> r;
      RNNKERN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        r[g] = V(sum[g] + b_hh_[first_gate + g]);
        x_[g] = x_[g] + V(b_ih_[first_gate + g]);
      }
      RNNKERN_UNROLL
      for (int k = Cell::kDirectH ? 0 : 1; k < kStates; ++k) state[k] = V(state_of(layout_, k, group));
      Cell::forward(x_, r, state, saved);
      h = narrow<S>(state[0].value);
    }
    if (!last) send(step + 1, group, spot, h);
    if (!spot.runs) return;
    state[0] = V(widen(h));  // the next step reads what was put out
    RNNKERN_UNROLL
    for (int k = Cell::kDirectH ? 0 : 1; k < kStates; ++k) state_of(layout_, k, group) = state[k].value;
    put_out(step * row_step_ + spot.row, spot.unit, state, saved);
    if (last) put_out_final(spot.row * H + spot.unit, state);
  }

  __device__ __forceinline__ void put_out(int64_t row, int64_t unit, const Pack<V, kStates>& state,
                                          const Pack<V, Cell::kSaved>& saved) const {
    store<S>(own_.y, row * own_.y_stride + unit, state[0]);
    RNNKERN_UNROLL
    for (int k = 1; k < kStates; ++k) {
      if (own_.states[k] != nullptr) store<float>(own_.states[k], row * H + unit, state[k]);
    }
    if (own_.saved == nullptr) return;
    RNNKERN_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) store<float>(own_.saved, (row * Cell::kSaved + k) * H + unit, saved[k]);
  }

  __device__ __forceinline__ void put_out_final(int64_t at, const Pack<V, kStates>& state) const {
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) {
      if (k > 0) store<float>(own_.running[k], at, state[k]);
      if (own_.final[k] != nullptr) store<S>(own_.final[k], at, state[k]);
    }
  }

  const ForwardChunk& chunk_;
  const Layout layout_;
  const Part part_;
  const ForwardDirection& own_;
  const int64_t row_step_, H;
  const Item item_;
  const Product<Math, Exchange> product_;
  const Exchange exchange_;
  float *const b_ih_, *const b_hh_;  // shared memory, as the rows of the product
  Pack<V, kGates> x_;                // of the next step
};

// ---- Backward

template <class Cell, class Math, template <class, int> class ExchangeOf>
class BackwardBlock {
 public:
  __device__ __forceinline__ explicit BackwardBlock(const BackwardChunk& chunk)
      : chunk_(chunk),
        layout_(chunk.plan, Math::kArithmetic, 1, kGates, kStates),
        part_(chunk),
        own_(chunk.direction[part_.direction]),
        row_step_(chunk.row_step[part_.direction]),
        H(chunk.hidden),
        item_(layout_),
        product_(layout_, own_.weights, part_.place.rank),
        exchange_(layout_, part_.place, chunk.plan, part_.rows, chunk.exchange, chunk.first_tag) {}

  __device__ __forceinline__ void run() {
    for (int group = 0; group < layout_.groups; ++group) start(group);
    load_kept(0, 0);
    Partial partial(layout_);
    for (int step = 0; step < chunk_.steps; ++step) {
      for (int group = 0; group < layout_.groups; ++group) {
        if (step > 0) product_.multiply(layout_, exchange_, step - 1, group, partial.get());
        exchange_.expect(layout_, step, group);
        sync_block();
        run_cell(step, group, partial.get());
        partial.swap();
        prefetch_kept(step + kStepsAhead, group);
        const int next = group + 1 < layout_.groups ? group + 1 : 0;
        if (next > 0 || step + 1 < chunk_.steps) load_kept(next > 0 ? step : step + 1, next);
      }
    }
    for (int group = 0; group < layout_.groups; ++group) {
      product_.multiply(layout_, exchange_, chunk_.steps - 1, group, partial.get());
      sync_block();
      finish(group, partial.get());
      partial.swap();
    }
  }

 private:
  using S = typename Math::Element;
  using V = Scalar<float>;
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  using Exchange = ExchangeOf<Math, 1>;

  // What forward kept of a step, and the gradient of its output. Loaded before the blocks meet, used behind it.
  // As stored, since a conversion would wait for what it converts.
  struct Kept {
    S dy, old_h, new_h;
    Pack<V, kStates> old_state, new_state;  // 1.. only
    Pack<V, Cell::kSaved> saved;
  };

  __device__ __forceinline__ Spot spot_of(int group) const {
    return find_spot(layout_, part_, item_, group, chunk_.hidden);
  }

  __device__ __forceinline__ void start(int group) {
    for (int step = 0; step < kStepsAhead; ++step) prefetch_kept(step, group);
    const Spot spot = spot_of(group);
    if (!spot.runs) return;
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) {
      state_of(layout_, k, group) = load<float>(own_.dstate[k], spot.row * H + spot.unit).value;
    }
  }

  __device__ __forceinline__ void load_kept(int step, int group) {
    const Spot spot = spot_of(group);
    if (!spot.runs) return;
    const int64_t row = step * row_step_ + spot.row, before = row + row_step_, unit = spot.unit;
    const int64_t initial = spot.row * H + unit;
    const bool fresh = step + 1 == chunk_.steps && own_.initial[0] != nullptr;
    kept_.dy = element<S>(own_.dy, row * own_.y_stride + unit);
    kept_.new_h = element<S>(own_.y, row * own_.y_stride + unit);
    if (Cell::kDirectH || own_.previous_h != nullptr) {
      kept_.old_h = fresh ? element<S>(own_.initial[0], initial) : element<S>(own_.y, before * own_.y_stride + unit);
    }
    RNNKERN_UNROLL
    for (int k = 1; k < kStates; ++k) {
      kept_.new_state[k] = load<float>(own_.states[k], row * H + unit);
      kept_.old_state[k] = fresh ? load<S>(own_.initial[k], initial) : load<float>(own_.states[k], before * H + unit);
    }
    RNNKERN_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      kept_.saved[k] = load<float>(own_.saved, (row * Cell::kSaved + k) * H + unit);
    }
  }

  __device__ __forceinline__ void prefetch_kept(int step, int group) const {
    if (step >= chunk_.steps) return;
    const Spot spot = spot_of(group);
    if (!spot.runs) return;
    const int64_t row = step * row_step_ + spot.row, unit = spot.unit;
    prefetch_l2(static_cast<const S*>(own_.dy) + row * own_.y_stride + unit);
    prefetch_l2(static_cast<const S*>(own_.y) + row * own_.y_stride + unit);
    RNNKERN_UNROLL
    for (int k = 1; k < kStates; ++k) prefetch_l2(static_cast<const float*>(own_.states[k]) + row * H + unit);
    RNNKERN_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      prefetch_l2(static_cast<const float*>(own_.saved) + (row * Cell::kSaved + k) * H + unit);
    }
  }

  // The gradient that the later step gives to h.
  __device__ __forceinline__ V from_later(int step, const Spot& spot, const float* partial) const {
    if (step > 0) {
      float sum[1];
      add_up(sum, layout_, partial, item_.n, item_.unit);
      return V(sum[0]);
    }
    return chunk_.ends ? V(0) : load<float>(own_.product, spot.row * H + spot.unit);
  }

  __device__ __forceinline__ void run_cell(int step, int group, const float* partial) {
    const Spot spot = spot_of(group);
    const int64_t row = step * row_step_ + spot.row;
    Pack<V, kGates> dx{}, dr{};
    if (spot.runs) {
      Pack<V, kStates> dstate{};
      RNNKERN_UNROLL
      for (int k = 0; k < kStates; ++k) dstate[k] = V(state_of(layout_, k, group));
      if constexpr (Cell::kDirectH) kept_.old_state[0] = V(widen(kept_.old_h));
      kept_.new_state[0] = V(widen(kept_.new_h));
      V dh = V(widen(kept_.dy)) + from_later(step, spot, partial);
      if (Cell::kDirectH || (chunk_.ends && step == 0)) dh = dh + dstate[0];
      dstate[0] = dh;
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        if (own_.dstates[k] != nullptr) dstate[k] = dstate[k] + load<float>(own_.dstates[k], row * H + spot.unit);
      }
      Cell::backward(kept_.saved, kept_.old_state, kept_.new_state, dstate, dx, dr);
      RNNKERN_UNROLL
      for (int k = 0; k < kStates; ++k) state_of(layout_, k, group) = dstate[k].value;
    }
    RNNKERN_UNROLL
    for (int g = 0; g < kGates; ++g) {
      const S gradient = narrow<S>((Cell::kSplitGates ? dr[g] : dx[g]).value);
      send_words<Math>(layout_, exchange_, step, group, item_,
                       part_.place.rank * layout_.block_words + g * layout_.slice_words, spot.sends,
                       Math::bits(Math::round(gradient)));
    }
    if (spot.runs) put_out(row, spot.unit, dx, dr);
  }

  __device__ __forceinline__ void put_out(int64_t row, int64_t unit, const Pack<V, kGates>& dx,
                                          const Pack<V, kGates>& dr) const {
    if (own_.previous_h != nullptr) static_cast<S*>(own_.previous_h)[row * H + unit] = kept_.old_h;
    RNNKERN_UNROLL
    for (int g = 0; g < kGates; ++g) {
      const int64_t gate = (row * kGates + g) * H + unit;
      store<S>(own_.dx_gates, gate, dx[g]);
      if constexpr (Cell::kSplitGates) store<S>(own_.dr_gates, gate, dr[g]);
    }
  }

  // The gradients before the chunk.
  __device__ __forceinline__ void finish(int group, const float* partial) const {
    const Spot spot = spot_of(group);
    if (!spot.runs) return;
    const int64_t at = spot.row * H + spot.unit;
    const bool begins = own_.initial[0] != nullptr;
    const V product = from_later(chunk_.steps, spot, partial);
    RNNKERN_UNROLL
    for (int k = 0; k < kStates; ++k) {
      V dstate(state_of(layout_, k, group));
      if (k == 0 && begins) dstate = Cell::kDirectH ? dstate + product : product;
      if (k > 0 || Cell::kDirectH || begins) store<float>(own_.dstate[k], at, dstate);
    }
    if (!begins) store<float>(own_.product, at, product);
  }

  const BackwardChunk& chunk_;
  const Layout layout_;
  const Part part_;
  const BackwardDirection& own_;
  const int64_t row_step_, H;
  const Item item_;
  const Product<Math, Exchange> product_;
  const Exchange exchange_;
  Kept kept_;  // of the next step
};

// ---- Launches

// What older devices would trap in is not compiled for them.
template <class Cell, class Math, template <class, int> class Exchange>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ ForwardChunk chunk) {
  if constexpr (kCapability >= Exchange<Math, 1>::kCapabilityNeeded) {
    ForwardBlock<Cell, Math, Exchange>(chunk).run();
  } else {
    give_up();
  }
}

template <class Cell, class Math, template <class, int> class Exchange>
__global__ void __launch_bounds__(kThreads, 1) backward_kernel(const __grid_constant__ BackwardChunk chunk) {
  if constexpr (kCapability >= Exchange<Math, 1>::kCapabilityNeeded) {
    BackwardBlock<Cell, Math, Exchange>(chunk).run();
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
  const Layout layout(chunk.plan, Math::kArithmetic, Cell::kGates, 1, Cell::kStates);
  const LaunchConfig config = launch_config(layout, chunk, stream);
  chunk.plan.clusters ? launch(forward_kernel<Cell, Math, ClusterExchange>, config, chunk)
                      : launch(forward_kernel<Cell, Math, GridExchange>, config, chunk);
}

template <class Cell, class Math>
void launch_backward(const BackwardChunk& chunk, cudaStream_t stream) {
  const Layout layout(chunk.plan, Math::kArithmetic, 1, Cell::kGates, Cell::kStates);
  const LaunchConfig config = launch_config(layout, chunk, stream);
  chunk.plan.clusters ? launch(backward_kernel<Cell, Math, ClusterExchange>, config, chunk)
                      : launch(backward_kernel<Cell, Math, GridExchange>, config, chunk);
}

template <class Math>
void launch_pack(const Packing& job, cudaStream_t stream) {
  constexpr int kBlocks = 512;  // enough to fill any GPU
  LaunchConfig config;
  config.grid = dim3(unsigned(job.plan.blocks * std::max(1, kBlocks / job.plan.blocks)));
  config.block = dim3(kThreads);
  config.stream = stream;
  launch(pack_kernel<Math>, config, job);
}

template <class Cell, class Math>
Kernels kernels_of() {
  return {launch_pack<Math>, launch_forward<Cell, Math>, launch_backward<Cell, Math>};
}

template <class Cell>
Kernels make_kernels(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kFloat) return kernels_of<Cell, MmaFloat>();
  return visit_tensor_cores(arithmetic, [](auto math) { return kernels_of<Cell, decltype(math)>(); });
}

}  // namespace rnnkern::cuda::resident
