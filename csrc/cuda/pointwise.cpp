#include "cuda/pointwise.h"

#include "cuda/of_cell.h"

namespace rnnkern::cuda {

PointwiseKernels pointwise_kernels(int cell, DType storage) {
  return of_cell(AllCells{}, cell, [&]<class Cell>() { return make_pointwise_kernels<Cell>(storage); });
}

}  // namespace rnnkern::cuda
