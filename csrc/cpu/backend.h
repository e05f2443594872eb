// A CPU backend is one instruction set: a name, a test for it, and the kernels of every cell and type compiled for it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cells/all.h"
#include "common/problem.h"

namespace rnnkern::cpu {

// How a forward call would divide its work.
struct Plan {
  int teams, team_size;  // directions that run side by side, and threads of each
  bool by_batch;         // in the first chunk each thread has rows of the batch; else it has hidden units
  bool packed;           // w_hh is packed into panels
  int64_t chunk_rows;    // rows of the sequence whose input projection is computed ahead
};

struct Kernels {
  // Packs a direction's weights into `memory`, aligned to 64, for calls of forward that differ only in T and N; returns
  // the bytes that takes. At nullptr it only counts.
  size_t (*freeze)(const ForwardProblem&, void* memory);

  // Bytes of scratch that the calls below need with up to `threads` threads; the caller owns it, aligned to 64.
  size_t (*forward_scratch)(const ForwardProblem&, int threads);
  void (*forward)(const ForwardProblem&, int threads, void* scratch);
  size_t (*backward_scratch)(const BackwardProblem&, int threads);
  void (*backward)(const BackwardProblem&, int threads, void* scratch);
  Plan (*forward_plan)(const ForwardProblem&, int threads);
};

struct Backend {
  const char* name;
  bool (*supported)();
  Kernels kernels[AllCells::kCount][2];  // by position in AllCells; float, double
};

// All backends that this CPU can run, the best first.
std::vector<const Backend*> supported_backends();

// The one that RNNKERN_ISA names, or else the best. Throws std::runtime_error for a name that is unknown or that this
// CPU lacks. The variable is read at every call.
const Backend& active_backend();

// Threads worth waking for about `flops` of work.
int choose_threads(double flops);

extern const Backend kScalar, kAvx2, kAvx512;

}  // namespace rnnkern::cpu
