// The elementwise kernels of one cell: everything of a time step but its matrix products.
//
// Letters as in common/problem.h; "storage" and "compute" are the two types named there. A step has `rows` rows alive:
// the first `continuing` of them carry on from the step before, the others start at their initial state. Pointers are
// to device memory. Outputs overlap nothing that a kernel reads, but where said so.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/problem.h"

namespace rnnkern::cuda {

struct ForwardStep {
  int64_t rows, continuing;
  int64_t ending;  // rows [ending, rows) have their last step here
  int64_t hidden;
  const void *x_gates, *r_gates;    // compute [rows, G*H], without biases
  const void *b_ih, *b_hh;          // storage [G*H] or nullptr
  const void* initial[kMaxStates];  // storage [N, H] (of h only for cells with kDirectH)
  const void* old_h;                // storage, row n at n * h_stride: the step before, for kDirectH
  int64_t h_stride;
  const void* old_states[kMaxStates];  // 1.. only: compute [continuing, H]; may be new_states

  // outputs
  void* new_h;  // storage, row n at n * new_h_stride
  int64_t new_h_stride;
  void* new_states[kMaxStates];  // 1.. only: compute [rows, H]
  void* final[kMaxStates];       // storage [N, H], written for rows that end; [0] may be nullptr
  void* saved;                   // compute [rows, kSaved*H], or nullptr
};

struct BackwardStep {
  int64_t rows, continuing;
  int64_t later;  // rows [0, later) go on after this step, the others end here
  int64_t hidden;
  const void* product;  // compute [later, H]: what the later step's gate gradients, or a projection, give to dh
  const void* dy;       // storage, row n at n * y_stride, or nullptr
  int64_t y_stride;
  const void* initial[kMaxStates];     // storage [N, H] (of h only where old_h is)
  const void* old_h;                   // storage, row n at n * y_stride: the step before
  const void* old_states[kMaxStates];  // 1.. only: compute [continuing, H]
  const void* new_h;                   // storage, row n at n * new_h_stride
  int64_t new_h_stride;
  const void* new_states[kMaxStates];  // 1.. only: compute [rows, H]
  const void* saved;                   // compute [rows, kSaved*H]
  const void* dstates[kMaxStates];     // 1.. only: compute [rows, H], added to dstate; or nullptr

  // In and out, compute [N, H]: gradients of the state after this step, then of the state before it. [0] is that of h,
  // of which only rows that end are read, and only the direct path of kDirectH is read and written otherwise.
  void* dstate[kMaxStates];

  // outputs
  void *dx_gates, *dr_gates;  // storage [rows, G*H]; dr_gates only for kSplitGates
  void* previous_h;           // storage [rows, H]: the h that the recurrent product read, or nullptr
};

// With a projection: the gradient of what the step put out.
struct OutputGradient {
  int64_t rows, continuing, later, width;  // width is R
  const void* product;                     // compute [later, R]
  const void* dy;                          // storage, row n at n * y_stride
  int64_t y_stride;
  const void* dfinal;     // compute [N, R], read for rows that end
  const void* old_h;      // storage, row n at n * y_stride
  const void* initial_h;  // storage [N, R]

  // outputs
  void* dout;        // storage [rows, R]
  void* previous_h;  // storage [rows, R], or nullptr
};

struct ColumnSums {
  int64_t rows, columns;
  const void* matrix;  // storage [rows, columns]
  bool accumulate;     // add to sums instead of setting them
  void* partial;       // compute [column_sum_slabs(rows), columns], scratch
  void* sums;          // compute [columns], out
};

int64_t column_sum_slabs(int64_t rows);

// Launched on the given stream. They throw std::runtime_error where a launch fails.
struct PointwiseKernels {
  int gates, states, saved;
  bool split_gates, direct_h;
  void (*forward)(const ForwardStep&, cudaStream_t);
  void (*backward)(const BackwardStep&, cudaStream_t);
};

struct RowKernels {
  void (*output_gradient)(const OutputGradient&, cudaStream_t);
  void (*column_sums)(const ColumnSums&, cudaStream_t);
};

// Defined in pointwise.cuh and instantiated for each cell in instances/.
template <class Cell>
PointwiseKernels make_pointwise_kernels(DType storage);

// Of the cell at that position in AllCells.
PointwiseKernels pointwise_kernels(int cell, DType storage);

RowKernels row_kernels(DType storage);

// The compute capability that the kernels for the current device were compiled for, which may be lower than its own.
int compiled_capability();

}  // namespace rnnkern::cuda
