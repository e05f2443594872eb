#include "cuda/pointwise.h"

#include <array>

#include "cells/all.h"

namespace rnnkern::cuda {
namespace {

template <class... Cells>
PointwiseKernels of_cell(CellList<Cells...>, int cell, DType storage) {
  constexpr std::array makers{make_pointwise_kernels<Cells>...};
  return makers[static_cast<size_t>(cell)](storage);
}

}  // namespace

PointwiseKernels pointwise_kernels(int cell, DType storage) { return of_cell(AllCells{}, cell, storage); }

}  // namespace rnnkern::cuda
