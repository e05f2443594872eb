#pragma once

#include <vector>

#include "layer.h"

namespace rnnkern::sanitizers {

// The layers to try: some chosen for their edges, some drawn.
std::vector<Case> all_cases();

}  // namespace rnnkern::sanitizers
