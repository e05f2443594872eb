#include "emulation.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace rnnkern::emulation {

Device device;
uint64_t launches = 0;

namespace {

constexpr unsigned kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr size_t kSharedAlignment = 128;

// ---- Random numbers

struct Random {
  uint64_t state;

  // splitmix64
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(size_t limit) { return static_cast<uint32_t>((next() >> 32) * limit >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }

  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }
};

// ---- Fibers

constexpr uint64_t kStackGuard = 0x5ca1ab1e0ddba11u;

struct Fiber {
  char* stack;  // the lowest address
  char* top;
  void* position;  // where it goes on

  uint64_t& guard() { return *reinterpret_cast<uint64_t*>(stack); }
};

#if defined(__x86_64__)

// Keeps the registers that calls preserve on this stack, whose position goes to *from, and goes on from position `to`.
__attribute__((naked, noinline)) void switch_stack(void** /*from*/, void* /*to*/) {
  asm("pushq %rbp\n"
      "pushq %rbx\n"
      "pushq %r12\n"
      "pushq %r13\n"
      "pushq %r14\n"
      "pushq %r15\n"
      "movq %rsp, (%rdi)\n"
      "movq %rsi, %rsp\n"
      "popq %r15\n"
      "popq %r14\n"
      "popq %r13\n"
      "popq %r12\n"
      "popq %rbx\n"
      "popq %rbp\n"
      "ret\n");
}

// The position from which switch_stack calls entry().
void* start_position(Fiber& fiber, void (*entry)()) {
  constexpr int kRegisters = 6;
  auto** top = reinterpret_cast<void**>(fiber.top);
  top[-1] = nullptr;  // where entry() would return to
  top[-2] = reinterpret_cast<void*>(entry);
  return top - 2 - kRegisters;
}

#else
void switch_stack(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

void* start_position(Fiber& fiber, void (*entry)()) {
  auto* start = reinterpret_cast<ucontext_t*>(fiber.top) - 1;
  getcontext(start);
  start->uc_stack.ss_sp = fiber.stack + sizeof(kStackGuard);
  start->uc_stack.ss_size = reinterpret_cast<char*>(start) - fiber.stack - sizeof(kStackGuard);
  makecontext(start, entry, 0);
  return start;
}
#endif

#if defined(__SANITIZE_ADDRESS__)
const void* main_stack;
size_t main_stack_bytes;
#endif

// Goes on where `to` does, or in the thread that called run() where it is nullptr.
void switch_fiber(void** from, Fiber* to, void* main_position) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, to != nullptr ? to->stack : main_stack,
                                 to != nullptr ? kStackBytes : main_stack_bytes);
#endif
  switch_stack(from, to != nullptr ? to->position : main_position);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// Stacks are never given back: the next launch wants them again.
class FiberPool {
 public:
  // A fiber that is going to run entry().
  Fiber* take(void (*entry)()) {
    if (free_.empty()) grow();
    Fiber* fiber = free_.back();
    free_.pop_back();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber->stack, kStackBytes);
#endif
    fiber->guard() = kStackGuard;
    fiber->position = start_position(*fiber, entry);
    return fiber;
  }

  void give_back(Fiber* fiber) { free_.push_back(fiber); }

  void give_back_all() {
    free_.clear();
    for (auto& slab : slabs_) {
      for (Fiber& fiber : *slab) free_.push_back(&fiber);
    }
  }

 private:
  static constexpr size_t kSlab = 64;

  void grow() {
    // The lowest one catches what overflows from the second.
    void* memory = mmap(nullptr, (kSlab + 1) * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    slabs_.push_back(std::make_unique<std::array<Fiber, kSlab>>());
    for (size_t i = 0; i < kSlab; ++i) {
      // Tops at equal distances would share a few sets of the cache.
      constexpr size_t kColours = 32, kColourBytes = 192;
      char* stack = static_cast<char*>(memory) + (i + 1) * kStackBytes;
      (*slabs_.back())[i] = {stack, stack + kStackBytes - i % kColours * kColourBytes, nullptr};
      free_.push_back(&(*slabs_.back())[i]);
    }
  }

  std::vector<std::unique_ptr<std::array<Fiber, kSlab>>> slabs_;
  std::vector<Fiber*> free_;
};

// ---- What runs

struct Thread;

struct Warp {
  Thread* threads;
  uint32_t alive, present;  // bits of lanes in the kernel, and of those at the collective
  const char* what;
  bool full;
  Compute compute;
  void* operands[kLanes];
};

struct Cluster {
  unsigned alive, arrived, phase;
  std::vector<Thread*> waiting;
};

struct Block {
  uint3 index;
  unsigned rank;
  Cluster* cluster;
  char* shared;
  unsigned alive;
  const char* barrier;  // the one that threads wait at
  std::vector<Thread*> waiting;
  bool any, any_before;  // of sync_block_any: so far, and of the last one that ended
};

struct Copy {
  void* to;
  const void* from;
  unsigned bytes, valid;
};

struct Thread {
  uint3 index;
  unsigned lane;
  Warp* warp;
  Block* block;
  Fiber* fiber;                  // nullptr before and after its life
  const char* waits;             // where, if it does
  unsigned slowness;             // runs when it could with a chance of 1 / 2^slowness
  bool arrived;                  // at its cluster's barrier, without having waited
  unsigned phase;                // of that barrier
  std::vector<Copy> copies;      // on their way, the oldest first
  std::vector<unsigned> groups;  // how many of them each committed group has
  unsigned uncommitted;
};

struct Transfer {
  char* to;
  const char* from;  // nullptr: value
  std::array<char, 16> value;
  uint32_t bytes;
  uint64_t* barrier;
};

// Asking this often, in a launch in which nothing happens, is in vain.
constexpr uint64_t kPollLimit = 20'000'000;
constexpr uint64_t kPollsPerTransfer = 64;
constexpr uint32_t kTransferDelays[] = {1, 4, 64, 4096};

std::mutex mutex;  // of all that follows
uint64_t seed;
Random random_numbers;
FiberPool fibers;
void* main_position;
std::string failure;
bool failed;

Launch launch;
void (*body)(const void*);
const void* body_context;
unsigned block_threads;
std::vector<char> shared_slab;
size_t shared_stride;
char poison;
bool slow_ones;
uint32_t transfer_delay;  // the mean, in turns

// Of the blocks that are live at once.
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<Block> blocks;
std::vector<Cluster> clusters;
std::vector<Thread*> fresh;  // the first `unstarted` have not run yet
size_t unstarted;
std::vector<Thread*> ready;  // may go on
size_t alive;
std::vector<Transfer> transfers;
std::map<const uint64_t*, std::vector<Thread*>> waiting_for_phase;  // by barrier
uint64_t polls;                                                     // since something happened

Thread* current;

std::string text(const char* name, dim3 value) {
  return std::string(name) + " (" + std::to_string(value.x) + ", " + std::to_string(value.y) + ", " +
         std::to_string(value.z) + ")";
}

std::string place(const Thread& thread) {
  return text("thread", thread.index) + " of " + text("block", thread.block->index);
}

std::string description(const Launch& of) {
  return text("grid", of.grid) + ", " + text("block", of.block) + ", " + std::to_string(of.shared_bytes) +
         " bytes of shared memory" + (of.cluster > 1 ? ", clusters of " + std::to_string(of.cluster) : "") +
         (of.cooperative ? ", cooperative" : "");
}

// Where the threads are that neither run nor have left.
std::string who_waits() {
  std::map<std::string, std::pair<size_t, const Thread*>> places;
  for (const Thread& thread : threads) {
    if (thread.fiber == nullptr || thread.waits == nullptr) continue;
    auto& [count, first] = places[thread.waits];
    if (count++ == 0) first = &thread;
  }
  std::string all;
  for (const auto& [what, who] : places) {
    all += "; " + std::to_string(who.first) + " at " + what + " (the first is " + place(*who.second) + ")";
  }
  return all;
}

// ---- Scheduling

void enter(Thread* thread) {
  current = thread;
  thread->waits = nullptr;
  threadIdx = thread->index;
  blockIdx = thread->block->index;
}

void wake(std::vector<Thread*>& waiting) {
  ready.insert(ready.end(), waiting.begin(), waiting.end());
  waiting.clear();
}

void deliver_transfer();

// Who goes on: nullptr when all have left.
Thread* pick() {
  if (!transfers.empty() && (random_numbers.one_in(transfer_delay) || polls > kPollsPerTransfer)) deliver_transfer();
  while (ready.empty() && unstarted == 0 && !transfers.empty()) deliver_transfer();
  if (ready.empty() && unstarted == 0) {
    for (auto& [barrier, waiting] : waiting_for_phase) wake(waiting);  // their time is up
  }
  if (ready.empty()) {
    if (unstarted > 0) return fresh[--unstarted];
    if (alive == 0) return nullptr;
    fail("deadlock: no thread can go on" + who_waits());
  }
  constexpr int kAttempts = 8;
  for (int attempt = 0;; ++attempt) {
    const size_t i = random_numbers.below(ready.size() + unstarted);
    if (i >= ready.size()) return fresh[--unstarted];
    Thread* thread = ready[i];
    if (attempt < kAttempts && !random_numbers.one_in(1u << thread->slowness)) continue;
    ready[i] = ready.back();
    ready.pop_back();
    return thread;
  }
}

void run_threads();

void go_on(Thread* thread, void** from) {
  if (thread->fiber == nullptr) thread->fiber = fibers.take(run_threads);
  enter(thread);
  switch_fiber(from, thread->fiber, nullptr);
}

// Until somebody puts the thread into `ready`.
void suspend(const char* what) {
  Thread* self = current;
  self->waits = what;
  Thread* next = pick();
  if (next == self) {
    self->waits = nullptr;
  } else {
    go_on(next, &self->fiber->position);
  }
}

// ---- Shared memory

constexpr size_t kGuardBytes = 128;

char guard_byte(size_t i) { return static_cast<char>(i % 2 == 0 ? 0xfe : 0xff); }  // NaN in any floating type

void fill_shared(Block& block) {
  std::memset(block.shared, poison, launch.shared_bytes);
  for (size_t i = 0; i < kGuardBytes; ++i) block.shared[launch.shared_bytes + i] = guard_byte(i);
}

void check_guard(const Block& block) {
  for (size_t i = 0; i < kGuardBytes; ++i) {
    if (block.shared[launch.shared_bytes + i] != guard_byte(i)) {
      fail("somebody wrote " + std::to_string(i) + " bytes behind the shared memory of " + text("block", block.index));
    }
  }
}

bool lies_in(const Block& block, const void* pointer, size_t bytes) {
  const auto* start = static_cast<const char*>(pointer);
  return start >= block.shared && start + bytes <= block.shared + launch.shared_bytes;
}

// The block of the running cluster whose shared memory that is, or nullptr.
Block* owner(const void* pointer, size_t bytes) {
  const ptrdiff_t offset = static_cast<const char*>(pointer) - blocks[0].shared;
  if (offset < 0 || size_t(offset) >= blocks.size() * shared_stride) return nullptr;
  Block& block = blocks[size_t(offset) / shared_stride];
  return block.cluster == current->block->cluster && lies_in(block, pointer, bytes) ? &block : nullptr;
}

// ---- Asynchronous copies

void perform(const Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.valid);
  std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
}

struct BarrierState {
  uint64_t phase : 1;
  uint64_t expected : 20, pending : 20;
  int64_t transactions : 21;
  uint64_t mark : 2;
};
static_assert(sizeof(BarrierState) == sizeof(uint64_t));
constexpr uint64_t kMark = 2;  // not what poisoned memory holds
constexpr int64_t kMostTransactions = (1 << 20) - 1;

BarrierState load(const uint64_t* barrier) {
  BarrierState state;
  std::memcpy(&state, barrier, sizeof(state));
  if (state.mark != kMark) fail("there is no mbarrier: it was not initialised, or something wrote over it");
  return state;
}

void store(uint64_t* barrier, BarrierState state) {
  if (state.pending == 0 && state.transactions == 0) {
    state.phase ^= 1;
    state.pending = state.expected;
    progress();
    wake(waiting_for_phase[barrier]);
  }
  std::memcpy(barrier, &state, sizeof(state));
}

void add_transactions(BarrierState& state, int64_t bytes) {
  const int64_t sum = state.transactions + bytes;
  if (sum < -kMostTransactions || sum > kMostTransactions) fail("an mbarrier expects more bytes than it can count");
  state.transactions = sum;
}

// A random part of a random transfer.
void deliver_transfer() {
  const size_t i = random_numbers.below(transfers.size());
  Transfer& transfer = transfers[i];
  const uint32_t pieces = transfer.bytes / 16;
  const uint32_t bytes =
      pieces > 1 && random_numbers.one_in(2) ? 16 * (1 + random_numbers.below(pieces)) : transfer.bytes;
  std::memcpy(transfer.to, transfer.from != nullptr ? transfer.from : transfer.value.data(), bytes);
  BarrierState state = load(transfer.barrier);
  add_transactions(state, -int64_t(bytes));
  store(transfer.barrier, state);
  progress();
  transfer.to += bytes;
  if (transfer.from != nullptr) transfer.from += bytes;
  transfer.bytes -= bytes;
  if (transfer.bytes == 0) {
    transfer = transfers.back();
    transfers.pop_back();
  }
}

void begin_transfer(const char* what, const Transfer& transfer, size_t alignment) {
  require_aligned(transfer.to, alignment, what);
  require_aligned(transfer.barrier, sizeof(uint64_t), what);
  const Block* to = owner(transfer.to, transfer.bytes);
  if (to == nullptr) fail(std::string(what) + " to what is not shared memory of the cluster");
  if (owner(transfer.barrier, sizeof(uint64_t)) != to) fail(std::string(what) + " with the barrier of another block");
  if (to->alive == 0) fail(std::string(what) + " to a block that has left the kernel");
  load(transfer.barrier);
  transfers.push_back(transfer);
}

// ---- The end of a thread

void complete(Warp& warp) {
  if (warp.compute != nullptr) warp.compute(warp.operands);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    Thread* thread = warp.threads + lane;
    if ((warp.present >> lane & 1) != 0 && thread != current) ready.push_back(thread);
  }
  warp.present = 0;
}

void complete_if_all_arrived(Cluster& cluster) {
  if (cluster.arrived < cluster.alive) return;
  cluster.arrived = 0;
  ++cluster.phase;
  wake(cluster.waiting);
}

void leave_warp(Warp& warp, unsigned lane) {
  warp.alive &= ~(1u << lane);
  warp.operands[lane] = nullptr;
  if (warp.present == 0) return;
  if (warp.full) fail(std::string("a thread leaves the kernel while its warp waits at ") + warp.what);
  if (warp.present == warp.alive) complete(warp);
}

void leave_block(Block& block) {
  --block.alive;
  if (!block.waiting.empty()) {
    fail(std::string("a thread leaves the kernel while others of its block wait at ") + block.barrier);
  }
  if (block.alive > 0) return;
  check_guard(block);
  for (const Transfer& transfer : transfers) {
    if (lies_in(block, transfer.to, 1) || (transfer.from != nullptr && lies_in(block, transfer.from, 1))) {
      fail("a block leaves the kernel while a copy from or to its shared memory is on its way");
    }
  }
  std::memset(block.shared, poison, launch.shared_bytes);  // peers must not look at it any more
}

void leave_cluster(Cluster& cluster, bool arrived) {
  --cluster.alive;
  if (arrived && current->phase == cluster.phase) --cluster.arrived;
  if (cluster.alive > 0) complete_if_all_arrived(cluster);
}

void leave() {
  if (!current->copies.empty()) fail("a thread leaves the kernel without having waited for its asynchronous copies");
  if (current->fiber->guard() != kStackGuard) fail("stack overflow");
  --alive;
  progress();
  leave_warp(*current->warp, current->lane);
  leave_block(*current->block);
  leave_cluster(*current->block->cluster, current->arrived);
}

// What every fiber does: one thread after the other, as long as they end.
void run_threads() {
#if defined(__SANITIZE_ADDRESS__)
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
  if (main_stack == nullptr) {
    main_stack = stack;
    main_stack_bytes = bytes;
  }
#endif
  for (;;) {
    body(body_context);
    leave();
    Thread* const left = current;
    Fiber* const fiber = left->fiber;
    Thread* next = pick();
    left->fiber = nullptr;
    if (next != nullptr && next->fiber == nullptr) {
      next->fiber = fiber;
      enter(next);
      continue;
    }
    fibers.give_back(fiber);
    if (next == nullptr) {
      switch_fiber(&fiber->position, nullptr, main_position);
    } else {
      go_on(next, &fiber->position);
    }
  }
}

// ---- The launch

void check_launch(const Launch& of) {
  const auto refuse = [&](const char* why) {
    throw std::runtime_error(std::string("cannot launch a kernel: ") + why + " (" + description(of) + ")");
  };
  const uint64_t size = uint64_t(of.block.x) * of.block.y * of.block.z;
  if (size == 0 || size > unsigned(device.threads_per_block) || of.block.z > 64) refuse("invalid size of a block");
  if (of.grid.x > 0x7fffffffu || of.grid.y > 65535 || of.grid.z > 65535) refuse("invalid size of the grid");
  if (of.shared_bytes > device.shared_per_block) refuse("too much shared memory");
  if (of.cluster == 0 || of.cluster > device.blocks_per_cluster) refuse("invalid size of a cluster");
  if (of.grid.x % of.cluster != 0) refuse("the grid is not made of whole clusters");
  if (of.cluster > 1 && device.capability < 90) refuse("the device has no clusters");
  const uint64_t count = uint64_t(of.grid.x) * of.grid.y * of.grid.z;
  if (of.cooperative && count > uint64_t(resident_blocks(of))) refuse("too many blocks for a cooperative launch");
}

// Blocks that must be live at once, neighbours along x.
unsigned group_size() { return launch.cooperative ? launch.grid.x * launch.grid.y * launch.grid.z : launch.cluster; }

void set_up_group() {
  const unsigned block_count = group_size(), warps_per_block = (block_threads + kLanes - 1) / kLanes;
  shared_stride = (launch.shared_bytes + kGuardBytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
  shared_slab.resize(shared_stride * block_count + kSharedAlignment);
  const auto start = reinterpret_cast<uintptr_t>(shared_slab.data());
  char* shared = shared_slab.data() + (kSharedAlignment - start % kSharedAlignment) % kSharedAlignment;

  threads.resize(size_t(block_count) * block_threads);
  warps.resize(size_t(block_count) * warps_per_block);
  blocks.resize(block_count);
  clusters.resize(block_count / launch.cluster);
  fresh.resize(threads.size());
  for (unsigned b = 0; b < block_count; ++b) {
    Block& block = blocks[b];
    block.rank = b % launch.cluster;
    block.cluster = &clusters[b / launch.cluster];
    block.shared = shared + b * shared_stride;
    const unsigned block_slowness = slow_ones ? 2 * random_numbers.below(3) : 0;
    for (unsigned w = 0; w < warps_per_block; ++w) {
      Warp& warp = warps[b * warps_per_block + w];
      warp.threads = &threads[size_t(b) * block_threads + w * kLanes];
      const unsigned slowness = block_slowness + (slow_ones ? 2 * random_numbers.below(2) : 0);
      for (unsigned lane = 0; lane < std::min(kLanes, block_threads - w * kLanes); ++lane) {
        Thread& thread = warp.threads[lane];
        const unsigned t = w * kLanes + lane;
        thread.index = {t % launch.block.x, t / launch.block.x % launch.block.y, t / launch.block.x / launch.block.y};
        thread.lane = lane;
        thread.warp = &warp;
        thread.block = &block;
        thread.slowness = slowness;
        fresh[&thread - threads.data()] = &thread;
      }
    }
  }
}

// Puts the blocks from number `first` on, in order of x, y, z, before their start.
void reset_group(uint64_t first) {
  for (Cluster& cluster : clusters) {
    cluster.alive = launch.cluster * block_threads;
    cluster.arrived = cluster.phase = 0;
    cluster.waiting.clear();
  }
  for (Block& block : blocks) {
    const uint64_t number = first + (&block - blocks.data());
    block.index = {unsigned(number % launch.grid.x), unsigned(number / launch.grid.x % launch.grid.y),
                   unsigned(number / launch.grid.x / launch.grid.y)};
    block.alive = block_threads;
    block.waiting.clear();
    block.any = false;
    fill_shared(block);
  }
  for (Warp& warp : warps) {
    const size_t in_block = (warp.threads - threads.data()) % block_threads;
    const size_t lanes = std::min<size_t>(kLanes, block_threads - in_block);
    warp.alive = kAllLanes >> (kLanes - lanes);
    warp.present = 0;
    std::fill(std::begin(warp.operands), std::end(warp.operands), nullptr);
  }
  for (Thread& thread : threads) {
    thread.fiber = nullptr;
    thread.waits = nullptr;
    thread.arrived = false;
    thread.copies.clear();
    thread.groups.clear();
    thread.uncommitted = 0;
  }
  random_numbers.shuffle(fresh);
  unstarted = alive = threads.size();
  ready.clear();
  transfers.clear();
  waiting_for_phase.clear();
  polls = 0;
}

void run_group(uint64_t first) {
  reset_group(first);
  go_on(pick(), &main_position);
  if (!failed) return;
  failed = false;
  fibers.give_back_all();
  throw std::runtime_error(std::exchange(failure, {}));
}

}  // namespace

void run(const Launch& of, void (*thread_body)(const void*), const void* context) {
  const uint64_t block_count = uint64_t(of.grid.x) * of.grid.y * of.grid.z;
  if (block_count == 0) return;
  check_launch(of);
  const std::lock_guard lock(mutex);
  const char* chosen = std::getenv("RNNKERN_EMULATION_SEED");
  seed = chosen != nullptr ? std::strtoull(chosen, nullptr, 0) : 0;
  random_numbers.state = seed;
  random_numbers.state = random_numbers.next() + ++launches;
  launch = of;
  body = thread_body;
  body_context = context;
  block_threads = of.block.x * of.block.y * of.block.z;
  poison = static_cast<char>(random_numbers.one_in(2) ? 0xff : 0x7f);
  slow_ones = random_numbers.one_in(2);
  transfer_delay = kTransferDelays[random_numbers.below(std::size(kTransferDelays))];
  blockDim = of.block;
  gridDim = of.grid;
  set_up_group();
#if defined(__SANITIZE_ADDRESS__)
  main_stack = nullptr;
#endif

  std::vector<uint64_t> groups(block_count / group_size());
  std::iota(groups.begin(), groups.end(), 0);
  random_numbers.shuffle(groups);
  for (const uint64_t group : groups) run_group(group * group_size());
}

int resident_blocks(const Launch& of) {
  const size_t threads_in_block = size_t(of.block.x) * of.block.y * of.block.z;
  size_t count = std::min<size_t>(device.blocks_per_multiprocessor,
                                  device.threads_per_multiprocessor / std::max<size_t>(threads_in_block, 1));
  constexpr size_t kReservedBytes = 1024;
  count = std::min(count, device.shared_per_multiprocessor / (of.shared_bytes + kReservedBytes));
  const size_t all = count * device.multiprocessors;
  return static_cast<int>(all - all % of.cluster);
}

void fail(std::string message) {
  failed = true;
  failure = std::move(message);
  failure += "; in " + place(*current) + " of a launch with " + description(launch) +
             "; RNNKERN_EMULATION_SEED=" + std::to_string(seed) + ", launch number " + std::to_string(launches);
  switch_fiber(&current->fiber->position, nullptr, main_position);
  std::abort();
}

void require_aligned(const void* pointer, size_t alignment, const char* what) {
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) fail(std::string(what) + ": misaligned address");
}

void require_shared(const void* pointer, size_t bytes, const char* what) {
  if (!lies_in(*current->block, pointer, bytes)) fail(std::string(what) + ": not in the block's shared memory");
}

void require_global(const void* pointer, size_t bytes, const char* what) {
  if (owner(pointer, bytes) != nullptr) fail(std::string(what) + ": not in global memory");
}

void poll(const char* what) {
  if (++polls > kPollLimit) {
    current->waits = what;
    fail("threads ask in vain" + who_waits());
  }
  if (ready.empty() && unstarted == 0 && transfers.empty()) return;
  ready.push_back(current);
  suspend(what);
}

void progress() { polls = 0; }

namespace {

void wait_at_barrier(const char* what) {
  Block& block = *current->block;
  if (block.alive < block_threads) fail(std::string(what) + " after a thread of the block has left the kernel");
  if (block.waiting.empty()) {
    block.barrier = what;
  } else if (block.barrier != what) {
    fail(std::string(what) + " while others of the block wait at " + block.barrier);
  }
  if (block.waiting.size() + 1 < block_threads) {
    block.waiting.push_back(current);
    suspend(what);
    return;
  }
  block.any_before = block.any;
  block.any = false;
  wake(block.waiting);
}

}  // namespace

void sync_block() {
  static constexpr const char* kName = "sync_block";
  wait_at_barrier(kName);
}

bool sync_block_any(bool value) {
  static constexpr const char* kName = "sync_block_any";
  Block& block = *current->block;
  block.any |= value;
  wait_at_barrier(kName);
  return block.any_before;
}

void warp_collective(const char* what, bool full, void* operand, Compute compute) {
  Warp& warp = *current->warp;
  if (full && warp.alive != kAllLanes) fail(std::string(what) + " needs all 32 lanes of a warp");
  if (warp.present == 0) {
    warp.what = what;
    warp.full = full;
    warp.compute = compute;
  } else if (std::strcmp(warp.what, what) != 0) {
    fail(std::string(what) + " while other lanes of the warp wait at " + warp.what);
  }
  warp.operands[current->lane] = operand;
  warp.present |= 1u << current->lane;
  if (warp.present == warp.alive) {
    complete(warp);
  } else {
    suspend(what);
  }
}

unsigned lane() { return current->lane; }

void* shared_memory(size_t byte_offset, size_t alignment) {
  if (byte_offset > launch.shared_bytes) fail("shared_memory: an offset behind the shared memory");
  if (byte_offset % alignment != 0) fail("shared_memory: misaligned offset");
  return current->block->shared + byte_offset;
}

void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid) {
  static constexpr const char* kName = "copy_async";
  require_aligned(shared, bytes, kName);
  require_aligned(global, bytes, kName);
  require_shared(shared, bytes, kName);
  require_global(global, bytes, kName);
  if (valid > bytes) fail("copy_async: more valid bytes than it copies");
  const Copy copy{shared, global, bytes, valid};
  if (random_numbers.one_in(4)) {
    perform(copy);
  } else {
    current->copies.push_back(copy);
    ++current->uncommitted;
  }
}

void commit_group() {
  current->groups.push_back(current->uncommitted);
  current->uncommitted = 0;
}

void wait_group(unsigned pending) {
  auto& groups = current->groups;
  auto& copies = current->copies;
  if (groups.size() <= pending) return;
  const auto first_pending = groups.end() - pending;
  const auto arrived = std::accumulate(groups.begin(), first_pending, 0u);
  std::for_each(copies.begin(), copies.begin() + arrived, perform);
  copies.erase(copies.begin(), copies.begin() + arrived);
  groups.erase(groups.begin(), first_pending);
}

void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  if (arrivals == 0 || arrivals > kMostTransactions) fail("mbarrier_init: invalid number of arrivals");
  store(barrier, {0, arrivals, arrivals, 0, kMark});
}

void mbarrier_invalidate(uint64_t* barrier) {
  load(barrier);
  std::memset(barrier, poison, sizeof(*barrier));
}

void mbarrier_arrive(uint64_t* barrier, uint32_t expected_bytes) {
  const Block* block = owner(barrier, sizeof(*barrier));
  if (block == nullptr) fail("mbarrier_arrive: not in the cluster's shared memory");
  if (block->alive == 0) fail("mbarrier_arrive: the block has left the kernel");
  BarrierState state = load(barrier);
  if (state.pending == 0) fail("more threads arrive at an mbarrier than it was initialised for");
  add_transactions(state, expected_bytes);
  --state.pending;
  store(barrier, state);
}

bool mbarrier_try_wait(const uint64_t* barrier, uint32_t parity, const char* what) {
  constexpr uint32_t kSoon = 3;  // one of so many attempts ends before the phase does
  poll(what);
  const auto ended = [&] { return load(barrier).phase != parity; };
  if (ended() || random_numbers.one_in(kSoon)) return ended();
  waiting_for_phase[barrier].push_back(current);
  suspend(what);
  return ended();
}

void copy_bulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  static constexpr const char* kName = "copy_bulk";
  constexpr size_t kUnit = 16;
  require_aligned(from, kUnit, kName);
  if (bytes % kUnit != 0) fail("copy_bulk: the size is no multiple of 16 bytes");
  if (bytes == 0) return;
  begin_transfer(kName, {static_cast<char*>(to), static_cast<const char*>(from), {}, bytes, barrier}, kUnit);
}

void store_async(void* to, const void* value, uint32_t bytes, uint64_t* barrier) {
  Transfer transfer{static_cast<char*>(to), nullptr, {}, bytes, barrier};
  std::memcpy(transfer.value.data(), value, bytes);
  begin_transfer("store_async", transfer, bytes);
}

unsigned cluster_rank() { return current->block->rank; }

unsigned cluster_size() { return launch.cluster; }

unsigned cluster_index() { return current->block->index.x / launch.cluster; }

void cluster_arrive() {
  if (current->arrived) fail("cluster_arrive without having waited since the last time");
  Cluster& cluster = *current->block->cluster;
  current->arrived = true;
  current->phase = cluster.phase;
  ++cluster.arrived;
  complete_if_all_arrived(cluster);
}

void cluster_wait() {
  if (!current->arrived) fail("cluster_wait without having arrived");
  Cluster& cluster = *current->block->cluster;
  if (current->phase == cluster.phase) {
    cluster.waiting.push_back(current);
    suspend("cluster_wait");
  }
  current->arrived = false;
}

void* map_to_peer(const void* shared, unsigned rank) {
  require_shared(shared, 0, "map_to_peer");
  if (rank >= launch.cluster) fail("map_to_peer: the cluster has no such rank");
  const Block* peer = current->block + (int(rank) - int(current->block->rank));
  if (peer->alive == 0) fail("map_to_peer: the block has left the kernel");
  return peer->shared + (static_cast<const char*>(shared) - current->block->shared);
}

}  // namespace rnnkern::emulation
