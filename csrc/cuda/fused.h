// Kernels that run a time step in one launch: what stepwise leaves to a product and an elementwise kernel. A block owns
// some hidden units for some rows of the batch, multiplies their weights by what the step before put out, and runs their
// cells. No block waits for another.
//
// Letters and types as in common/problem.h, without a projection; pointers are to device memory. What a step puts out for
// the next is written twice: where the caller wants it, and as the next step's operand.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/problem.h"
#include "cuda/fused_layout.h"
#include "cuda/plan.h"
#include "cuda/pointwise.h"

namespace rnnkern::cuda::fused {

// Weights in the order in which the lanes of a product's warps take them.
struct Packing {
  Layout layout;
  bool backward;
  const void* w_hh;  // storage [G*H, H]
  void* packed;      // out: layout.weight_words() words, aligned to 16 bytes
};

// The operands that a forward call starts with: whichever step a row starts in, it finds its initial state in either.
struct Start {
  Layout layout;
  const void* h;      // storage [N, H]
  void* operands[2];  // out
};

// A step's product. Operands are layout.operand_words() words, aligned to 16 bytes, in elements of the storage type that
// are zero where no row and unit is; they do not overlap.
struct Step {
  Layout layout;
  const void* weights;  // as packed
  const void* operand;  // forward: h before the step; backward: the gate gradients of the later step
  void* next;           // out, the same of this step: of the rows that are alive
};

// Launched on the given stream. They throw std::runtime_error where a launch fails. Of ForwardStep r_gates, of
// BackwardStep product are not read.
struct Kernels {
  Arithmetic arithmetic;
  void (*pack)(const Packing&, cudaStream_t);
  void (*start)(const Start&, cudaStream_t);
  void (*forward)(const ForwardStep&, const Step&, cudaStream_t);
  void (*backward)(const BackwardStep&, const Step&, cudaStream_t);
};

// Defined in fused.cuh and instantiated for each cell in instances/. arithmetic is how storage is multiplied: on tensor
// cores.
template <class Cell>
Kernels make_kernels(Arithmetic arithmetic);

// Of the cell at that position in AllCells.
Kernels kernels(int cell, Arithmetic arithmetic);

}  // namespace rnnkern::cuda::fused
