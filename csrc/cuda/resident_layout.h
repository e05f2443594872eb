// How a resident kernel divides its work among blocks, warps and lanes, and a block's shared memory among its arrays. The
// plan asks for its size, the launch for its bytes, the kernel for its offsets.
#pragma once

#include "common/macros.h"
#include "cuda/plan.h"

namespace rnnkern::cuda::resident {

inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int kTileRows = 16;  // gates or units in a tensor core's product
inline constexpr int kColumns = 8;    // rows of the batch in one
inline constexpr int kWordBytes = 16;
inline constexpr int kChunkWords = 8;  // of a row: two for each of the four lanes that share it
inline constexpr int kStepsAhead = 3;  // what a step reads is fetched into the L2 cache so many steps before

// What a warp multiplies at once: so many tiles by so many columns of tiles, over a depth whose weights it keeps in
// registers. The rest of its depth it reads from shared memory.
struct Held {
  int tiles, chunks, columns;
  int registers;  // of a word that are elements: all, or all but a tag
};

// By the gates of the product's left operand. float32 in full takes more registers for a product.
constexpr RNNKERN_HD Held held(bool clusters, int gates, Arithmetic arithmetic) {
  const int registers = clusters ? 4 : 3, fewer = arithmetic == Arithmetic::kFloat ? 1 : 0;
  if (gates == 1) return {1, 8 - fewer, 1, registers};
  return clusters ? Held{gates < 4 ? 3 : 4, 2 - fewer, 1, registers} : Held{3, 3 - fewer, 2 - fewer, registers};
}

constexpr RNNKERN_HD int element_bytes(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kHalf || arithmetic == Arithmetic::kBFloat16 ? 2 : 4;
}

// Units of a block are whole words, in any type; no more than there are threads for 8 rows of the batch.
constexpr RNNKERN_HD int units_align(bool clusters) { return clusters ? 8 : 6; }
constexpr RNNKERN_HD int most_units(bool clusters) { return clusters ? 32 : 30; }

// The product of a step: [gates * units] x hidden forward (segments = 1), units x [segments * hidden] backward
// (gates = 1). Its right operand, what all blocks of the group put out, is exchanged in words: `values` elements of
// neighbouring units of one row. A row has those of block 0, then of block 1 and so on; a block's are those of segment 0,
// then of segment 1. Warps share the tiles, and those that have the same tiles share the depth.
struct Layout {
  Arithmetic arithmetic;
  int gates, segments, units;
  int values;                                // elements of a word
  int slice_words, block_words, words;       // of a row: a block's segment, a block, all
  int rows_of_product, tiles, pitch;         // the left operand's; floats from column to column of a product
  int warps_across, warps_deep, tiles_each;  // warps by tiles and by depth
  int chunks, chunks_each, chunks_shared;    // of words: all, a warp's, and those whose weights are in shared memory
  int group_rows, groups;                    // rows of the batch that are multiplied at once, and how often in a step
  int operand_pitch;                         // words from row to row in shared memory, chosen against bank conflicts
  int64_t exchange_bytes;                    // of a group of blocks, through the L2 cache
  int weights, partial, states, biases, operand, barriers;  // offsets
  int64_t bytes;                                            // all together

  RNNKERN_HD Layout(const Resident& plan, Arithmetic of_elements, int gates_of_product, int segments_of_depth,
                    int states_each)
      : arithmetic(of_elements), gates(gates_of_product), segments(segments_of_depth), units(plan.units) {
    const Held own = held(plan.clusters, gates, arithmetic);
    values = own.registers * 4 / element_bytes(arithmetic);
    slice_words = units / values;
    block_words = segments * slice_words;
    words = plan.blocks * block_words;
    rows_of_product = gates * units;
    tiles = ceil(rows_of_product, kTileRows);
    pitch = tiles * kTileRows + 4;
    warps_across = ceil(tiles, own.tiles);
    tiles_each = ceil(tiles, warps_across);
    warps_deep = warps_across > kWarps ? 1 : kWarps / warps_across;
    chunks = ceil(words, kChunkWords);
    chunks_each = ceil(chunks, warps_deep);
    chunks_shared = chunks_each > own.chunks ? chunks_each - own.chunks : 0;
    group_rows = own.columns * kColumns;
    if (plan.rows <= kColumns || !valid()) group_rows = kColumns;
    groups = ceil(plan.rows, group_rows);
    operand_pitch = chunks * kChunkWords + 4;
    exchange_bytes = int64_t{2} * groups * group_rows * words * kWordBytes;

    int64_t end = 0;
    const auto place = [&](int64_t size) {
      const int64_t begin = end;
      end += (size + kWordBytes - 1) / kWordBytes * kWordBytes;
      return int(begin);
    };
    weights = place(int64_t{kWarps} * chunks_shared * fragments_of_chunk(own) * 32 * kWordBytes);
    partial = place(int64_t{2} * warps_deep * group_rows * pitch * 4);
    states = place(int64_t{states_each} * groups * kThreads * 4);
    biases = place(int64_t{2} * rows_of_product * 4);
    operand = place(plan.clusters ? int64_t{2} * groups * group_rows * operand_pitch * kWordBytes : 0);
    barriers = place(plan.clusters ? int64_t{2} * groups * 8 : 0);
    bytes = end;
  }

  // Whether the warps can share it: its tiles, and the units of a group of rows, one a thread.
  RNNKERN_HD bool valid() const { return warps_across <= kWarps && group_rows * slice_words <= kWarps * (32 / values); }

  // Of 16 bytes a lane, that a warp has of each of its chunks.
  RNNKERN_HD int fragments_of_chunk(Held own) const { return own.registers * tiles_each; }
  RNNKERN_HD int fragments_of_warp(Held own) const { return chunks_each * fragments_of_chunk(own); }

  static constexpr RNNKERN_HD int ceil(int a, int b) { return (a + b - 1) / b; }
};

// A warp's part of the product.
struct WarpPart {
  int deep;                 // its number among those that have the same tiles
  int first_tile, tiles;    // none where there are more warps than parts
  int first_chunk, chunks;  // of the depth

  RNNKERN_HD WarpPart(const Layout& layout, int warp) {
    const int across = warp / layout.warps_deep;
    deep = warp % layout.warps_deep;
    first_tile = across * layout.tiles_each;
    const int rest = layout.tiles - first_tile;
    tiles = across >= layout.warps_across || rest < 0 ? 0 : rest < layout.tiles_each ? rest : layout.tiles_each;
    first_chunk = layout.chunks * deep / layout.warps_deep;
    chunks = layout.chunks * (deep + 1) / layout.warps_deep - first_chunk;
  }
};

// Bytes of a direction's weights as its blocks' warps take them.
inline int64_t packed_bytes(const Layout& layout, const Resident& plan) {
  const int64_t lanes = int64_t{plan.blocks} * kThreads;
  return lanes * layout.fragments_of_warp(held(plan.clusters, layout.gates, layout.arithmetic)) * kWordBytes;
}

}  // namespace rnnkern::cuda::resident
