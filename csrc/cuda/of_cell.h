// From a cell's position in AllCells to its type.
#pragma once

#include <array>
#include <cstddef>

#include "cells/all.h"

namespace rnnkern::cuda {

// What make.template operator()<Cell>() returns for the cell at that position in the list.
template <class... Cells, class Make>
auto of_cell(CellList<Cells...>, int cell, const Make& make) {
  constexpr std::array makers{+[](const Make& of) { return of.template operator()<Cells>(); }...};
  return makers[static_cast<size_t>(cell)](make);
}

}  // namespace rnnkern::cuda
