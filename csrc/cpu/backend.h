// A CPU backend is one instruction set: a name, a test for it, and the kernels of every cell and type compiled for it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cells/all.h"
#include "common/problem.h"

namespace rnnkern::cpu {

struct Kernels {
  // Bytes of scratch that the calls below need with up to `threads` threads; the caller owns it, aligned to 64.
  size_t (*forward_scratch)(const ForwardProblem&, int threads);
  void (*forward)(const ForwardProblem&, int threads, void* scratch);
  size_t (*backward_scratch)(const BackwardProblem&, int threads);
  void (*backward)(const BackwardProblem&, int threads, void* scratch);
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
