// Runs kernels on a host: a fiber for each CUDA thread that waits, one of them at a time, in random order.
//
// What a GPU leaves undefined is made to show. Shared memory starts as garbage and has a guard behind it, asynchronous
// copies arrive late, and a launch in which threads wait for each other, or ask in vain for too long, ends in an
// exception that says who waits where. A launch's random numbers depend on RNNKERN_EMULATION_SEED and on how many
// launches went before.
//
// It cannot show what only several threads at a time could: accesses that take effect in another order than that of
// the program, fences and scopes that are missing, ordinary accesses that a switch of threads never comes between, and
// loops that ask without a primitive. Nor does it know registers, banks or time, or that launches and streams overlap.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace rnnkern::emulation {

// The device that is emulated. Tests may change it between launches.
struct Device {
  int capability = 90;
  int multiprocessors = 8;
  int threads_per_block = 1024;
  int threads_per_multiprocessor = 2048;
  int blocks_per_multiprocessor = 32;
  unsigned blocks_per_cluster = 16;
  size_t shared_per_block = 227 << 10;
  size_t shared_per_multiprocessor = 228 << 10;
};
extern Device device;

// How many launches have begun. Set back, they are repeated with the same random numbers.
extern uint64_t launches;

// Of a thread.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr size_t kStackBytes = 256 << 10;
#else
inline constexpr size_t kStackBytes = 64 << 10;
#endif

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  unsigned cluster;
  bool cooperative;
};

// Calls body(context) as each thread of the launch. Throws std::runtime_error where it fails; whatever the threads had
// on their stacks is then abandoned.
void run(const Launch& launch, void (*body)(const void* context), const void* context);

template <class Body>
void run(const Launch& launch, const Body& body) {
  run(launch, [](const void* context) { (*static_cast<const Body*>(context))(); }, &body);
}

int resident_blocks(const Launch& launch);

// ---- For the primitives, called by the running thread. `what` names the primitive, as a literal.

// Ends the launch.
[[noreturn]] void fail(std::string message);

// Fails on a device of less than this capability.
inline void require(int capability, const char* what) {
  if (device.capability < capability) fail(std::string(what) + " needs a higher compute capability");
}

// Lets others run before the thread asks for something that it may have to ask for again.
void poll(const char* what);

// Says that something happened which others may ask for.
void progress();

void sync_block();
bool sync_block_any(bool value);

// Called by all lanes of a warp that have not left the kernel (by all 32 where full), each with its operand. The last
// one runs compute(operands), in which lanes that have left are nullptr.
using Compute = void (*)(void* const* operands);
void warp_collective(const char* what, bool full, void* operand, Compute compute);
unsigned lane();

void* shared_memory(size_t byte_offset, size_t alignment);

// Fail where the memory is not what `what` needs.
void require_aligned(const void* pointer, size_t alignment, const char* what);
void require_shared(const void* pointer, size_t bytes, const char* what);
void require_global(const void* pointer, size_t bytes, const char* what);

// A thread's own asynchronous copies: `valid` of the bytes, then zeros.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid);
void commit_group();
void wait_group(unsigned pending);

void mbarrier_init(uint64_t* barrier, uint32_t arrivals);
void mbarrier_invalidate(uint64_t* barrier);
void mbarrier_arrive(uint64_t* barrier, uint32_t expected_bytes);
// Whether the phase of this parity has ended, asked for some time.
bool mbarrier_try_wait(const uint64_t* barrier, uint32_t parity, const char* what);

// Bytes that come at some later time, in pieces, and are then counted by the barrier.
void copy_bulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier);
void store_async(void* to, const void* value, uint32_t bytes, uint64_t* barrier);

unsigned cluster_rank();
unsigned cluster_size();
unsigned cluster_index();
void cluster_arrive();
void cluster_wait();
void* map_to_peer(const void* shared, unsigned rank);

}  // namespace rnnkern::emulation
