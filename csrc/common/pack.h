// A small fixed array of values that lives in registers, usable on host and device.
#pragma once

#include "common/macros.h"

namespace rnnkern {

template <class V, int N>
struct Pack {
  V values[N > 0 ? N : 1];

  RNNKERN_HD V& operator[](int i) { return values[i]; }
  RNNKERN_HD const V& operator[](int i) const { return values[i]; }
};

}  // namespace rnnkern
