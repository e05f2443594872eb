#pragma once

namespace rnnkern::sanitizers {

// Threads that run_team has; it gives no more, whatever a kernel asks for.
extern int pool;

}  // namespace rnnkern::sanitizers
