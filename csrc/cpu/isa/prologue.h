// What an instruction-set file includes before it opens its target region: everything that is not template code over
// that set's vector, so that no function of it is compiled for the wrong CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/macros.h"
#include "common/schedule.h"
#include "cpu/parallel.h"

#if RNNKERN_X86
#include <immintrin.h>
#endif
