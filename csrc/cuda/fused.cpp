#include "cuda/fused.h"

#include <array>

#include "cells/all.h"

namespace rnnkern::cuda::fused {
namespace {

template <class... Cells>
Kernels of_cell(CellList<Cells...>, int cell, Arithmetic arithmetic) {
  constexpr std::array makers{make_kernels<Cells>...};
  return makers[static_cast<size_t>(cell)](arithmetic);
}

}  // namespace

Kernels kernels(int cell, Arithmetic arithmetic) { return of_cell(AllCells{}, cell, arithmetic); }

}  // namespace rnnkern::cuda::fused
