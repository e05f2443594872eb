// The 16-bit floating types, as storage: arithmetic belongs to the backends.
#pragma once

#include <cstdint>

namespace rnnkern {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

}  // namespace rnnkern
