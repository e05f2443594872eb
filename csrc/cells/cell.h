// What a cell is.
//
// A cell is a pure function of registers: gate pre-activations and old state in, new state out, with its derivative
// written directly below. It knows no device, no memory and no time; a recurrence owns those. V is the value type: one
// ISA's vector of units. Gates stand in PyTorch's order, which is the order of row blocks in W_ih and W_hh.
//
//   kName         the cell's name in Python
//   kGates        row blocks of W_ih and W_hh
//   kStates       state values per unit; state 0 is h, the one that is output and that the recurrent product reads
//   kSaved        values per unit that forward keeps for backward, besides the states themselves
//   kSplitGates   the gradient of a gate differs between its input part x and its recurrent part r (GRU's n)
//   kDirectH      h has a path to the new state besides the recurrent product; where false, forward reads no old h,
//                 backward leaves dstate[0] alone, and a linear map may stand between h and what is fed back
//
// forward(x, r, state, saved):   x = W_ih x_t + b_ih and r = W_hh h + b_hh, apart because GRU's n needs them apart;
//   state: old values in, new values out.
//
// backward(saved, old_state, new_state, dstate, dx, dr):   dstate enters as the full gradient of the new state and
//   leaves as only its direct path to the old one; the product dr * W_hh adds the rest. Where kSplitGates is false dr
//   is not written: it equals dx.
#pragma once

#include "common/math.h"
#include "common/pack.h"
#include "common/problem.h"

namespace rnnkern {

template <class Cell>
constexpr bool check_cell() {
  static_assert(Cell::kName[0] != '\0');
  static_assert(Cell::kGates >= 1 && Cell::kGates <= 8, "a register tile holds all gates of a unit");
  static_assert(Cell::kStates >= 1 && Cell::kStates <= kMaxStates && Cell::kSaved >= 0);
  return true;
}

}  // namespace rnnkern
