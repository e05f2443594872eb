// The kernels of fused.h.
#pragma once

#include "cells/all.h"
#include "common/pack.h"
#include "cuda/fused.h"
#include "cuda/mma.cuh"
#include "cuda/pointwise.cuh"

namespace rnnkern::cuda::fused {

// ---- Before the steps

inline LaunchConfig one_thread_each(int64_t count, cudaStream_t stream) {
  return {dim3(static_cast<unsigned>(ceil_div(count, kThreads))), dim3(kThreads), 0, stream};
}

__device__ __forceinline__ int64_t my_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

// [tile][chunk][half of a word's depth][lane]: a lane's four registers of a product.
template <class Math>
__global__ void __launch_bounds__(kThreads) pack_kernel(const Packing job) {
  using S = typename Math::Element;
  const Layout& layout = job.layout;
  const int64_t index = my_index(), H = layout.hidden;
  if (index >= layout.weight_words()) return;
  const int lane = index % 32, half = index / 32 % 2;
  const int64_t tile = index / kFragments / layout.chunks;
  const int word = index / kFragments % layout.chunks * kChunkWords + lane % 4, segment = word / layout.slice_words;
  uint32_t registers[4] = {};
  RNNKERN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t line = tile * kTileRows + i % 2 * 8 + lane / 4, unit = line / layout.gates;
    RNNKERN_UNROLL
    for (int e = 0; e < Math::kPair; ++e) {
      const int64_t k = word % layout.slice_words * layout.values + (half * 2 + i / 2) * Math::kPair + e;
      if (unit >= H || segment >= layout.segments || k >= H) continue;
      const int64_t at = job.backward ? (segment * H + k) * H + unit : (line % layout.gates * H + unit) * H + k;
      const S value = static_cast<const S*>(job.w_hh)[at];
      registers[i] |= Math::bits(Math::round(value)) << (e * 16);
    }
  }
  static_cast<uint4*>(job.packed)[index] = make_uint4(registers[0], registers[1], registers[2], registers[3]);
}

template <class Math>
__global__ void __launch_bounds__(kThreads) start_kernel(const Start job) {
  using S = typename Math::Element;
  const Layout& layout = job.layout;
  const int64_t index = my_index(), width = layout.words() * layout.values, n = index / width, unit = index % width;
  if (index >= layout.operand_words() * layout.values) return;
  const bool exists = n < layout.batch && unit < layout.hidden;
  const S value = exists ? Math::round(static_cast<const S*>(job.h)[n * layout.hidden + unit]) : S{};
  RNNKERN_UNROLL
  for (int i = 0; i < 2; ++i) static_cast<S*>(job.operands[i])[index] = value;
}

// ---- The product

// A warp's sums of a block's product, over its part of the depth. A block's are [warp in depth][row of the batch][row of the
// product], in shared memory.
template <class Math, int kTiles>
class Product {
 public:
  __device__ __forceinline__ explicit Product(const Step& job)
      : chunks_(job.layout.chunks), row_words_(job.layout.words()) {
    const Layout& layout = job.layout;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    row_ = warp % layout.across * kRows;
    deep_ = warp / layout.across;
    warps_deep_ = kWarps / layout.across;
    left_ = static_cast<const uint4*>(job.weights) + int64_t(blockIdx.x) * kTiles * chunks_ * kFragments + lane;
    const int64_t row = int64_t(blockIdx.y) * layout.rows + row_ + lane / 4;
    right_ = static_cast<const uint4*>(job.operand) + row * row_words_ + lane % 4;
  }

  __device__ __forceinline__ void multiply() {
    for (int chunk = deep_; chunk < chunks_; chunk += kBatch * warps_deep_) multiply_batch(chunk);
  }

  __device__ __forceinline__ void store(const Layout& layout, float* partial) const {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    float* const to = partial + (deep_ * layout.rows + row_ + quad * 2) * pitch(kTiles) + group;
    RNNKERN_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RNNKERN_UNROLL
      for (int i = 0; i < 8; ++i) {
        float value = sums_[0][t][i / 4][i % 4];
        if constexpr (kChains == 2) value += sums_[1][t][i / 4][i % 4];
        to[(i / 4 * kColumns + i % 2) * pitch(kTiles) + t * kTileRows + i % 4 / 2 * 8] = value;
      }
    }
  }

 private:
  static constexpr int kBatch = 4;
  static constexpr int kChains = kTiles == 1 ? 2 : 1;  // sums that do not wait for each other

  // All words of a batch of chunks are asked for before the first is used. The compiler keeps to that as there is a branch
  // for each chunk, which the depth needs anyway.
  __device__ __forceinline__ void multiply_batch(int first) {
    uint4 left[kBatch][kTiles][2], right[kBatch][2];
    RNNKERN_UNROLL
    for (int c = 0; c < kBatch; ++c) {
      const int chunk = first + c * warps_deep_;
      if (chunk >= chunks_) break;
      RNNKERN_UNROLL
      for (int i = 0; i < 2; ++i) {
        right[c][i] = right_[i * kColumns * row_words_ + chunk * kChunkWords];
        RNNKERN_UNROLL
        for (int t = 0; t < kTiles; ++t) left[c][t][i] = left_[(t * chunks_ + chunk) * kFragments + i * 32];
      }
    }
    RNNKERN_UNROLL
    for (int c = 0; c < kBatch; ++c) {
      if (first + c * warps_deep_ >= chunks_) break;
      RNNKERN_UNROLL
      for (int t = 0; t < kTiles; ++t) multiply_words(sums_, t, left[c][t], right[c]);
    }
  }

  // A word's depth is that of two products.
  __device__ __forceinline__ static void multiply_words(float (&sums)[kChains][kTiles][2][4], int tile,
                                                        const uint4 (&left)[2], const uint4 (&right)[2]) {
    RNNKERN_UNROLL
    for (int s = 0; s < 2; ++s) {
      const uint32_t a[4] = {left[s].x, left[s].y, left[s].z, left[s].w};
      RNNKERN_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint32_t b[2] = {s == 0 ? right[i].x : right[i].z, s == 0 ? right[i].y : right[i].w};
        Math::multiply(sums[s % kChains][tile][i], a, b);
      }
    }
  }

  const int chunks_, row_words_;
  int row_, deep_, warps_deep_;  // row: the first of the warp's, in the block
  const uint4 *left_, *right_;
  float sums_[kChains][kTiles][2][4] = {};
};

// ---- Steps

// A unit and row of the block.
struct Item {
  int n, unit;            // within the block
  int64_t row, of_layer;  // of the batch; the unit's number in the layer

  __device__ __forceinline__ Item(int units, int rows, int index)
      : n(index / units),
        unit(index % units),
        row(int64_t(blockIdx.y) * rows + n),
        of_layer(int64_t(blockIdx.x) * units + unit) {}
};

// A block's part of a step. For each of its units and rows, load(item) reads what the cell needs, and run(item, inputs,
// product) runs it with its kGates rows of the product. What the first item needs is loaded before the product.
template <class Math, int kGates, class Inputs, class Load, class Run>
__device__ __forceinline__ void run_items(const Step& job, int64_t rows, const Load& load, const Run& run) {
  constexpr int kUnits = units_of_block(kGates), kTiles = kUnits * kGates / kTileRows;
  const Layout& layout = job.layout;
  float* const partial = shared_memory<float>();
  const int count = layout.rows * kUnits;
  const auto exists = [&](const Item& item) { return item.row < rows && item.of_layer < layout.hidden; };

  int index = threadIdx.x;
  Inputs inputs{};
  if (const Item item(kUnits, layout.rows, index); index < count && exists(item)) inputs = load(item);
  Product<Math, kTiles> product(job);
  product.multiply();
  product.store(layout, partial);
  sync_block();
  for (; index < count; index += kThreads) {
    const Item item(kUnits, layout.rows, index);
    if (!exists(item)) continue;
    if (index >= kThreads) inputs = load(item);
    float sum[kGates];
    add_up<kWarps>(sum, partial + item.n * pitch(kTiles) + item.unit * kGates, layout.rows * pitch(kTiles),
                   kWarps / layout.across);
    run(item, inputs, sum);
  }
}

template <class Cell, class Math>
__device__ __forceinline__ void forward_step(const ForwardStep& step, const Step& job) {
  using S = typename Math::Element;
  using Inputs = ForwardInputs<Cell, S>;
  constexpr int kGates = Cell::kGates;
  run_items<Math, kGates, Inputs>(
      job, step.rows, [&](const Item& item) { return load_forward<Cell, S>(step, item.row, item.of_layer); },
      [&](const Item& item, const Inputs& inputs, const float (&sum)[kGates]) {
        Pack<Scalar<float>, kGates> product;
        RNNKERN_UNROLL
        for (int g = 0; g < kGates; ++g) product[g] = Scalar<float>(sum[g]);
        const S h = run_forward<Cell, S>(step, item.row, item.of_layer, inputs, product);
        static_cast<S*>(job.next)[job.layout.element(item.row, 0, item.of_layer)] = Math::round(h);
      });
}

template <class Cell, class Math>
__device__ __forceinline__ void backward_step(const BackwardStep& step, const Step& job) {
  using S = typename Math::Element;
  using Inputs = BackwardInputs<Cell, S>;
  run_items<Math, 1, Inputs>(
      job, step.rows, [&](const Item& item) { return load_backward<Cell, S>(step, item.row, item.of_layer); },
      [&](const Item& item, const Inputs& inputs, const float (&sum)[1]) {
        const Scalar<float> product(sum[0]);
        const Pack<S, Cell::kGates> gradients = run_backward<Cell, S>(step, item.row, item.of_layer, inputs, product);
        RNNKERN_UNROLL
        for (int g = 0; g < Cell::kGates; ++g) {
          static_cast<S*>(job.next)[job.layout.element(item.row, g, item.of_layer)] = Math::round(gradients[g]);
        }
      });
}

inline constexpr int kCapabilityNeeded = 80;  // what older devices would trap in is not compiled for them

template <class Cell, class Math>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ ForwardStep step, const __grid_constant__ Step job) {
  if constexpr (kCapability >= kCapabilityNeeded) {
    forward_step<Cell, Math>(step, job);
  } else {
    give_up();
  }
}

template <class Cell, class Math>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const __grid_constant__ BackwardStep step, const __grid_constant__ Step job) {
  if constexpr (kCapability >= kCapabilityNeeded) {
    backward_step<Cell, Math>(step, job);
  } else {
    give_up();
  }
}

// ---- Launches

template <class Math>
void launch_pack(const Packing& job, cudaStream_t stream) {
  launch(pack_kernel<Math>, one_thread_each(job.layout.weight_words(), stream), job);
}

template <class Math>
void launch_start(const Start& job, cudaStream_t stream) {
  launch(start_kernel<Math>, one_thread_each(job.layout.operand_words() * job.layout.values, stream), job);
}

// Blocks for the rows that are alive.
inline LaunchConfig launch_config(const Layout& layout, int64_t rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(layout.unit_blocks), static_cast<unsigned>(ceil_div(rows, layout.rows)));
  const size_t sums = size_t(kWarps * kRows * pitch(layout.tiles()));
  return {grid, dim3(kThreads), sums * sizeof(float), stream};
}

template <class Cell, class Math>
void launch_forward(const ForwardStep& step, const Step& job, cudaStream_t stream) {
  launch(forward_kernel<Cell, Math>, launch_config(job.layout, step.rows, stream), step, job);
}

template <class Cell, class Math>
void launch_backward(const BackwardStep& step, const Step& job, cudaStream_t stream) {
  launch(backward_kernel<Cell, Math>, launch_config(job.layout, step.rows, stream), step, job);
}

template <class Cell, class Math>
Kernels kernels_of() {
  return {Math::kArithmetic, launch_pack<Math>, launch_start<Math>, launch_forward<Cell, Math>,
          launch_backward<Cell, Math>};
}

template <class Cell>
Kernels make_kernels(Arithmetic arithmetic) {
  return visit_tensor_cores(arithmetic, [](auto math) { return kernels_of<Cell, decltype(math)>(); });
}

}  // namespace rnnkern::cuda::fused
