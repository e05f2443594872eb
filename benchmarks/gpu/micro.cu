// What kernels that run a whole sequence rest on, measured: barriers, hand-offs and exchanges between blocks, through the
// L2 cache and within clusters, memory, and launches.
//
// Prints a line of JSON for each number: {"what", "how", "value", "unit"}, or "why" instead of a value that this GPU does
// not have. Every number is the median of several trials; a time inside a kernel is the difference between many rounds
// and twice as many, so that launches do not count.
#include <cooperative_groups.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/primitives.cuh"
#include "grid_barrier.cuh"

namespace {

using namespace rnnkern::cuda;

constexpr int kTrials = 9;
constexpr unsigned kThreads = 256, kMostThreads = 512;
constexpr unsigned kInFlight = 8;     // loads that a thread starts before it uses the first, given the registers
constexpr size_t kAlone = 120 << 10;  // shared memory of which two blocks do not fit on a multiprocessor
constexpr size_t kBarrierBytes = 128;
constexpr uint32_t kAttempts = 1u << 22;      // of asking before a wait is given up: some seconds
constexpr uint32_t kSlowAttempts = 1u << 16;  // of asking an Mbarrier, which may hold an answer back
constexpr uint32_t kNeverSum = 0x5eed5eed;    // no sum of what is loaded here

__device__ uint32_t trouble;  // not zero: a wait was given up, or data was not there
__device__ uint32_t sink;     // where results go that nobody wants

// ---- Device helpers

template <class Arrived>
__device__ __forceinline__ bool wait_for(Arrived arrived) {
  for (uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    if (arrived()) return true;
  }
  trouble = 1;
  return false;
}

// Shared memory: barriers, then words of 16 bytes.
__device__ __forceinline__ Mbarrier* shared_barriers() { return shared_memory<Mbarrier>(); }
__device__ __forceinline__ uint4* shared_words() { return shared_memory<uint4>(kBarrierBytes); }

__device__ __forceinline__ uint4 four(uint32_t value) { return make_uint4(value, value, value, value); }

__device__ __forceinline__ uint32_t fold(uint4 value) { return value.x ^ value.y ^ value.z ^ value.w; }

__device__ __forceinline__ void keep(uint32_t sum) {
  if (sum == kNeverSum) sink = sum;
}

// load(index) of all words, several at a time, by the threads of the block, whose number divides that of the words; and
// seen(value) of each.
template <class Load, class Seen>
__device__ __forceinline__ uint32_t sweep(unsigned words, Load load, Seen seen) {
  uint32_t sum = 0;
  for (unsigned first = threadIdx.x; first < words; first += kInFlight * blockDim.x) {
    uint4 values[kInFlight];
#pragma unroll
    for (unsigned k = 0; k < kInFlight; ++k) {
      if (first + k * blockDim.x < words) values[k] = load(first + k * blockDim.x);
    }
#pragma unroll
    for (unsigned k = 0; k < kInFlight; ++k) {
      if (first + k * blockDim.x >= words) break;
      seen(values[k]);
      sum ^= fold(values[k]);
    }
  }
  return sum;
}

template <class Load>
__device__ __forceinline__ uint32_t sweep(unsigned words, Load load) {
  return sweep(words, load, [](uint4) {});
}

// ---- Barriers

__global__ void grid_barrier_kernel(GridBarrierState* state, unsigned rounds) {
  GridBarrier barrier(state, gridDim.x, blockIdx.x == 0);
  for (unsigned round = 0; round < rounds; ++round) {
    if (!barrier.sync()) {
      trouble = 1;
      return;
    }
  }
}

__global__ void cooperative_groups_kernel(unsigned rounds) {
  const auto grid = cooperative_groups::this_grid();
  for (unsigned round = 0; round < rounds; ++round) grid.sync();
}

__global__ void cluster_barrier_kernel(unsigned rounds) {
  for (unsigned round = 0; round < rounds; ++round) sync_cluster();
}

__global__ void block_barrier_kernel(unsigned rounds) {
  for (unsigned round = 0; round < rounds; ++round) sync_block();
}

// ---- From one block to another through the L2 cache

struct Mailbox {
  alignas(128) uint32_t flag;
  alignas(128) uint4 data[kThreads];
};

// A word, by one thread.
struct OneWord {
  __device__ static void send(Mailbox& out, uint32_t round) {
    if (threadIdx.x == 0) store_release_gpu(&out.flag, round);
  }
  __device__ static bool receive(const Mailbox& in, uint32_t round) {
    return threadIdx.x != 0 || wait_for([&] { return load_acquire_gpu(&in.flag) == round; });
  }
};

// 16 bytes a thread, then one flag for all of them.
struct FlagBehindData {
  __device__ static void send(Mailbox& out, uint32_t round) {
    out.data[threadIdx.x] = four(round);
    sync_block();
    if (threadIdx.x == 0) store_release_gpu(&out.flag, round);
  }
  __device__ static bool receive(const Mailbox& in, uint32_t round) {
    if (sync_block_any(!OneWord::receive(in, round))) return false;
    if (in.data[threadIdx.x].x != round) trouble = 1;
    return true;
  }
};

// 16 bytes a thread, of which 4 tell the round.
struct FlagInData {
  __device__ static void send(Mailbox& out, uint32_t round) { store_relaxed_gpu(&out.data[threadIdx.x], four(round)); }
  __device__ static bool receive(const Mailbox& in, uint32_t round) {
    uint4 data{};
    const bool arrived = wait_for([&] {
      data = load_relaxed_gpu(&in.data[threadIdx.x]);
      return data.w == round;
    });
    keep(fold(data));
    return !sync_block_any(!arrived);
  }
};

// Blocks 0 and `partner` send to and fro.
template <class Way>
__global__ void handoff_kernel(Mailbox* boxes, unsigned partner, unsigned rounds) {
  const bool first = blockIdx.x == 0;
  if (!first && blockIdx.x != partner) return;
  Mailbox& out = boxes[first ? 0 : 1];
  const Mailbox& in = boxes[first ? 1 : 0];
  for (uint32_t round = 1; round <= rounds; ++round) {
    if (first) Way::send(out, round);
    if (!Way::receive(in, round)) return;
    if (!first) Way::send(out, round);
  }
}

// ---- From all blocks to all blocks through the L2 cache, as a recurrent step passes on its states
//
// Each block writes its part of `words` of 16 bytes, then reads them all. Rounds alternate between two buffers: whoever
// writes in a round has seen that all have read what stood there.

struct Part {
  unsigned begin, size;
};

__device__ __forceinline__ Part own_part(unsigned words) {
  const unsigned begin = blockIdx.x * words / gridDim.x;
  return {begin, (blockIdx.x + 1) * words / gridDim.x - begin};
}

// The epoch is in each word. Of several copies each block reads one: buffers is [2][copies][words].
__global__ __launch_bounds__(kMostThreads, 1) void flag_in_data_exchange_kernel(uint4* buffers, unsigned words,
                                                                                unsigned copies, unsigned rounds) {
  const Part own = own_part(words);
  uint32_t sum = 0;
  for (uint32_t round = 1; round <= rounds; ++round) {
    uint4* buffer = buffers + round % 2 * copies * words;
    for (unsigned i = threadIdx.x; i < own.size * copies; i += blockDim.x) {
      store_relaxed_gpu(buffer + i / own.size * words + own.begin + i % own.size, four(round));
    }
    const uint4* copy = buffer + blockIdx.x % copies * words;
    const bool arrived = wait_for([&] {
      bool all = true;
      sum ^= sweep(
          words, [&](unsigned word) { return load_relaxed_gpu(copy + word); },
          [&](uint4 value) { all &= value.w == round; });
      return all;
    });
    if (sync_block_any(!arrived)) return;
  }
  keep(sum);
}

__global__ __launch_bounds__(kMostThreads, 1) void barrier_exchange_kernel(uint4* buffers, unsigned words,
                                                                           GridBarrierState* state, unsigned rounds) {
  GridBarrier barrier(state, gridDim.x, blockIdx.x == 0);
  const Part own = own_part(words);
  uint32_t sum = 0;
  for (uint32_t round = 1; round <= rounds; ++round) {
    uint4* buffer = buffers + round % 2 * words;
    for (unsigned i = threadIdx.x; i < own.size; i += blockDim.x) buffer[own.begin + i] = four(round);
    if (!barrier.sync()) {
      trouble = 1;
      return;
    }
    sum ^= sweep(words, [&](unsigned word) { return load_relaxed_gpu(buffer + word); });
  }
  keep(sum);
}

// Starts the copy of the words to shared memory, in pieces. By one thread.
__device__ __forceinline__ void copy_in_pieces(uint4* shared, const uint4* global, unsigned words, Mbarrier* barrier) {
  constexpr unsigned kPieces = 8;
  mbarrier_arrive_expect_tx(barrier, words * 16);
  for (unsigned i = 0; i < kPieces; ++i) {
    const unsigned begin = i * words / kPieces;
    copy_bulk(shared + begin, global + begin, ((i + 1) * words / kPieces - begin) * 16, barrier);
  }
}

__global__ void barrier_bulk_exchange_kernel(uint4* buffers, unsigned words, GridBarrierState* state, unsigned rounds) {
  Mbarrier* arrived = shared_barriers();
  GridBarrier barrier(state, gridDim.x, blockIdx.x == 0);
  const Part own = own_part(words);
  if (threadIdx.x == 0) {
    mbarrier_init(arrived, 1);
    fence_mbarrier_init();
  }
  for (uint32_t round = 0; round < rounds; ++round) {
    uint4* buffer = buffers + round % 2 * words;
    for (unsigned i = threadIdx.x; i < own.size; i += blockDim.x) buffer[own.begin + i] = four(round);
    fence_proxy_async();
    bool failed = !barrier.sync();
    if (!failed && threadIdx.x == 0) {
      fence_proxy_async();
      copy_in_pieces(shared_words(), buffer, words, arrived);
    }
    failed = failed || !mbarrier_wait_parity(arrived, round % 2, kSlowAttempts);
    if (sync_block_any(failed)) {
      trouble = 1;
      return;
    }
  }
}

// ---- Reading what the L2 cache holds: data is [copies][words]

__global__ __launch_bounds__(kMostThreads, 1) void l2_read_kernel(const uint4* data, unsigned words, unsigned copies,
                                                                  unsigned rounds) {
  const uint4* copy = data + blockIdx.x % copies * words;
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    sum ^= sweep(words, [&](unsigned word) { return load_relaxed_gpu(copy + word); });
    sync_block();
  }
  keep(sum);
}

__global__ void l2_bulk_read_kernel(const uint4* data, unsigned words, unsigned copies, unsigned rounds) {
  Mbarrier* arrived = shared_barriers();
  const uint4* copy = data + blockIdx.x % copies * words;
  if (threadIdx.x == 0) {
    mbarrier_init(arrived, 1);
    fence_mbarrier_init();
  }
  sync_block();
  for (unsigned round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) copy_in_pieces(shared_words(), copy, words, arrived);
    if (sync_block_any(!mbarrier_wait_parity(arrived, round % 2, kSlowAttempts))) {
      trouble = 1;
      return;
    }
  }
}

// ---- Within a cluster, through distributed shared memory

// Two barriers of one arrival each, for the cluster to use.
__device__ __forceinline__ Mbarrier* init_pair() {
  Mbarrier* barriers = shared_barriers();
  if (threadIdx.x == 0) {
    mbarrier_init(&barriers[0], 1);
    mbarrier_init(&barriers[1], 1);
    fence_mbarrier_init();
  }
  sync_cluster();
  return barriers;
}

// The first and the last block of the cluster send 16 bytes to and fro.
__global__ void cluster_handoff_kernel(unsigned rounds) {
  Mbarrier* barriers = init_pair();
  const unsigned last = cluster_size() - 1, rank = cluster_rank();
  if (threadIdx.x == 0 && (rank == 0 || rank == last)) {
    uint4* outbox = map_to_peer(shared_words(), last - rank);
    Mbarrier* theirs = map_to_peer(&barriers[0], last - rank);
    bool going = true;
    for (uint32_t round = 0; round < rounds && going; ++round) {
      mbarrier_arrive_expect_tx(&barriers[0], sizeof(uint4));
      if (rank == 0) store_async(outbox, four(round), theirs);
      going = mbarrier_wait_parity_cluster(&barriers[0], round % 2, kSlowAttempts);
      if (rank == last) store_async(outbox, four(round), theirs);
    }
    if (!going) trouble = 1;
  }
  sync_cluster();  // a peer's shared memory must outlast what is sent to it
}

// Each block of the cluster sends its part of the words to all of them, and waits for all parts. Two inboxes alternate:
// whoever sends to one has received what all sent after they had read it.
__global__ void cluster_exchange_kernel(unsigned words, unsigned rounds) {
  Mbarrier* barriers = init_pair();
  const unsigned size = cluster_size(), part = words / size, begin = cluster_rank() * part;
  for (uint32_t round = 0; round < rounds; ++round) {
    const unsigned slot = round % 2;
    uint4* inbox = shared_words() + slot * words;
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(&barriers[slot], words * 16);
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
      const unsigned peer = i / part;
      store_async(map_to_peer(inbox + begin + i % part, peer), four(round), map_to_peer(&barriers[slot], peer));
    }
    if (sync_block_any(!mbarrier_wait_parity_cluster(&barriers[slot], round / 2 % 2, kSlowAttempts))) {
      trouble = 1;
      break;
    }
  }
  sync_cluster();
}

// The same by one bulk copy to each peer, from an outbox behind the inboxes.
__global__ void cluster_bulk_exchange_kernel(unsigned words, unsigned rounds) {
  Mbarrier* barriers = init_pair();
  const unsigned size = cluster_size(), part = words / size, begin = cluster_rank() * part;
  for (uint32_t round = 0; round < rounds; ++round) {
    const unsigned slot = round % 2;
    uint4* inbox = shared_words() + slot * words;
    uint4* outbox = shared_words() + 2 * words + slot * part;
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(&barriers[slot], words * 16);
    for (unsigned i = threadIdx.x; i < part; i += blockDim.x) outbox[i] = four(round);
    fence_proxy_async_shared();
    sync_block();
    if (threadIdx.x < size) {
      copy_bulk_to_peer(map_to_peer(inbox + begin, threadIdx.x), outbox, part * 16,
                        map_to_peer(&barriers[slot], threadIdx.x));
    }
    if (sync_block_any(!mbarrier_wait_parity_cluster(&barriers[slot], round / 2 % 2, kSlowAttempts))) {
      trouble = 1;
      break;
    }
  }
  sync_cluster();
}

// Blocks of opposite rank send each other all the words.
template <bool kBulk>
__global__ void cluster_push_kernel(unsigned words, unsigned rounds) {
  constexpr unsigned kPieces = 8;
  Mbarrier* barriers = init_pair();
  const unsigned peer = cluster_rank() ^ (cluster_size() / 2), piece = words / kPieces;
  for (uint32_t round = 0; round < rounds; ++round) {
    const unsigned slot = round % 2;
    uint4* outbox = shared_words() + 2 * words;
    uint4* inbox = map_to_peer(shared_words() + slot * words, peer);
    Mbarrier* theirs = map_to_peer(&barriers[slot], peer);
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(&barriers[slot], words * 16);
    if constexpr (!kBulk) {
      for (unsigned i = threadIdx.x; i < words; i += blockDim.x) store_async(inbox + i, four(round), theirs);
    } else if (threadIdx.x < kPieces) {
      const unsigned begin = threadIdx.x * piece;
      copy_bulk_to_peer(inbox + begin, outbox + begin, piece * 16, theirs);
    }
    if (sync_block_any(!mbarrier_wait_parity_cluster(&barriers[slot], round / 2 % 2, kSlowAttempts))) {
      trouble = 1;
      break;
    }
  }
  sync_cluster();
}

// Each block reads all the words of the one of opposite rank.
__global__ __launch_bounds__(kMostThreads, 1) void cluster_pull_kernel(unsigned words, unsigned rounds) {
  uint4* own = shared_words();
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) own[i] = four(i);
  sync_cluster();
  const uint4* theirs = map_to_peer(own, cluster_rank() ^ (cluster_size() / 2));
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    sum ^= sweep(words, [&](unsigned word) { return theirs[word]; });
    sync_block();
  }
  keep(sum);
  sync_cluster();
}

// ---- Shared memory

__global__ __launch_bounds__(kMostThreads, 1) void shared_read_kernel(unsigned words, unsigned rounds) {
  uint4* data = shared_words();
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) data[i] = four(i);
  sync_block();
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    sum ^= sweep(words, [&](unsigned word) { return data[word]; });
    sync_block();
  }
  keep(sum);
}

// By ldmatrix, as tensor cores are fed.
__global__ __launch_bounds__(kMostThreads, 1) void shared_matrices_kernel(unsigned words, unsigned rounds) {
  uint4* data = shared_words();
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) data[i] = four(i);
  sync_block();
  uint32_t sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    sum ^= sweep(words, [&](unsigned word) {
      uint32_t fragment[4];
      load_matrices(fragment, data + word);
      return make_uint4(fragment[0], fragment[1], fragment[2], fragment[3]);
    });
    sync_block();
  }
  keep(sum);
}

// ---- Launches and clocks

__global__ void empty_kernel() {}

__global__ void clock_kernel(uint64_t nanoseconds_to_pass, double* cycles_per_nanosecond) {
  const uint64_t start = nanoseconds(), first = cycles();
  uint64_t now = start;
  while (now - start < nanoseconds_to_pass) now = nanoseconds();
  *cycles_per_nanosecond = double(cycles() - first) / double(now - start);
}

// ---- Host helpers

template <class T>
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t size) : bytes_(size * sizeof(T)) {
    check(cudaMalloc(&data_, bytes_), "cannot allocate");
    clear();
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }

  T* data() { return data_; }
  void clear() { check(cudaMemsetAsync(data_, 0, bytes_), "cannot clear"); }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Throws where a kernel failed or was in trouble.
void finish() {
  check(cudaDeviceSynchronize(), "a kernel failed");
  uint32_t found = 0;
  const uint32_t none = 0;
  check(cudaMemcpyFromSymbol(&found, trouble, sizeof(found)), "cannot read");
  check(cudaMemcpyToSymbol(trouble, &none, sizeof(none)), "cannot write");
  if (found != 0) throw std::runtime_error("a wait was given up, or data was not there");
}

// Nanoseconds that the GPU takes for what is enqueued on the stream.
template <class Enqueue>
double device_time(Enqueue enqueue, cudaStream_t stream = nullptr) {
  cudaEvent_t start, end;
  check(cudaEventCreate(&start), "cannot create an event");
  check(cudaEventCreate(&end), "cannot create an event");
  std::vector<double> times;
  for (int trial = -1; trial < kTrials; ++trial) {
    check(cudaEventRecord(start, stream), "cannot record");
    enqueue();
    check(cudaEventRecord(end, stream), "cannot record");
    finish();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, end), "cannot tell the time");
    if (trial >= 0) times.push_back(milliseconds * 1e6);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return median(times);
}

// Nanoseconds of one round of a kernel that enqueue(rounds) starts.
template <class Enqueue>
double round_time(unsigned rounds, Enqueue enqueue) {
  const double once = device_time([&] { enqueue(rounds); });
  return (device_time([&] { enqueue(2 * rounds); }) - once) / rounds;
}

template <class Measure>
void report(const char* what, const std::string& how, const char* unit, Measure measure) {
  std::printf("{\"what\": \"%s\", \"how\": \"%s\", \"unit\": \"%s\", ", what, how.c_str(), unit);
  try {
    const auto value = double(measure());
    if (!std::isfinite(value)) throw std::runtime_error("too short a time");
    std::printf("\"value\": %.6g}\n", value);
  } catch (const std::exception& error) {
    std::printf("\"value\": null, \"why\": \"%s\"}\n", error.what());
  }
  std::fflush(stdout);
}

std::string text(size_t number) { return std::to_string(number); }
std::string kib(unsigned words) { return text(words / 64) + " KiB"; }

unsigned multiprocessors() {
  static const unsigned count = [] {
    int device = 0, found = 0;
    check(cudaGetDevice(&device), "no device");
    check(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device), "no device");
    return unsigned(found);
  }();
  return count;
}

// Below this, kernels with bulk copies and clusters trap.
void require_hopper() {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "no device");
  if (major < 9) throw std::runtime_error("needs compute capability 9.0");
}

// Of blocks with room for so many words, and alone on their multiprocessors.
size_t shared_bytes(unsigned words) { return std::max(kAlone, kBarrierBytes + size_t{words} * 16); }

// A block on each multiprocessor, all at once.
LaunchConfig whole_gpu(unsigned threads = kThreads, unsigned words = 0) {
  LaunchConfig config;
  config.grid = dim3(multiprocessors());
  config.block = dim3(threads);
  config.shared_bytes = shared_bytes(words);
  config.cooperative = true;
  return config;
}

// As many clusters as run at once.
template <class... Parameters>
LaunchConfig all_clusters(void (*kernel)(Parameters...), unsigned size, unsigned words = 0) {
  require_hopper();
  LaunchConfig config;
  config.grid = dim3(size);
  config.block = dim3(kThreads);
  config.shared_bytes = shared_bytes(words);
  config.cluster = size;
  config.grid = dim3(unsigned(resident_blocks(kernel, config)));
  if (config.grid.x == 0) throw std::runtime_error("no such cluster fits");
  return config;
}

constexpr unsigned kClusterSizes[] = {2, 4, 8, 16};

// ---- The measurements

void measure_barriers() {
  DeviceMemory<GridBarrierState> state(1);
  for (const unsigned blocks : {multiprocessors() / 2, multiprocessors()}) {
    LaunchConfig config = whole_gpu();
    config.grid = dim3(blocks);
    report("grid barrier", "ours, " + text(blocks) + " blocks", "ns", [&] {
      return round_time(1000, [&](unsigned rounds) { launch(grid_barrier_kernel, config, state.data(), rounds); });
    });
    report("grid barrier", "cooperative groups, " + text(blocks) + " blocks", "ns", [&] {
      return round_time(1000, [&](unsigned rounds) { launch(cooperative_groups_kernel, config, rounds); });
    });
  }
  for (const unsigned size : kClusterSizes) {
    report("cluster barrier", text(size) + " blocks", "ns", [&] {
      const LaunchConfig config = all_clusters(cluster_barrier_kernel, size);
      return round_time(4000, [&](unsigned rounds) { launch(cluster_barrier_kernel, config, rounds); });
    });
  }
  report("block barrier", text(kThreads) + " threads", "ns", [&] {
    return round_time(10000, [&](unsigned rounds) { launch(block_barrier_kernel, whole_gpu(), rounds); });
  });
}

template <class Way>
std::vector<double> handoff_times() {
  DeviceMemory<Mailbox> boxes(2);
  std::vector<double> times;
  const unsigned last = multiprocessors() - 1;
  for (const unsigned partner : {1u, 2u, 8u, last / 4, last / 2, last * 3 / 4, last}) {
    if (partner == 0 || partner > last) continue;
    times.push_back(round_time(1000, [&](unsigned rounds) {
      boxes.clear();
      launch(handoff_kernel<Way>, whole_gpu(), boxes.data(), partner, rounds);
    }));
  }
  for (double& time : times) time /= 2;
  return times;
}

template <class Way>
void measure_handoff(const std::string& how) {
  report("handoff through L2, one way", how, "ns", [] { return median(handoff_times<Way>()); });
}

void measure_l2_exchange() {
  DeviceMemory<GridBarrierState> state(1);
  constexpr const char* kWhat = "exchange of all blocks through L2";
  for (const unsigned words : {512u, 2048u, 4096u}) {
    for (const unsigned copies : {1u, 4u, 16u}) {
      report(kWhat, kib(words) + ", flags inside x" + text(copies), "ns", [&] {
        DeviceMemory<uint4> buffers(2 * copies * words);
        return round_time(500, [&](unsigned rounds) {
          buffers.clear();
          launch(flag_in_data_exchange_kernel, whole_gpu(), buffers.data(), words, copies, rounds);
        });
      });
    }
    DeviceMemory<uint4> buffers(2 * words);
    report(kWhat, kib(words) + ", barrier + loads", "ns", [&] {
      return round_time(500, [&](unsigned rounds) {
        launch(barrier_exchange_kernel, whole_gpu(), buffers.data(), words, state.data(), rounds);
      });
    });
    report(kWhat, kib(words) + ", barrier + bulk copy", "ns", [&] {
      require_hopper();
      return round_time(500, [&](unsigned rounds) {
        launch(barrier_bulk_exchange_kernel, whole_gpu(), buffers.data(), words, state.data(), rounds);
      });
    });
  }
}

void measure_l2_read() {
  for (const unsigned words : {1024u, 4096u}) {
    for (const unsigned copies : {1u, 4u, 16u, multiprocessors()}) {
      const std::string times = ", x" + text(copies);
      DeviceMemory<uint4> data(size_t(words) * copies);
      report("all blocks read from L2", kib(words) + " by loads" + times, "ns", [&] {
        return round_time(
            500, [&](unsigned rounds) { launch(l2_read_kernel, whole_gpu(512), data.data(), words, copies, rounds); });
      });
      report("all blocks read from L2", kib(words) + " by bulk copy" + times, "ns", [&] {
        require_hopper();
        return round_time(500, [&](unsigned rounds) {
          launch(l2_bulk_read_kernel, whole_gpu(), data.data(), words, copies, rounds);
        });
      });
    }
  }
}

// Nanoseconds of a round of a kernel that exchanges so many words in clusters, which all run at once: two inboxes, and
// at most as much to send from.
double cluster_round(void (*kernel)(unsigned, unsigned), unsigned size, unsigned words) {
  const LaunchConfig config = all_clusters(kernel, size, 3 * words);
  return round_time(1000, [&](unsigned rounds) { launch(kernel, config, words, rounds); });
}

void measure_cluster_exchange() {
  for (const unsigned size : kClusterSizes) {
    report("handoff in a cluster, one way", text(size) + " blocks", "ns", [&] {
      const LaunchConfig config = all_clusters(cluster_handoff_kernel, size);
      return round_time(2000, [&](unsigned rounds) { launch(cluster_handoff_kernel, config, rounds); }) / 2;
    });
  }
  constexpr const char* kWhat = "exchange in a cluster";
  for (const unsigned size : {8u, 16u}) {
    for (const unsigned words : {512u, 1024u, 2048u}) {
      const std::string blocks = text(size) + " blocks by ";
      report(kWhat, blocks + "st.async, " + kib(words), "ns",
             [&] { return cluster_round(cluster_exchange_kernel, size, words); });
      report(kWhat, blocks + "bulk copies, " + kib(words), "ns",
             [&] { return cluster_round(cluster_bulk_exchange_kernel, size, words); });
    }
  }
}

void measure_cluster_bandwidth() {
  constexpr unsigned kWords = 2048;
  constexpr const char* kWhat = "distributed shared memory, a block";
  for (const unsigned size : {2u, 8u, 16u}) {
    const std::string blocks = text(size) + " blocks";
    const auto rate = [&](void (*kernel)(unsigned, unsigned)) {
      return kWords * 16 / cluster_round(kernel, size, kWords);
    };
    report(kWhat, "push by st.async, " + blocks, "B/ns", [&] { return rate(cluster_push_kernel<false>); });
    report(kWhat, "push by bulk copies, " + blocks, "B/ns", [&] { return rate(cluster_push_kernel<true>); });
    report(kWhat, "pull, " + blocks, "B/ns", [&] { return rate(cluster_pull_kernel); });
  }
}

void measure_resident_clusters() {
  constexpr unsigned kWords = 200 * 64;
  for (const unsigned size : kClusterSizes) {
    report("clusters at once, 200 KiB a block", text(size) + " blocks", "",
           [&] { return all_clusters(cluster_pull_kernel, size, kWords).grid.x / size; });
  }
}

void measure_shared_memory() {
  constexpr unsigned kWords = 192 * 64;
  for (const unsigned threads : {256u, 512u}) {
    const std::string how = text(threads) + " threads, ";
    const LaunchConfig config = whole_gpu(threads, kWords);
    const auto rate = [&](void (*kernel)(unsigned, unsigned)) {
      return kWords * 16 / round_time(500, [&](unsigned rounds) { launch(kernel, config, kWords, rounds); });
    };
    report("192 KiB of shared memory, a block", how + "loads", "B/ns", [&] { return rate(shared_read_kernel); });
    report("192 KiB of shared memory, a block", how + "ldmatrix", "B/ns", [&] { return rate(shared_matrices_kernel); });
  }
}

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cannot create a stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Nanoseconds of a launch, by the clock on the wall.
double stream_launch_time(const LaunchConfig& config) {
  constexpr int kLaunches = 2000;
  std::vector<double> times;
  for (int trial = -1; trial < kTrials; ++trial) {
    finish();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunches; ++i) launch(empty_kernel, config);
    finish();
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    if (trial >= 0) times.push_back(passed.count() / kLaunches);
  }
  return median(times);
}

// Nanoseconds of a kernel in a graph of many, one after the other.
double graph_launch_time(const LaunchConfig& config) {
  constexpr int kLaunches = 1000;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(config.stream, cudaStreamCaptureModeGlobal), "cannot capture");
  for (int i = 0; i < kLaunches; ++i) launch(empty_kernel, config);
  check(cudaStreamEndCapture(config.stream, &graph), "cannot capture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cannot instantiate a graph");
  const double time =
      device_time([&] { check(cudaGraphLaunch(executable, config.stream), "cannot launch"); }, config.stream);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return time / kLaunches;
}

void measure_launches() {
  const Stream stream;
  for (const unsigned blocks : {1u, multiprocessors()}) {
    LaunchConfig config;
    config.grid = dim3(blocks);
    config.block = dim3(kThreads);
    config.stream = stream.get();
    const std::string how = text(blocks) + (blocks == 1 ? " block" : " blocks");
    report("launch of an empty kernel", "stream, " + how, "ns", [&] { return stream_launch_time(config); });
    report("launch of an empty kernel", "graph, " + how, "ns", [&] { return graph_launch_time(config); });
    config.cooperative = true;
    report("launch of an empty kernel", "cooperative, " + how, "ns", [&] { return stream_launch_time(config); });
  }
}

// After the rest, when the GPU is warm.
void measure_clock() {
  report("clock of a multiprocessor", "after the rest", "GHz", [] {
    DeviceMemory<double> result(1);
    LaunchConfig config = whole_gpu();
    config.grid = dim3(1);
    launch(clock_kernel, config, uint64_t{20'000'000}, result.data());
    finish();
    double value = 0;
    check(cudaMemcpy(&value, result.data(), sizeof(value), cudaMemcpyDeviceToHost), "cannot copy");
    return value;
  });
}

void measure_all() {
  measure_barriers();
  measure_handoff<OneWord>("4 B");
  measure_handoff<FlagBehindData>("4 KiB and a flag");
  measure_handoff<FlagInData>("4 KiB with flags inside");
  measure_l2_exchange();
  measure_l2_read();
  measure_cluster_exchange();
  measure_cluster_bandwidth();
  measure_resident_clusters();
  measure_shared_memory();
  measure_launches();
  measure_clock();
}

}  // namespace

int main() {
  try {
    measure_all();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
