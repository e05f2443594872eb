// Tests that the emulation shows what a GPU would leave undefined.
#include "emulation.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/primitives.cuh"
#include "testing.h"

namespace {

using namespace rnnkern::cuda;
using testing::DeviceArray;
using testing::expect;
using testing::expect_equal;
using testing::zeros;

namespace emulation = rnnkern::emulation;

constexpr size_t kDataOffset = 128;

// ---- That a launch ends in an exception, and the next one does not

__global__ void rotate_kernel(uint32_t* out) {
  uint32_t* values = shared_memory<uint32_t>();
  values[threadIdx.x] = threadIdx.x;
  sync_block();
  out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

void expect_that_a_launch_works() {
  const unsigned threads = 70;
  auto out = zeros<uint32_t>(threads);
  launch(rotate_kernel, {dim3(1), dim3(threads), threads * sizeof(uint32_t)}, out.data());
  std::vector<uint32_t> expected;
  for (unsigned t = 0; t < threads; ++t) expected.push_back((t + 1) % threads);
  expect_equal(out.values(), expected);
}

template <class... Parameters>
void expect_failure(const std::vector<std::string>& texts, void (*kernel)(Parameters...), const LaunchConfig& config,
                    const std::type_identity_t<Parameters>&... arguments) {
  std::string message = "no failure";
  try {
    launch(kernel, config, arguments...);
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  for (const std::string& text : texts) {
    expect(message.find(text) != std::string::npos, "'" + text + "' is not in: " + message);
  }
  expect_that_a_launch_works();
}

LaunchConfig one_block(unsigned threads, size_t shared_bytes = 0) { return {dim3(1), dim3(threads), shared_bytes}; }

LaunchConfig one_cluster(unsigned blocks, unsigned threads, size_t shared_bytes = 0) {
  LaunchConfig config{dim3(blocks), dim3(threads), shared_bytes};
  config.cluster = blocks;
  return config;
}

__global__ void deadlock_kernel() {
  if (threadIdx.x < 16) {
    sync_warp();
  } else {
    sync_block();
  }
}

void test_deadlock() {
  expect_failure({"deadlock", "16 at sync_warp", "16 at sync_block", "block (32, 1, 1)"}, deadlock_kernel,
                 one_block(32));
}

__global__ void early_leave_kernel() {
  if (threadIdx.x != 5) sync_block();
}

void test_leaving_before_a_barrier() {
  for (int launch = 0; launch < 10; ++launch) {
    expect_failure({"sync_block", "the kernel"}, early_leave_kernel, one_block(40));
  }
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    sync_block();
  } else {
    sync_block_any(true);
  }
}

void test_two_barriers() { expect_failure({"while others of the block wait at"}, two_barriers_kernel, one_block(64)); }

__global__ void diverged_kernel(float* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = shuffle(1.0f, 3);
  } else {
    sync_warp();
  }
}

void test_diverged_warp() {
  auto out = zeros<float>(32);
  expect_failure({"while other lanes of the warp wait at"}, diverged_kernel, one_block(32), out.data());
}

__global__ void half_a_warp_kernel() {
  float sum[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  mma_m16n8k8_tf32(sum, a, b);
}

void test_half_a_warp() { expect_failure({"mma_m16n8k8_tf32 needs all 32 lanes"}, half_a_warp_kernel, one_block(16)); }

__global__ void left_warp_kernel() {
  if (threadIdx.x > 0) half_a_warp_kernel();
}

void test_leaving_a_warp() { expect_failure({"mma_m16n8k8_tf32"}, left_warp_kernel, one_block(32)); }

__global__ void spin_kernel(const uint32_t* flag) {
  while (load_acquire_gpu(flag) == 0) continue;
}

void test_spinning() {
  auto flag = zeros<uint32_t>(1);
  expect_failure({"ask in vain", "32 at load_acquire_gpu"}, spin_kernel, one_block(32), flag.data());
}

__global__ void handshake_kernel(uint32_t* flags) {
  store_release_gpu(flags + blockIdx.x, 1);
  while (load_acquire_gpu(flags + 1 - blockIdx.x) == 0) back_off();
}

void test_blocks_that_need_not_run_at_once() {
  auto flags = zeros<uint32_t>(2);
  LaunchConfig config{dim3(2), dim3(1)};
  expect_failure({"ask in vain"}, handshake_kernel, config, flags.data());
  config.cooperative = true;
  launch(handshake_kernel, config, zeros<uint32_t>(2).data());
}

__global__ void wait_for_nobody_kernel() {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  mbarrier_init(barrier, 2);
  mbarrier_arrive(barrier);
  mbarrier_wait_parity(barrier, 0);
}

void test_incomplete_mbarrier() {
  expect_failure({"ask in vain", "1 at mbarrier_try_wait_parity"}, wait_for_nobody_kernel,
                 one_block(1, sizeof(Mbarrier)));
}

__global__ void no_mbarrier_kernel() { mbarrier_arrive(shared_memory<Mbarrier>()); }

void test_uninitialised_mbarrier() {
  expect_failure({"there is no mbarrier"}, no_mbarrier_kernel, one_block(1, sizeof(Mbarrier)));
}

__global__ void too_many_arrive_kernel(const float* in) {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  mbarrier_init(barrier, 1);
  mbarrier_arrive_expect_tx(barrier, 64);
  copy_bulk(shared_memory<float>(kDataOffset), in, 32, barrier);
  mbarrier_arrive(barrier);
}

void test_too_many_arrivals() {
  auto in = zeros<float>(16);
  expect_failure({"more threads arrive"}, too_many_arrive_kernel, one_block(1, kDataOffset + 64), in.data());
}

__global__ void overwrite_kernel(unsigned offset) { *shared_memory<char>(offset) = 1; }

__global__ void index_kernel(int index) { shared_memory<char>()[index] = 1; }

void test_guard_behind_shared_memory() {
  launch(overwrite_kernel, one_block(1, 100), 99u);
  expect_failure({"0 bytes behind the shared memory"}, overwrite_kernel, one_block(1, 100), 100u);
  expect_failure({"27 bytes behind the shared memory"}, index_kernel, one_block(1, 100), 127);
  expect_failure({"an offset behind"}, overwrite_kernel, one_block(1, 100), 101u);
}

__global__ void misaligned_kernel(const char* in) {
  copy_async<16>(shared_memory<char>(16), in + 4);
  wait_group<0>();
}

void test_misaligned() {
  auto in = zeros<char>(32);
  expect_failure({"copy_async: misaligned"}, misaligned_kernel, one_block(1, 64), in.data());
}

__global__ void wrong_space_kernel(float* out) { copy_async<4>(out, out + 1); }

void test_wrong_space() {
  auto out = zeros<float>(2);
  expect_failure({"copy_async: not in the block's shared memory"}, wrong_space_kernel, one_block(1, 64), out.data());
}

__global__ void abandoned_copy_kernel(const float* in) {
  for (int i = 0; i < 16; ++i) copy_async<4>(shared_memory<float>() + i, in + i);
  commit_group();
}

void test_abandoned_copy() {
  auto in = zeros<float>(16);
  expect_failure({"without having waited"}, abandoned_copy_kernel, one_block(1, 64), in.data());
}

__global__ void abandoned_bulk_copy_kernel(const float* in) {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  mbarrier_init(barrier, 1);
  mbarrier_arrive_expect_tx(barrier, 64);
  copy_bulk(shared_memory<float>(kDataOffset), in, 64, barrier);
}

void test_abandoned_bulk_copy() {
  auto in = zeros<float>(16);
  expect_failure({"is on its way"}, abandoned_bulk_copy_kernel, one_block(1, kDataOffset + 64), in.data());
}

__global__ void leave_cluster_kernel() {
  sync_cluster();
  if (cluster_rank() == 0) return;
  for (int i = 0; i < 1000; ++i) back_off();
  *map_to_peer(shared_memory<uint32_t>(), 0) = 1;
}

void test_peer_that_has_left() {
  expect_failure({"map_to_peer: the block has left"}, leave_cluster_kernel, one_cluster(2, 1, 4));
}

__global__ void no_arrival_kernel() { cluster_wait(); }

__global__ void two_arrivals_kernel() {
  cluster_arrive();
  cluster_arrive();
}

void test_cluster_barrier_misused() {
  expect_failure({"without having arrived"}, no_arrival_kernel, one_cluster(2, 32));
  expect_failure({"without having waited"}, two_arrivals_kernel, one_cluster(2, 32));
}

void test_capability() {
  emulation::device.capability = 75;
  expect_failure({"mma_m16n8k8_tf32 needs"}, half_a_warp_kernel, one_block(32));
  expect_failure({"no clusters"}, no_arrival_kernel, one_cluster(2, 32));
  emulation::device = {};
}

__global__ void nothing_kernel() {}

void test_refused_launches() {
  LaunchConfig config{dim3(200), dim3(1024)};
  config.cooperative = true;
  expect_failure({"too many blocks", "grid (200, 1, 1)"}, nothing_kernel, config);
  expect_failure({"size of a block"}, nothing_kernel, one_block(1025));
  expect_failure({"too much shared memory"}, nothing_kernel, one_block(1, size_t(1) << 20));
  config = one_cluster(2, 32);
  config.grid.x = 3;
  expect_failure({"whole clusters"}, nothing_kernel, config);
}

__global__ void deep_kernel(char* out) {
  volatile char frame[emulation::kStackBytes + 1000];
  for (volatile char& byte : frame) byte = 1;
  out[0] = frame[0];
}

void test_stack_overflow() {
  auto out = zeros<char>(1);
  expect_failure({"stack overflow"}, deep_kernel, one_block(1), out.data());
}

// ---- That wrong values show

// Whether the launches give anything but zeros, at least once in a while.
template <class... Parameters>
void expect_errors(size_t errors, void (*kernel)(uint32_t*, Parameters...), const LaunchConfig& config,
                   const std::type_identity_t<Parameters>&... arguments) {
  bool wrong = false;
  for (int repetition = 0; repetition < 20; ++repetition) {
    auto out = zeros<uint32_t>(errors);
    launch(kernel, config, out.data(), arguments...);
    wrong |= out.values() != std::vector<uint32_t>(errors);
  }
  expect(wrong, "nothing was wrong");
}

__global__ void unwritten_kernel(uint32_t* errors) { errors[0] = std::isnan(*shared_memory<float>()); }

void test_unwritten_shared_memory() { expect_errors(1, unwritten_kernel, one_block(1, 4)); }

__global__ void no_barrier_kernel(uint32_t* errors) {
  uint32_t* values = shared_memory<uint32_t>();
  values[threadIdx.x] = 1;
  errors[threadIdx.x] = values[threadIdx.x ^ 1] != 1;
}

void test_missing_barrier() { expect_errors(32, no_barrier_kernel, one_block(32, 128)); }

__global__ void no_second_barrier_kernel(uint32_t* errors) {
  uint32_t* values = shared_memory<uint32_t>();
  for (uint32_t round = 0; round < 4; ++round) {
    values[threadIdx.x] = round;
    sync_block();
    errors[threadIdx.x] |= values[threadIdx.x ^ 1] != round;
  }
}

void test_missing_second_barrier() { expect_errors(64, no_second_barrier_kernel, one_block(64, 256)); }

__global__ void no_wait_kernel(uint32_t* errors, const uint32_t* in) {
  uint32_t* value = shared_memory<uint32_t>() + threadIdx.x;
  copy_async<4>(value, in);
  commit_group();
  wait_group<1>();
  errors[threadIdx.x] = *value != 7;
  wait_group<0>();
  if (*value != 7) emulation::fail("wait_group<0> did not wait");
}

void test_missing_wait_group() {
  DeviceArray<uint32_t> in(std::vector<uint32_t>{7});
  expect_errors(32, no_wait_kernel, one_block(32, 128), in.data());
}

__global__ void source_changed_kernel(uint32_t* errors, uint32_t* in) {
  uint32_t* value = shared_memory<uint32_t>() + threadIdx.x;
  in[threadIdx.x] = 7;
  copy_async<4>(value, in + threadIdx.x);
  commit_group();
  in[threadIdx.x] = 8;
  wait_group<0>();
  errors[threadIdx.x] = *value != 7;
}

void test_source_changed_too_early() {
  auto in = zeros<uint32_t>(32);
  expect_errors(32, source_changed_kernel, one_block(32, 128), in.data());
}

__global__ void no_bulk_wait_kernel(uint32_t* errors, const uint32_t* in) {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  uint32_t* values = shared_memory<uint32_t>(kDataOffset);
  mbarrier_init(barrier, 1);
  mbarrier_arrive_expect_tx(barrier, 256);
  copy_bulk(values, in, 256, barrier);
  back_off();
  back_off();
  errors[0] = values[0] != 7;
  errors[1] = values[0] == 7 && values[63] != 7;  // came in part
  mbarrier_wait_parity(barrier, 0);
  if (values[0] != 7 || values[63] != 7) emulation::fail("the phase ended too early");
}

void test_missing_bulk_wait() {
  DeviceArray<uint32_t> in(std::vector<uint32_t>(64, 7));
  uint32_t late = 0, partial = 0;
  for (int repetition = 0; repetition < 100; ++repetition) {
    auto out = zeros<uint32_t>(2);
    launch(no_bulk_wait_kernel, one_block(1, kDataOffset + 256), out.data(), in.data());
    late += out.values()[0];
    partial += out.values()[1];
  }
  expect(late > 0 && partial > 0 && late + partial < 100, "the copy always comes at the same time");
}

__global__ void no_phase_wait_kernel(uint32_t* errors) {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  uint32_t* received = shared_memory<uint32_t>(kDataOffset);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_arrive_expect_tx(barrier, 4);
  }
  sync_cluster();
  if (threadIdx.x == 0)
    store_async(map_to_peer(received, 1 - cluster_rank()), 7u, map_to_peer(barrier, 1 - cluster_rank()));
  sync_cluster();
  errors[blockIdx.x * blockDim.x + threadIdx.x] = *received != 7;
  mbarrier_wait_parity_cluster(barrier, 0);
}

void test_missing_phase_wait() { expect_errors(128, no_phase_wait_kernel, one_cluster(2, 64, kDataOffset + 4)); }

__global__ void no_cluster_barrier_kernel(uint32_t* errors) {
  uint32_t* own = shared_memory<uint32_t>();
  own[threadIdx.x] = 7;
  sync_block();
  errors[blockIdx.x * blockDim.x + threadIdx.x] = map_to_peer(own, 1 - cluster_rank())[threadIdx.x] != 7;
  sync_cluster();
}

void test_missing_cluster_barrier() { expect_errors(64, no_cluster_barrier_kernel, one_cluster(2, 32, 128)); }

__global__ void flag_before_data_kernel(uint32_t* errors, uint32_t* memory) {
  if (blockIdx.x == 0) {
    store_release_gpu(memory + 32 + threadIdx.x, 1);
    memory[threadIdx.x] = 7;
  } else {
    while (load_acquire_gpu(memory + 32 + threadIdx.x) == 0) back_off();
    errors[threadIdx.x] = memory[threadIdx.x] != 7;
    memory[32 + threadIdx.x] = memory[threadIdx.x] = 0;
  }
}

void test_flag_before_data() {
  auto memory = zeros<uint32_t>(64);
  LaunchConfig config{dim3(2), dim3(32)};
  config.cooperative = true;
  expect_errors(32, flag_before_data_kernel, config, memory.data());
}

// ---- Threads

__global__ void order_kernel(uint32_t* next, uint32_t* order) {
  order[(*next)++] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<uint32_t> order_of_a_launch() {
  const unsigned blocks = 8, threads = 40;
  auto next = zeros<uint32_t>(1);
  DeviceArray<uint32_t> order(blocks * threads);
  launch(order_kernel, {dim3(blocks), dim3(threads)}, next.data(), order.data());
  return order.values();
}

void test_order() {
  const uint64_t start = emulation::launches;
  const std::vector<uint32_t> first = order_of_a_launch(), second = order_of_a_launch();
  expect(first != second, "two launches have the same order");
  emulation::launches = start;
  expect_equal(order_of_a_launch(), first);
  expect_equal(order_of_a_launch(), second);
  std::vector<uint32_t> sorted = first, expected;
  std::sort(sorted.begin(), sorted.end());
  for (unsigned i = 0; i < first.size(); ++i) expected.push_back(i);
  expect_equal(sorted, expected);
}

__global__ void partial_warp_kernel(uint32_t* out) {
  if (threadIdx.x % 32 == 0 && threadIdx.x > 0) return;
  out[threadIdx.x] = shuffle_xor(threadIdx.x, 1);
}

// What is left of a warp can shuffle, but a lane that is not there has no value.
void test_partial_warp() {
  const unsigned threads = 43;
  auto out = zeros<uint32_t>(threads);
  launch(partial_warp_kernel, one_block(threads), out.data());
  const std::vector<uint32_t> values = out.values();
  for (unsigned t = 0; t < threads; ++t) {
    if (t == 32) continue;
    const unsigned partner = t ^ 1;
    const bool there = partner < threads && partner != 32;
    expect(there == (values[t] == partner), "lane " + std::to_string(t) + " got " + std::to_string(values[t]));
  }
}

void test_calls_from_several_threads() {
  std::vector<std::thread> callers;
  std::vector<std::string> errors(4);
  for (std::string& error : errors) {
    callers.emplace_back([&error] {
      try {
        for (int i = 0; i < 20; ++i) expect_that_a_launch_works();
      } catch (const std::exception& failure) {
        error = failure.what();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::string& error : errors) expect(error.empty(), error);
}

const testing::Test kTests[] = {
    {"deadlock", 75, test_deadlock},
    {"leaving_before_a_barrier", 75, test_leaving_before_a_barrier},
    {"two_barriers", 75, test_two_barriers},
    {"diverged_warp", 75, test_diverged_warp},
    {"half_a_warp", 75, test_half_a_warp},
    {"leaving_a_warp", 75, test_leaving_a_warp},
    {"spinning", 75, test_spinning},
    {"blocks_that_need_not_run_at_once", 75, test_blocks_that_need_not_run_at_once},
    {"incomplete_mbarrier", 75, test_incomplete_mbarrier},
    {"uninitialised_mbarrier", 75, test_uninitialised_mbarrier},
    {"too_many_arrivals", 75, test_too_many_arrivals},
    {"guard_behind_shared_memory", 75, test_guard_behind_shared_memory},
    {"misaligned", 75, test_misaligned},
    {"wrong_space", 75, test_wrong_space},
    {"abandoned_copy", 75, test_abandoned_copy},
    {"abandoned_bulk_copy", 75, test_abandoned_bulk_copy},
    {"peer_that_has_left", 75, test_peer_that_has_left},
    {"cluster_barrier_misused", 75, test_cluster_barrier_misused},
    {"capability", 75, test_capability},
    {"refused_launches", 75, test_refused_launches},
    {"stack_overflow", 75, test_stack_overflow},
    {"unwritten_shared_memory", 75, test_unwritten_shared_memory},
    {"missing_barrier", 75, test_missing_barrier},
    {"missing_second_barrier", 75, test_missing_second_barrier},
    {"missing_wait_group", 75, test_missing_wait_group},
    {"source_changed_too_early", 75, test_source_changed_too_early},
    {"missing_bulk_wait", 75, test_missing_bulk_wait},
    {"missing_phase_wait", 75, test_missing_phase_wait},
    {"missing_cluster_barrier", 75, test_missing_cluster_barrier},
    {"flag_before_data", 75, test_flag_before_data},
    {"order", 75, test_order},
    {"partial_warp", 75, test_partial_warp},
    {"calls_from_several_threads", 75, test_calls_from_several_threads},
};

}  // namespace

int main(int argc, char** argv) { return testing::main(argc, argv, kTests); }
