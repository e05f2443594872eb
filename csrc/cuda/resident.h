// Kernels that keep a layer's recurrent weights on the chip while they run a chunk of time steps, and whose blocks
// exchange what the next step multiplies: h forward, the gradients of the gates backward.
//
// A group of blocks owns a direction's hidden units for some rows of the batch (a shard); a block owns `units` of them,
// their weights and their states. Every step has `batch` rows alive, and there is no projection. Letters and types as in
// common/problem.h; pointers are to device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "common/problem.h"
#include "cuda/passes.h"
#include "cuda/plan.h"

namespace rnnkern::cuda::resident {

// One direction of a forward chunk. Arrays over the sequence point at row 0 of the chunk's first step; row n of its step
// s stands at row s * row_step + n.
struct ForwardDirection {
  const void* weights;      // as packed
  const void *b_ih, *b_hh;  // storage [G*H] or nullptr
  const void* x_gates;      // compute, rows of G*H, without biases
  const void* h;            // storage: h before the chunk, row n at n * h_stride
  int64_t h_stride;
  const void* initial[kMaxStates];  // 1.. only: storage [N, H] the states before the sequence; nullptr: see running

  // in and out: compute [N, H], 1.. only: states before the chunk, where initial is nullptr, and behind it
  void* running[kMaxStates];

  // outputs
  void* y;  // storage, row r at r * y_stride
  int64_t y_stride;
  void* states[kMaxStates];  // 1.. only: compute, rows of H, or nullptr
  void* saved;               // compute, rows of kSaved*H, or nullptr
  void* final[kMaxStates];   // storage [N, H], or nullptr but in the last chunk
};

struct ForwardChunk {
  Resident plan;
  int steps, batch, hidden, directions;
  int64_t row_step[2];
  ForwardDirection direction[2];
  void* exchange;      // scratch through the L2 cache, zeroed before the first chunk of a call; nullptr for clusters
  uint32_t first_tag;  // from 1 on, with `steps` more for the next chunk
};

// One direction of a backward chunk, in the order in which it is run: step 0 is the chunk's last in time. Arrays over the
// sequence point at row 0 of that step; the step before in time stands row_step rows further.
struct BackwardDirection {
  const void* weights;  // as packed
  const void* y;        // storage, row r at r * y_stride
  const void* dy;       // storage, likewise
  int64_t y_stride;
  const void* initial[kMaxStates];  // storage [N, H], where the chunk has the sequence's first step, else nullptr
  const void* states[kMaxStates];   // 1.. only: compute, rows of H
  const void* saved;                // compute, rows of kSaved*H
  const void* dstates[kMaxStates];  // 1.. only: compute, rows of H, or nullptr: gradients of the states after each step

  // In and out, compute [N, H]. dstate: gradients of the states behind the chunk, then before it; of h only the direct
  // path, but at both ends of the sequence the whole. product: what the gates behind the chunk give to dh, then what those
  // of its first step give to the h before it, unless that is the initial state.
  void* dstate[kMaxStates];
  void* product;

  // outputs: storage, rows of G*H; dr_gates only for kSplitGates
  void *dx_gates, *dr_gates;
  void* previous_h;  // storage, rows of H: the h that each step's product read, or nullptr
};

struct BackwardChunk {
  Resident plan;
  int steps, batch, hidden, directions;
  bool ends;  // the chunk has the sequence's last step
  int64_t row_step[2];
  BackwardDirection direction[2];
  void* exchange;
  uint32_t first_tag;
};

// Weights in the order in which the lanes of a product's warps take them.
struct Packing {
  Resident plan;
  int gates, hidden;
  bool backward;
  const void* w_hh;  // storage [G*H, H]
  void* packed;      // out: packed_bytes(), aligned to 16 bytes
};

// Launched on the given stream, as a cooperative launch or as clusters, by plan. They throw std::runtime_error where
// the launch fails; a block that waits too long for another ends the kernel with a trap.
struct Kernels {
  void (*pack)(const Packing&, cudaStream_t);
  void (*forward)(const ForwardChunk&, cudaStream_t);
  void (*backward)(const BackwardChunk&, cudaStream_t);
};

// Defined in resident.cuh and instantiated for each cell in instances/. arithmetic is how storage is multiplied.
template <class Cell>
Kernels make_kernels(Arithmetic arithmetic);

// Of the cell at that position in AllCells.
Kernels kernels(int cell, Arithmetic arithmetic);

struct Options {
  PassOptions pass;
  Resident plan;
  Arithmetic arithmetic;
  Kernels kernels;
};

// Bytes of scratch in device memory that the calls below need.
size_t forward_scratch(const ForwardProblem& problem, const Options& options);
size_t backward_scratch(const BackwardProblem& problem, const Options& options);

// Enqueue a call on the current stream. scratch is aligned to 64 bytes.
void forward(const ForwardProblem& problem, const Options& options, void* scratch);
void backward(const BackwardProblem& problem, const Options& options, void* scratch);

}  // namespace rnnkern::cuda::resident
