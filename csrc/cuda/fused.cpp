#include "cuda/fused.h"

#include "cuda/of_cell.h"

namespace rnnkern::cuda::fused {

Kernels kernels(int cell, Arithmetic arithmetic) {
  return of_cell(AllCells{}, cell, [&]<class Cell>() { return make_kernels<Cell>(arithmetic); });
}

}  // namespace rnnkern::cuda::fused
