// One call, as plain data: a layer of one or two directions over a whole sequence. No torch, no device types.
//
// Letters: T steps, N batch, M rows of the sequence (T * N, or the sum of batch_sizes), I input size, H hidden size,
// P projection size, R = P or H the width of what is output and fed back, G gates, D directions. All arrays are
// row-major and dense, and none of them overlap. They have the problem's storage type, but what is marked "compute" has
// the type in which it computes: double for double, float for the others. On a CPU the two are one.
#pragma once

#include <cstdint>

namespace rnnkern {

inline constexpr int kMaxStates = 4;

enum class DType { kFloat, kDouble, kHalf, kBFloat16 };

constexpr DType compute_type(DType storage) { return storage == DType::kDouble ? DType::kDouble : DType::kFloat; }

constexpr int64_t element_bytes(DType type) {
  if (type == DType::kDouble) return 8;
  return type == DType::kFloat ? 4 : 2;
}

struct Shape {
  int64_t steps, batch, rows, input, hidden;
  int64_t projection;  // 0: h itself is output and fed back
  int directions;
  const int64_t* active;   // [T] rows alive at each time step, never increasing, the first equal to batch
  const int64_t* offsets;  // [T + 1] first row of each time step; offsets[T] = rows

  int64_t output() const { return projection > 0 ? projection : hidden; }
};

// Everything a direction owns. Direction 0 runs t = 0 .. T-1, direction 1 runs each sequence from its own end.
struct Weights {
  const void *w_ih, *w_hh;  // [G*H, I], [G*H, R]
  const void *b_ih, *b_hh;  // [G*H] or nullptr
  const void* w_hr;         // [P, H] or nullptr
  const void* frozen;       // all of them as the same CPU backend's `freeze` left them, or nullptr
};

struct ForwardDirection {
  Weights weights;
  const void* initial[kMaxStates];  // [N, R] for h, [N, H] for the others

  // outputs
  void* final[kMaxStates];   // like initial
  void* states[kMaxStates];  // 1.. only: compute [M, H] the state after each row, or nullptr without backward
  void* saved;               // compute [M, kSaved*H], or nullptr likewise
  void* unprojected;         // [M, H] h before the projection, or nullptr likewise or when P is 0
};

struct ForwardProblem {
  Shape shape;
  bool training;  // keep what backward needs
  const void* x;  // [M, I]
  ForwardDirection direction[2];

  // outputs
  void* y;  // [M, D*R], direction 0 in the first R columns
};

struct BackwardDirection {
  Weights weights;
  const void* initial[kMaxStates];
  const void* states[kMaxStates];
  const void* saved;
  const void* unprojected;
  const void* dstates[kMaxStates];  // 1.. only: compute [M, H] gradients of the states after each row, or nullptr

  // in and out, compute: gradients of the final states on entry, of the initial states on return (of h only if
  // dh_wanted)
  void* dstate[kMaxStates];
  bool dh_wanted;

  // outputs, compute; nullptr where not wanted
  void* dx;  // [M, I] this direction's share; wanted in all directions or in none
  void *dw_ih, *dw_hh, *dw_hr;
  void *db_ih, *db_hh;
};

struct BackwardProblem {
  Shape shape;
  const void *x, *y, *dy;  // [M, I], [M, D*R], [M, D*R]
  BackwardDirection direction[2];
};

}  // namespace rnnkern
