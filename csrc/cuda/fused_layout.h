// How a fused kernel divides a step's product among blocks, warps and lanes, and how its operands are laid out. The
// launch asks for sizes, the kernels for offsets.
#pragma once

#include <cstdint>

#include "common/macros.h"
#include "cuda/plan.h"

namespace rnnkern::cuda::fused {

inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int kTileRows = 16;        // gates or units in a tensor core's product
inline constexpr int kColumns = 8;          // rows of the batch in one
inline constexpr int kRows = 2 * kColumns;  // that a warp multiplies
inline constexpr int kWordBytes = 16;       // what a lane loads at once
inline constexpr int kChunkWords = 4;       // of a row: one for each of the four lanes that share it
inline constexpr int kFragments = 2 * 32;   // words of a chunk of a tile's weights
inline constexpr int kMostWarpsAcross = 4;
inline constexpr int64_t kMostRowBlocks = 65535;  // of a grid

// Hidden units of a block, by the gates of the product's left operand: all of them are whole tiles.
constexpr RNNKERN_HD int units_of_block(int gates) { return gates == 4 ? 8 : 16; }

// Floats from row to row of the batch in a block's sums, chosen against bank conflicts.
constexpr RNNKERN_HD int pitch(int tiles) { return tiles * kTileRows + 4; }

// Warps of a block that multiply different rows of the batch; the others share the depth with them.
constexpr RNNKERN_HD int warps_across(int64_t batch) {
  int warps = 1;
  while (warps < kMostWarpsAcross && warps * kRows < batch) warps *= 2;
  return warps;
}

// The product of a step: [gates * units] x hidden forward (segments = 1), units x [segments * hidden] backward
// (gates = 1). Its right operand has a row for each of the batch's, which is `segments` times the hidden units in words;
// segments and rows are filled up with zeros.
struct Layout {
  int gates, segments;
  int64_t batch;
  int hidden;
  int across, rows;         // warps, and rows of the batch, of a block
  int units;                // of a block
  int values;               // elements of a word
  int slice_words, chunks;  // words of a segment, chunks of a row
  int unit_blocks;
  int64_t row_blocks;

  RNNKERN_HD Layout(Arithmetic arithmetic, int gates_of_product, int segments_of_depth, int64_t batch_rows,
                    int64_t hidden_units)
      : gates(gates_of_product), segments(segments_of_depth), batch(batch_rows), hidden(int(hidden_units)) {
    across = warps_across(batch);
    rows = across * kRows;
    units = units_of_block(gates);
    values = kWordBytes / (arithmetic == Arithmetic::kHalf || arithmetic == Arithmetic::kBFloat16 ? 2 : 4);
    slice_words = int(ceil(hidden, values));
    chunks = int(ceil(segments * slice_words, kChunkWords));
    unit_blocks = int(ceil(hidden, units));
    row_blocks = ceil(batch, rows);
  }

  RNNKERN_HD int tiles() const { return units * gates / kTileRows; }  // of a block
  RNNKERN_HD int words() const { return chunks * kChunkWords; }       // from row to row of the right operand
  RNNKERN_HD int64_t weight_words() const { return int64_t(unit_blocks) * tiles() * chunks * kFragments; }
  RNNKERN_HD int64_t operand_words() const { return row_blocks * rows * words(); }

  // The element of the right operand for a row of the batch and a hidden unit.
  RNNKERN_HD int64_t element(int64_t row, int segment, int64_t unit) const {
    return row * words() * values + segment * slice_words * values + unit;
  }

  static constexpr RNNKERN_HD int64_t ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

}  // namespace rnnkern::cuda::fused
