// How a resident kernel divides hidden units among blocks and a block's shared memory among its arrays. The plan asks
// for its size, the launch for its bytes, the kernel for its offsets.
#pragma once

#include "common/macros.h"
#include "cuda/plan.h"

namespace rnnkern::cuda::resident {

inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int kItems = 2;       // units times rows of a block, per thread, at most
inline constexpr int kTileRows = 16;   // of the operands of a tensor core's product
inline constexpr int kStepBytes = 32;  // of their depth
inline constexpr int kUnitsAlign = 8;  // a slice of units has whole lines of 16 bytes in any type

// Units [begin, begin + count) of a block; those from H on stand for none.
struct Slice {
  int begin, count;
};

// The product of a step: [gates * units] x depth forward (segments = 1), units x [segments * hidden] backward
// (gates = 1). The depth has `segments` parts, each as long as all slices together.
struct Layout {
  int units, rows;                     // of a block at most, and of the batch in a shard
  int segments, segment;               // of the depth; elements of each
  int hidden;                          // those of a segment that are units
  int tiles, operand_rows;             // rows of the operands, the left's in tiles
  int depth_valid_bytes, depth_bytes;  // of a row: all segments; padded to whole steps
  int depth_steps, slices;             // of the depth; parts of it that warps multiply side by side
  int pitch, partial_pitch;            // bytes, floats from row to row, chosen against conflicts of banks
  int weights_bytes, operand_bytes, exchange_bytes;
  int weights, operand, partial, staging, barriers, bytes;  // offsets; all together
  int operands;  // one, or two where peers store into the one that is not multiplied

  RNNKERN_HD Layout(const Resident& plan, int hidden_units, int gates, int depth_segments, int element_bytes)
      : units(plan.units), rows(plan.rows), segments(depth_segments), hidden(hidden_units) {
    segment = round_up(hidden_units, kUnitsAlign);
    tiles = round_up(gates * units, kTileRows) / kTileRows;
    operand_rows = round_up(rows, kTileRows);
    depth_valid_bytes = segments * segment * element_bytes;
    depth_bytes = round_up(depth_valid_bytes, kStepBytes);
    depth_steps = depth_bytes / kStepBytes;
    const int products = round_up(tiles, 4) / 4 * (operand_rows / kTileRows);
    slices = products >= kWarps ? 1 : kWarps / products;
    if (slices > depth_steps) slices = depth_steps;
    pitch = depth_bytes + 16;
    partial_pitch = tiles * kTileRows + 4;
    weights_bytes = tiles * kTileRows * pitch;
    operand_bytes = operand_rows * pitch;
    exchange_bytes = rows * depth_valid_bytes;
    weights = 0;
    operand = weights + weights_bytes;
    operands = plan.clusters ? 2 : 1;
    partial = operand + operands * operand_bytes;
    staging = partial + slices * operand_rows * partial_pitch * 4;
    barriers = staging + (plan.clusters ? round_up(rows * segments * units * element_bytes, 16) : 0);
    bytes = barriers + (plan.clusters ? 16 : 0);
  }

  static constexpr RNNKERN_HD int round_up(int value, int to) { return (value + to - 1) / to * to; }

  RNNKERN_HD Slice slice(const Resident& plan, int rank) const {
    const int begin = rank * plan.units, rest = segment - begin;
    return {begin, rest < plan.units ? rest : plan.units};
  }

  // Where element k of the depth, counted over segments of `hidden` units, stands in a row.
  RNNKERN_HD int position(int k) const { return k / hidden * segment + k % hidden; }
};

inline constexpr int kBarrierBytes = 128;  // a cache line for each group, which its blocks poll

// Of a call's exchange through the L2 cache, before the groups' own memory.
RNNKERN_HD int barrier_bytes(const Resident& plan) { return 2 * plan.shards * kBarrierBytes; }

}  // namespace rnnkern::cuda::resident
