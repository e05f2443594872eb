// The one list of cells. Backends, Python, tests and benchmarks take theirs from here.
#pragma once

#include "cells/elman.h"
#include "cells/gru.h"
#include "cells/lstm.h"

namespace rnnkern {

template <class... Cells>
struct CellList {
  static_assert((check_cell<Cells>() && ...));
  static constexpr int kCount = sizeof...(Cells);
};

using AllCells = CellList<Elman<Tanh>, Elman<Relu>, Lstm, Gru>;

}  // namespace rnnkern
