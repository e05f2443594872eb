// What a plan has to know of a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace rnnkern::cuda {

inline constexpr int kClusterCapability = 90;  // from which on there are thread block clusters
inline constexpr int kPortableCluster = 8;     // blocks of a cluster that every GPU with clusters can run

struct Gpu {
  std::string name;
  int capability;        // compute capability, major * 10 + minor
  int multiprocessors;   // SMs
  int64_t shared_bytes;  // shared memory that one block may have
  int64_t memory_bytes;  // of device memory
  int cluster_blocks;    // blocks in the largest thread block cluster; 0 where there are none
  bool measured;         // strategies were timed on one, so that the plan may choose between them

  // Clusters of so many blocks that run at once: some multiprocessors stay idle where no cluster fits any more.
  int clusters(int blocks) const { return std::max(1, multiprocessors * 17 / 20 / blocks); }
};

}  // namespace rnnkern::cuda
