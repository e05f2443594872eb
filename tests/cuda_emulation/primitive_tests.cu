// Tests of csrc/cuda/primitives.cuh, and of a barrier made of them, for a GPU and for the emulation. What a test expects follows
// from the PTX manual, and is computed on the host.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../benchmarks/gpu/grid_barrier.cuh"
#include "common/dtype.h"
#include "cuda/launch.cuh"
#include "cuda/primitives.cuh"
#include "testing.h"

namespace {

using namespace rnnkern;
using namespace rnnkern::cuda;
using testing::DeviceArray;
using testing::expect;
using testing::expect_equal;
using testing::Skip;
using testing::zeros;

constexpr unsigned kLanes = 32;

std::mt19937 generator(1);

int random_below(int limit) { return int(generator() % unsigned(limit)); }

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "cannot ask the device");
  return value;
}

template <class T>
std::vector<T> counting(size_t size) {
  std::vector<T> values(size);
  std::iota(values.begin(), values.end(), T(0));
  return values;
}

// ---- Conversions

// A 16-bit format with these many bits of mantissa, below its sign and exponent.
struct Format {
  int mantissa_bits;

  int exponent_bits() const { return 15 - mantissa_bits; }
  int bias() const { return (1 << (exponent_bits() - 1)) - 1; }
  uint32_t infinity() const { return ((1u << exponent_bits()) - 1) << mantissa_bits; }

  // Of a pattern without sign. That of infinity is the number that would come next.
  double value(uint32_t magnitude) const {
    const int exponent = int(magnitude >> mantissa_bits);
    const double mantissa = magnitude & ((1u << mantissa_bits) - 1);
    if (exponent == 0) return std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    return std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
  }

  float widened(uint32_t bits) const {
    const uint32_t magnitude = bits & 0x7fffu;
    float result = float(value(magnitude));
    if (magnitude == infinity()) result = std::numeric_limits<float>::infinity();
    if (magnitude > infinity()) result = std::numeric_limits<float>::quiet_NaN();
    return (bits & 0x8000u) != 0 ? -result : result;
  }

  // The nearest pattern, by bisection: patterns are in the order of their values.
  uint32_t narrowed(float number) const {
    const double magnitude = std::fabs(double(number));
    const uint32_t sign = std::signbit(number) ? 0x8000u : 0;
    if (magnitude >= value(infinity())) return sign | infinity();
    uint32_t low = 0, high = infinity();
    while (high - low > 1) {
      const uint32_t middle = (low + high) / 2;
      (value(middle) <= magnitude ? low : high) = middle;
    }
    const double below = magnitude - value(low), above = value(high) - magnitude;
    const bool up = above < below || (above == below && low % 2 == 1);
    return sign | (up ? high : low);
  }
};

constexpr Format kHalf{10}, kBFloat16{7};

template <class S>
__global__ void widen_kernel(const S* in, float* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = widen(in[i]);
}

template <class S, class T>
__global__ void narrow_kernel(const T* in, S* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = narrow<S>(in[i]);
}

__global__ void round_to_tf32_kernel(const float* in, float* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = round_to_tf32(in[i]);
}

LaunchConfig for_each(size_t n) { return {dim3(unsigned(n + 255) / 256), dim3(256)}; }

template <class S>
void test_widen(Format format) {
  constexpr int kPatterns = 1 << 16;
  std::vector<S> patterns(kPatterns);
  std::vector<float> expected(kPatterns);
  for (int i = 0; i < kPatterns; ++i) {
    patterns[i].bits = uint16_t(i);
    expected[i] = format.widened(uint32_t(i));
  }
  DeviceArray<S> in(patterns);
  auto out = zeros<float>(kPatterns);
  launch(widen_kernel<S>, for_each(kPatterns), in.data(), out.data(), kPatterns);
  expect_equal(out.values(), expected);
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Each value of the format, the middle between it and the next, and their neighbours; and any floats.
std::vector<float> hard_numbers(Format format) {
  const float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> numbers = {kInfinity, -kInfinity, std::numeric_limits<float>::max(),
                                std::numeric_limits<float>::min(), std::numeric_limits<float>::denorm_min()};
  for (uint32_t bits = 0; bits < format.infinity(); ++bits) {
    const auto value = float(format.value(bits));
    const auto middle = float((format.value(bits) + format.value(bits + 1)) / 2);
    for (const float number : {value, middle}) {
      const float below = std::nextafter(number, -kInfinity), above = std::nextafter(number, kInfinity);
      numbers.insert(numbers.end(), {number, below, above, -number});
    }
  }
  for (int i = 0; i < 100000; ++i) {
    const float number = from_bits(generator());
    if (number == number) numbers.push_back(number);
  }
  return numbers;
}

template <class S>
void test_narrow(Format format) {
  std::vector<float> numbers = hard_numbers(format);
  std::vector<uint16_t> expected;
  for (const float number : numbers) expected.push_back(uint16_t(format.narrowed(number)));
  const size_t count = numbers.size();
  for (const uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0x7fffffffu}) numbers.push_back(from_bits(nan));

  DeviceArray<float> in(numbers);
  auto out = zeros<S>(numbers.size());
  launch(narrow_kernel<S, float>, for_each(numbers.size()), in.data(), out.data(), int(numbers.size()));
  std::vector<uint16_t> actual;
  for (const S pattern : out.values()) actual.push_back(pattern.bits);
  for (size_t i = count; i < actual.size(); ++i) {
    expect((actual[i] & 0x7fffu) > format.infinity(), "a NaN became " + testing::shown(actual[i]));
  }
  actual.resize(count);
  expect_equal(actual, expected);
}

template <class T>
void test_narrow_to_itself() {
  const std::vector<T> numbers = {T(0), -T(0), T(1) / T(3), std::numeric_limits<T>::max(), T(INFINITY), T(NAN)};
  DeviceArray<T> in(numbers), out(numbers.size());
  launch(narrow_kernel<T, T>, for_each(numbers.size()), in.data(), out.data(), int(numbers.size()));
  expect_equal(out.values(), numbers);
}

void test_round_to_tf32() {
  constexpr int kMantissaBits = 10;
  std::vector<float> numbers = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, 65504.0f, 1e30f};
  for (int i = 0; i < 100000; ++i) {
    const uint32_t bits = generator();
    const uint32_t exponent = bits >> 23 & 0xffu;
    if (exponent == 0 || exponent >= 254) continue;
    for (const uint32_t end : {bits & 0x1fffu, 0u, 0x0fffu, 0x1000u, 0x1001u, 0x1fffu}) {
      numbers.push_back(from_bits((bits & ~0x1fffu) | end));
    }
  }
  std::vector<float> expected;
  for (const float number : numbers) {
    int exponent = 0;
    const double fraction = std::frexp(double(number), &exponent);  // in [1/2, 1)
    const double rounded =
        std::ldexp(std::round(std::ldexp(fraction, kMantissaBits + 1)), exponent - kMantissaBits - 1);
    expected.push_back(std::isfinite(number) ? float(rounded) : number);
  }
  DeviceArray<float> in(numbers), out(numbers.size());
  launch(round_to_tf32_kernel, for_each(numbers.size()), in.data(), out.data(), int(numbers.size()));
  expect_equal(out.values(), expected);
}

// ---- Block and warp

__global__ void indices_kernel(uint32_t* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

void test_indices() {
  const unsigned blocks = 4 * 3 * 2, threads = 5 * 4 * 3;
  auto out = zeros<uint32_t>(blocks * threads);
  launch(indices_kernel, {dim3(4, 3, 2), dim3(5, 4, 3)}, out.data());
  std::vector<uint32_t> expected;
  for (unsigned b = 0; b < blocks; ++b) {
    for (unsigned t = 0; t < threads; ++t) expected.push_back(b * 1000 + t);
  }
  expect_equal(out.values(), expected);
}

__global__ void shared_memory_kernel(uint32_t* out) {
  uint32_t* all = shared_memory<uint32_t>();
  double* upper = shared_memory<double>(blockDim.x * sizeof(uint32_t));
  all[threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;
  upper[threadIdx.x] = threadIdx.x;
  sync_block();
  const unsigned other = blockDim.x - 1 - threadIdx.x;
  const bool aligned = reinterpret_cast<uintptr_t>(all) % 128 == 0;
  out[blockIdx.x * blockDim.x + threadIdx.x] = aligned && upper[other] == other ? all[other] : 0;
}

void test_shared_memory() {
  const unsigned blocks = 20, threads = 96;
  auto out = zeros<uint32_t>(blocks * threads);
  launch(shared_memory_kernel, {dim3(blocks), dim3(threads), threads * (sizeof(uint32_t) + sizeof(double))},
         out.data());
  std::vector<uint32_t> expected;
  for (unsigned b = 0; b < blocks; ++b) {
    for (unsigned t = 0; t < threads; ++t) expected.push_back(b * 1000 + threads - 1 - t);
  }
  expect_equal(out.values(), expected);
}

// Each round a thread adds what its neighbour had.
__global__ void sync_block_kernel(uint32_t* out, int rounds) {
  uint32_t* sums = shared_memory<uint32_t>();
  sums[threadIdx.x] = threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    sync_block();
    const uint32_t next = sums[(threadIdx.x + 1) % blockDim.x];
    sync_block();
    sums[threadIdx.x] += next;
  }
  out[threadIdx.x] = sums[threadIdx.x];
}

void test_sync_block() {
  const unsigned threads = 200;
  const int rounds = 50;
  auto out = zeros<uint32_t>(threads);
  launch(sync_block_kernel, {dim3(1), dim3(threads), threads * sizeof(uint32_t)}, out.data(), rounds);
  auto expected = counting<uint32_t>(threads);
  for (int round = 0; round < rounds; ++round) {
    const std::vector<uint32_t> old = expected;
    for (unsigned t = 0; t < threads; ++t) expected[t] += old[(t + 1) % threads];
  }
  expect_equal(out.values(), expected);
}

__global__ void sync_block_any_kernel(uint32_t* out, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const bool any = sync_block_any(int(threadIdx.x) == 2 * round);
    out[round * blockDim.x + threadIdx.x] = any;
  }
}

void test_sync_block_any() {
  const unsigned threads = 70;
  const int rounds = 50;
  auto out = zeros<uint32_t>(threads * rounds);
  launch(sync_block_any_kernel, {dim3(1), dim3(threads)}, out.data(), rounds);
  std::vector<uint32_t> expected;
  for (int round = 0; round < rounds; ++round) expected.insert(expected.end(), threads, 2 * round < int(threads));
  expect_equal(out.values(), expected);
}

__global__ void sync_warp_kernel(uint32_t* out, int rounds) {
  uint32_t* values = shared_memory<uint32_t>();
  const unsigned first = threadIdx.x / kLanes * kLanes, lane = threadIdx.x % kLanes;
  values[threadIdx.x] = threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    sync_warp();
    const uint32_t next = values[first + (lane + 1) % kLanes];
    sync_warp();
    values[threadIdx.x] = next;
  }
  out[threadIdx.x] = values[threadIdx.x];
}

void test_sync_warp() {
  const unsigned threads = 96, rounds = 40;
  auto out = zeros<uint32_t>(threads);
  launch(sync_warp_kernel, {dim3(1), dim3(threads), threads * sizeof(uint32_t)}, out.data(), int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned t = 0; t < threads; ++t) expected.push_back(t / kLanes * kLanes + (t + rounds) % kLanes);
  expect_equal(out.values(), expected);
}

enum class Shuffle { kLane, kDown, kXor };

template <class V, Shuffle kKind>
__global__ void shuffle_kernel(const V* in, V* out) {
  for (unsigned i = 0; i < kLanes; ++i) {
    V value = in[threadIdx.x];
    if constexpr (kKind == Shuffle::kLane) value = shuffle(value, int(threadIdx.x * i + 3) % int(kLanes));
    if constexpr (kKind == Shuffle::kDown) value = shuffle_down(value, i);
    if constexpr (kKind == Shuffle::kXor) value = shuffle_xor(value, int(i));
    out[i * blockDim.x + threadIdx.x] = value;
  }
}

template <class V, Shuffle kKind>
void test_shuffle_of() {
  const unsigned threads = 2 * kLanes;
  std::vector<V> values;
  for (unsigned t = 0; t < threads; ++t) values.push_back(V(t * 1000003u) / V(7));
  DeviceArray<V> in(values), out(kLanes * threads);
  launch(shuffle_kernel<V, kKind>, {dim3(1), dim3(threads)}, in.data(), out.data());
  std::vector<V> expected;
  for (unsigned i = 0; i < kLanes; ++i) {
    for (unsigned t = 0; t < threads; ++t) {
      const unsigned lane = t % kLanes;
      unsigned source = (t * i + 3) % kLanes;
      if (kKind == Shuffle::kDown) source = lane + i < kLanes ? lane + i : lane;
      if (kKind == Shuffle::kXor) source = lane ^ i;
      expected.push_back(values[t - lane + source]);
    }
  }
  expect_equal(out.values(), expected);
}

template <Shuffle kKind>
void test_shuffle() {
  test_shuffle_of<float, kKind>();
  test_shuffle_of<double, kKind>();
  test_shuffle_of<int, kKind>();
  test_shuffle_of<uint32_t, kKind>();
}

__global__ void clocks_kernel(uint64_t* out) {
  out[0] = nanoseconds();
  out[1] = cycles();
  for (int i = 0; i < 100; ++i) back_off(1000);
  out[2] = nanoseconds();
  out[3] = cycles();
}

void test_clocks() {
  auto out = zeros<uint64_t>(4);
  launch(clocks_kernel, {dim3(1), dim3(1)}, out.data());
  const std::vector<uint64_t> times = out.values();
  expect(times[0] <= times[2] && times[1] < times[3], "time went backwards");
}

// ---- Tensor cores

struct Position {
  int row, column;
};

// Where element i of a lane's fragment stands, as the PTX manual lists it.
struct Layout {
  int k, elements_a, elements_b;
  Position (*a)(int group, int quad, int i);
  Position (*b)(int group, int quad, int i);
};

Position position_of_sum(int group, int quad, int i) { return {i < 2 ? group : group + 8, quad * 2 + (i & 1)}; }

const Layout kM16n8k16 = {
    16,
    8,
    4,
    [](int group, int quad, int i) {
      const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
      return Position{upper ? group : group + 8, i < 4 ? quad * 2 + (i & 1) : quad * 2 + (i & 1) + 8};
    },
    [](int group, int quad, int i) { return Position{i < 2 ? quad * 2 + (i & 1) : quad * 2 + (i & 1) + 8, group}; },
};

const Layout kM16n8k8 = {
    8,
    4,
    2,
    [](int group, int quad, int i) { return Position{i < 2 ? group : group + 8, quad * 2 + (i & 1)}; },
    [](int group, int quad, int i) { return Position{quad * 2 + i, group}; },
};

const Layout kM16n8k8Tf32 = {
    8,
    4,
    2,
    [](int group, int quad, int i) { return Position{i == 0 || i == 2 ? group : group + 8, i < 2 ? quad : quad + 4}; },
    [](int group, int quad, int i) { return Position{i == 0 ? quad : quad + 4, group}; },
};

struct Matrix {
  int rows, columns;
  std::vector<float> values;

  Matrix(int rows, int columns) : rows(rows), columns(columns), values(size_t(rows) * columns) {}
  float& operator[](Position at) { return values[size_t(at.row) * columns + at.column]; }
  float operator[](Position at) const { return values[size_t(at.row) * columns + at.column]; }
};

// Small whole numbers, so that any order of summation is exact.
Matrix random_matrix(int rows, int columns) {
  Matrix matrix(rows, columns);
  for (float& value : matrix.values) value = float(random_below(17) - 8);
  return matrix;
}

struct MmaProblem {
  Matrix a, b, c;

  explicit MmaProblem(int k) : a(random_matrix(16, k)), b(random_matrix(k, 8)), c(random_matrix(16, 8)) {}

  Matrix result() const {
    Matrix d = c;
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        for (int k = 0; k < a.columns; ++k) d[{row, column}] += a[{row, k}] * b[{k, column}];
      }
    }
    return d;
  }
};

// All lanes' elements in the order of lanes.
template <class Place>
std::vector<float> distribute(const Matrix& matrix, int elements, Place position) {
  std::vector<float> fragments;
  for (int lane = 0; lane < int(kLanes); ++lane) {
    for (int i = 0; i < elements; ++i) fragments.push_back(matrix[position(lane / 4, lane % 4, i)]);
  }
  return fragments;
}

std::vector<uint32_t> in_pairs(const std::vector<float>& values, Format format) {
  std::vector<uint32_t> pairs;
  for (size_t i = 0; i < values.size(); i += 2) {
    pairs.push_back(format.narrowed(values[i]) | format.narrowed(values[i + 1]) << 16);
  }
  return pairs;
}

std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

template <class Kind, int kRegistersA, int kRegistersB>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* sum) {
  uint32_t own_a[kRegistersA], own_b[kRegistersB];
  float own_sum[4];
  for (int i = 0; i < kRegistersA; ++i) own_a[i] = a[threadIdx.x * kRegistersA + i];
  for (int i = 0; i < kRegistersB; ++i) own_b[i] = b[threadIdx.x * kRegistersB + i];
  for (int i = 0; i < 4; ++i) own_sum[i] = sum[threadIdx.x * 4 + i];
  Kind::multiply(own_sum, own_a, own_b);
  for (int i = 0; i < 4; ++i) sum[threadIdx.x * 4 + i] = own_sum[i];
}

template <class S>
struct M16n8k16 {
  template <class Sum, class A, class B>
  __device__ static void multiply(Sum& sum, A& a, B& b) {
    mma_m16n8k16<S>(sum, a, b);
  }
};

struct M16n8k8Half {
  template <class Sum, class A, class B>
  __device__ static void multiply(Sum& sum, A& a, B& b) {
    mma_m16n8k8_half(sum, a, b);
  }
};

struct M16n8k8Tf32 {
  template <class Sum, class A, class B>
  __device__ static void multiply(Sum& sum, A& a, B& b) {
    mma_m16n8k8_tf32(sum, a, b);
  }
};

template <class Kind, int kRegistersA, int kRegistersB, class Encode>
void test_mma(const Layout& layout, Encode encode) {
  for (int repetition = 0; repetition < 10; ++repetition) {
    const MmaProblem problem(layout.k);
    DeviceArray<uint32_t> a(encode(distribute(problem.a, layout.elements_a, layout.a)));
    DeviceArray<uint32_t> b(encode(distribute(problem.b, layout.elements_b, layout.b)));
    DeviceArray<float> sum(distribute(problem.c, 4, position_of_sum));
    launch(mma_kernel<Kind, kRegistersA, kRegistersB>, {dim3(1), dim3(kLanes)}, a.data(), b.data(), sum.data());
    expect_equal(sum.values(), distribute(problem.result(), 4, position_of_sum));
  }
}

void test_mma_m16n8k16_half() {
  test_mma<M16n8k16<Half>, 4, 2>(kM16n8k16, [](const auto& values) { return in_pairs(values, kHalf); });
}

void test_mma_m16n8k16_bfloat16() {
  test_mma<M16n8k16<BFloat16>, 4, 2>(kM16n8k16, [](const auto& values) { return in_pairs(values, kBFloat16); });
}

void test_mma_m16n8k8_half() {
  test_mma<M16n8k8Half, 2, 1>(kM16n8k8, [](const auto& values) { return in_pairs(values, kHalf); });
}

void test_mma_m16n8k8_tf32() { test_mma<M16n8k8Tf32, 4, 2>(kM16n8k8Tf32, bits_of); }

void test_mma_tf32_ignores_low_bits() {
  test_mma<M16n8k8Tf32, 4, 2>(kM16n8k8Tf32, [](const auto& values) {
    std::vector<uint32_t> bits = bits_of(values);
    for (uint32_t& pattern : bits) {
      if (pattern != 0) pattern |= generator() & 0x1fffu;
    }
    return bits;
  });
}

constexpr int kMatrixRows = 64;  // of 8 elements, that lanes choose from

template <int N, bool kTransposed>
__global__ void load_matrices_kernel(const uint16_t* matrix, const int* rows, uint32_t* out) {
  uint16_t* shared = shared_memory<uint16_t>();
  for (int i = int(threadIdx.x); i < kMatrixRows * 8; i += int(blockDim.x)) shared[i] = matrix[i];
  sync_block();
  uint32_t fragment[N];
  const void* row = shared + rows[threadIdx.x] * 8;
  if constexpr (kTransposed) {
    load_matrices_transposed(fragment, row);
  } else {
    load_matrices(fragment, row);
  }
  for (int m = 0; m < N; ++m) out[threadIdx.x * N + m] = fragment[m];
}

template <int N, bool kTransposed>
void test_load_matrices() {
  std::vector<uint16_t> elements;
  for (int i = 0; i < kMatrixRows * 8; ++i) elements.push_back(uint16_t(generator()));
  std::vector<int> rows = counting<int>(kMatrixRows);
  std::shuffle(rows.begin(), rows.end(), generator);
  rows.resize(kLanes);

  DeviceArray<uint16_t> matrix(elements);
  DeviceArray<int> rows_of_lanes(rows);
  auto out = zeros<uint32_t>(kLanes * N);
  launch(load_matrices_kernel<N, kTransposed>, {dim3(1), dim3(kLanes), kMatrixRows * 8 * sizeof(uint16_t)},
         matrix.data(), rows_of_lanes.data(), out.data());

  std::vector<uint32_t> expected;
  for (int lane = 0; lane < int(kLanes); ++lane) {
    for (int m = 0; m < N; ++m) {
      const auto element = [&](int row, int column) {
        if (kTransposed) std::swap(row, column);
        return uint32_t(elements[size_t(rows[8 * m + row] * 8 + column)]);
      };
      expected.push_back(element(lane / 4, lane % 4 * 2) | element(lane / 4, lane % 4 * 2 + 1) << 16);
    }
  }
  expect_equal(out.values(), expected);
}

// A row-major and B column-major in shared memory: what load_matrices gives is what the product takes.
__global__ void loaded_mma_kernel(const uint16_t* a, const uint16_t* b, float* sum) {
  uint16_t *shared_a = shared_memory<uint16_t>(), *shared_b = shared_a + 16 * 16;
  for (int i = int(threadIdx.x); i < 16 * 16; i += int(kLanes)) shared_a[i] = a[i];
  for (int i = int(threadIdx.x); i < 8 * 16; i += int(kLanes)) shared_b[i] = b[i];
  sync_block();
  const int lane = int(threadIdx.x);
  uint32_t own_a[4], own_b[2];
  load_matrices(own_a, shared_a + lane % 16 * 16 + lane / 16 * 8);
  load_matrices(own_b, shared_b + lane % 8 * 16 + lane / 8 % 2 * 8);
  float own_sum[4] = {};
  mma_m16n8k16<BFloat16>(own_sum, own_a, own_b);
  for (int i = 0; i < 4; ++i) sum[lane * 4 + i] = own_sum[i];
}

void test_loaded_mma() {
  MmaProblem problem(16);
  std::fill(problem.c.values.begin(), problem.c.values.end(), 0.0f);
  std::vector<uint16_t> a, b;
  for (const float value : problem.a.values) a.push_back(uint16_t(kBFloat16.narrowed(value)));
  for (int column = 0; column < 8; ++column) {
    for (int k = 0; k < 16; ++k) b.push_back(uint16_t(kBFloat16.narrowed(problem.b[{k, column}])));
  }
  DeviceArray<uint16_t> device_a(a), device_b(b);
  auto sum = zeros<float>(kLanes * 4);
  launch(loaded_mma_kernel, {dim3(1), dim3(kLanes), (16 + 8) * 16 * sizeof(uint16_t)}, device_a.data(), device_b.data(),
         sum.data());
  expect_equal(sum.values(), distribute(problem.result(), 4, position_of_sum));
}

// ---- Asynchronous copies of a thread

template <int kBytes>
__global__ void copy_async_kernel(const unsigned char* in, unsigned char* out) {
  unsigned char* shared = shared_memory<unsigned char>();
  copy_async<kBytes>(shared + threadIdx.x * kBytes, in + threadIdx.x * kBytes, threadIdx.x % (kBytes + 1));
  commit_group();
  wait_group<0>();
  sync_block();
  const unsigned other = threadIdx.x ^ 1;
  for (int i = 0; i < kBytes; ++i) out[other * kBytes + i] = shared[other * kBytes + i];
}

template <int kBytes>
void test_copy_async() {
  const unsigned threads = 128;
  std::vector<unsigned char> bytes;
  for (unsigned i = 0; i < threads * kBytes; ++i) bytes.push_back((unsigned char)(generator() | 1));
  DeviceArray<unsigned char> in(bytes);
  auto out = zeros<unsigned char>(bytes.size());
  launch(copy_async_kernel<kBytes>, {dim3(1), dim3(threads), threads * kBytes}, in.data(), out.data());
  for (unsigned i = 0; i < bytes.size(); ++i) {
    if (i % kBytes >= i / kBytes % (kBytes + 1)) bytes[i] = 0;
  }
  expect_equal(out.values(), bytes);
}

// Steps through rows of blockDim.x float4, two rows ahead.
__global__ void copy_pipeline_kernel(const float4* in, float* out, int rows) {
  constexpr int kStages = 3;
  float4* stages = shared_memory<float4>();
  const auto start = [&](int row) {
    const unsigned slot = unsigned(row % kStages) * blockDim.x + threadIdx.x;
    if (row < rows) copy_async<16>(stages + slot, in + row * int(blockDim.x) + int(threadIdx.x));
    commit_group();
  };
  start(0);
  start(1);
  float sum = 0;
  for (int row = 0; row < rows; ++row) {
    wait_group<1>();
    sync_block();
    start(row + 2);
    const float4 value = stages[unsigned(row % kStages) * blockDim.x + (threadIdx.x + 1) % blockDim.x];
    sum = sum * 0.5f + value.x + value.y * 2 + value.z * 4 + value.w * 8;
  }
  out[threadIdx.x] = sum;
}

void test_copy_pipeline() {
  const unsigned threads = 64, rows = 20;
  std::vector<float4> values;
  for (unsigned i = 0; i < threads * rows; ++i) {
    values.push_back(make_float4(float(random_below(64)), float(random_below(64)), float(random_below(64)), 1));
  }
  DeviceArray<float4> in(values);
  auto out = zeros<float>(threads);
  launch(copy_pipeline_kernel, {dim3(1), dim3(threads), 3 * threads * sizeof(float4)}, in.data(), out.data(),
         int(rows));
  std::vector<float> expected(threads);
  for (unsigned row = 0; row < rows; ++row) {
    for (unsigned t = 0; t < threads; ++t) {
      const float4 value = values[row * threads + (t + 1) % threads];
      expected[t] = expected[t] * 0.5f + value.x + value.y * 2 + value.z * 4 + value.w * 8;
    }
  }
  expect_equal(out.values(), expected);
}

// ---- Barriers in shared memory, and bulk copies

constexpr size_t kDataOffset = 128;  // in shared memory, behind the barrier

__device__ Mbarrier* initialised_mbarrier(uint32_t arrivals) {
  Mbarrier* barrier = shared_memory<Mbarrier>();
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, arrivals);
    fence_mbarrier_init();
  }
  sync_block();
  return barrier;
}

__global__ void mbarrier_phases_kernel(uint32_t* out, int rounds) {
  Mbarrier* barrier = initialised_mbarrier(blockDim.x);
  uint32_t* values = shared_memory<uint32_t>(kDataOffset);
  bool waited = true;
  for (int round = 0; round < rounds; ++round) {
    uint32_t* half = values + round % 2 * int(blockDim.x);  // a phase apart, nobody reads it any more
    half[threadIdx.x] = unsigned(round) * 1000 + threadIdx.x;
    mbarrier_arrive(barrier);
    waited &= mbarrier_wait_parity(barrier, unsigned(round) % 2);
    const unsigned other = (threadIdx.x + unsigned(round) + 1) % blockDim.x;
    out[unsigned(round) * blockDim.x + threadIdx.x] = waited ? half[other] : 0;
  }
  sync_block();
  if (threadIdx.x == 0) mbarrier_invalidate(barrier);
}

void test_mbarrier_phases() {
  const unsigned threads = 96, rounds = 51;
  auto out = zeros<uint32_t>(threads * rounds);
  launch(mbarrier_phases_kernel, {dim3(1), dim3(threads), kDataOffset + 2 * threads * sizeof(uint32_t)}, out.data(),
         int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned t = 0; t < threads; ++t) expected.push_back(round * 1000 + (t + round + 1) % threads);
  }
  expect_equal(out.values(), expected);
}

__global__ void mbarrier_parity_kernel(uint32_t* out) {
  Mbarrier* barrier = initialised_mbarrier(2);
  int i = 0;
  for (uint32_t phase = 0; phase < 4; ++phase) {
    const uint32_t parity = phase % 2;
    out[i++] = mbarrier_try_wait_parity(barrier, 1 - parity);  // the phase before has ended
    out[i++] = mbarrier_wait_parity(barrier, parity, 3);
    mbarrier_arrive(barrier);
    out[i++] = mbarrier_wait_parity(barrier, parity, 3);
    mbarrier_arrive(barrier);
    out[i++] = mbarrier_wait_parity(barrier, parity);
    out[i++] = mbarrier_wait_parity_cluster(barrier, parity);
  }
}

void test_mbarrier_parity() {
  std::vector<uint32_t> expected;
  for (int phase = 0; phase < 4; ++phase) expected.insert(expected.end(), {1, 0, 0, 1, 1});
  auto out = zeros<uint32_t>(expected.size());
  launch(mbarrier_parity_kernel, {dim3(1), dim3(1), sizeof(Mbarrier)}, out.data());
  expect_equal(out.values(), expected);
}

constexpr uint32_t kBulkBytes = 16 + 112 + 1024;

// Three copies a phase, into one of two buffers.
__global__ void copy_bulk_kernel(const unsigned char* in, unsigned char* out, int rounds) {
  Mbarrier* barrier = initialised_mbarrier(1);
  for (int round = 0; round < rounds; ++round) {
    unsigned char* data = shared_memory<unsigned char>(kDataOffset) + round % 2 * int(kBulkBytes);
    if (threadIdx.x == 0) {
      const unsigned char* from = in + round * int(kBulkBytes);
      mbarrier_arrive_expect_tx(barrier, kBulkBytes);
      copy_bulk(data, from, 16, barrier);
      copy_bulk(data + 16, from + 16, 112, barrier);
      copy_bulk(data + 128, from + 128, 1024, barrier);
    }
    const bool waited = mbarrier_wait_parity(barrier, unsigned(round) % 2);
    for (unsigned i = threadIdx.x; i < kBulkBytes; i += blockDim.x) {
      out[unsigned(round) * kBulkBytes + i] = waited ? data[i] : 0;
    }
    sync_block();
  }
}

void test_copy_bulk() {
  const unsigned rounds = 9;
  std::vector<unsigned char> bytes;
  for (unsigned i = 0; i < rounds * kBulkBytes; ++i) bytes.push_back((unsigned char)generator());
  DeviceArray<unsigned char> in(bytes);
  auto out = zeros<unsigned char>(bytes.size());
  launch(copy_bulk_kernel, {dim3(1), dim3(64), kDataOffset + 2 * kBulkBytes}, in.data(), out.data(), int(rounds));
  expect_equal(out.values(), bytes);
}

// ---- Memory that blocks share

// Block 0 tells block 1 a number a round, and waits for the answer.
template <bool kFences>
__global__ void messages_kernel(uint32_t* flags, uint32_t* data, uint32_t* out, uint32_t rounds) {
  const auto tell = [](uint32_t* flag, uint32_t round) {
    if constexpr (kFences) {
      fence_gpu();
      store_relaxed_gpu(flag, round);
    } else {
      store_release_gpu(flag, round);
    }
  };
  const auto hear = [](const uint32_t* flag, uint32_t round) {
    if constexpr (kFences) {
      while (load_relaxed_gpu(flag) != round) back_off();
      fence_gpu();
    } else {
      while (load_acquire_gpu(flag) != round) back_off();
    }
  };
  uint32_t *question = flags + threadIdx.x, *answer = flags + blockDim.x + threadIdx.x;
  for (uint32_t round = 1; round <= rounds; ++round) {
    if (blockIdx.x == 0) {
      data[threadIdx.x] = round * 1000 + threadIdx.x;
      tell(question, round);
      hear(answer, round);
    } else {
      hear(question, round);
      out[(round - 1) * blockDim.x + threadIdx.x] = data[threadIdx.x];
      tell(answer, round);
    }
  }
}

template <bool kFences>
void test_messages() {
  const unsigned threads = 32, rounds = 100;
  auto flags = zeros<uint32_t>(2 * threads), data = zeros<uint32_t>(threads), out = zeros<uint32_t>(threads * rounds);
  LaunchConfig config{dim3(2), dim3(threads)};
  config.cooperative = true;
  launch(messages_kernel<kFences>, config, flags.data(), data.data(), out.data(), rounds);
  std::vector<uint32_t> expected;
  for (unsigned round = 1; round <= rounds; ++round) {
    for (unsigned t = 0; t < threads; ++t) expected.push_back(round * 1000 + t);
  }
  expect_equal(out.values(), expected);
}

// The flag is part of the data: 16 bytes come whole or not at all.
__global__ void flagged_data_kernel(uint4* slots, uint32_t* out, uint32_t rounds) {
  uint4 *question = slots + threadIdx.x, *answer = slots + blockDim.x + threadIdx.x;
  uint32_t wrong = 0;
  const auto hear = [&](const uint4* slot, uint32_t round) {
    uint4 value = load_relaxed_gpu(slot);
    while (value.w != round) value = load_relaxed_gpu(slot);
    wrong += value.x != round * 3 || value.y != ~round || value.z != threadIdx.x;
  };
  for (uint32_t round = 1; round <= rounds; ++round) {
    const uint4 message = make_uint4(round * 3, ~round, threadIdx.x, round);
    if (blockIdx.x == 0) {
      store_relaxed_gpu(question, message);
      hear(answer, round);
    } else {
      hear(question, round);
      store_relaxed_gpu(answer, message);
    }
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = wrong;
}

void test_flagged_data() {
  const unsigned threads = 32;
  auto slots = zeros<uint4>(2 * threads);
  DeviceArray<uint32_t> out(2 * threads);
  LaunchConfig config{dim3(2), dim3(threads)};
  config.cooperative = true;
  launch(flagged_data_kernel, config, slots.data(), out.data(), 100u);
  expect_equal(out.values(), std::vector<uint32_t>(2 * threads));
}

__global__ void red_add_kernel(uint32_t* sum) { red_add_release_gpu(sum, threadIdx.x + 1); }

void test_red_add() {
  auto sum = zeros<uint32_t>(1);
  launch(red_add_kernel, {dim3(50), dim3(64)}, sum.data());
  expect_equal(sum.values(), {50 * 64 * 65 / 2});
}

__global__ void tickets_kernel(uint32_t* next, uint32_t* taken) {
  const uint32_t ticket = atomic_add_acq_rel_gpu(next, 1);
  taken[ticket] += 1;
}

void test_atomic_add() {
  const unsigned count = 50 * 64;
  auto next = zeros<uint32_t>(1), taken = zeros<uint32_t>(count);
  launch(tickets_kernel, {dim3(50), dim3(64)}, next.data(), taken.data());
  expect_equal(next.values(), {count});
  expect_equal(taken.values(), std::vector<uint32_t>(count, 1));
}

// Every block writes, then reads what all have written. Even and odd blocks are teams of their own if there are two.
__global__ void grid_barrier_kernel(GridBarrierState* states, uint32_t* slots, uint32_t* wrong, unsigned teams,
                                    unsigned rounds) {
  const unsigned team = blockIdx.x % teams, first = threadIdx.x == 0 && threadIdx.y == 0;
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x, block_size = blockDim.x * blockDim.y;
  GridBarrier barrier(states + team, gridDim.x / teams, blockIdx.x == team);
  for (unsigned round = 0; round < rounds + team; ++round) {
    if (first) slots[blockIdx.x] = round * 1000 + blockIdx.x;
    bool came = barrier.sync();
    for (unsigned i = team + thread * teams; i < gridDim.x; i += block_size * teams) {
      if (slots[i] != round * 1000 + i) red_add_release_gpu(wrong, 1);
    }
    came &= barrier.sync();
    if (!came) {
      red_add_release_gpu(wrong, 1);
      return;
    }
  }
}

void test_grid_barrier_of(unsigned teams) {
  LaunchConfig config{dim3(8), dim3(16, 3)};
  config.cooperative = true;
  const int most = std::min(resident_blocks(grid_barrier_kernel, config), attribute(cudaDevAttrMultiProcessorCount));
  config.grid.x = unsigned(most) / teams * teams;
  auto states = zeros<GridBarrierState>(teams);
  auto slots = zeros<uint32_t>(config.grid.x), wrong = zeros<uint32_t>(1);
  for (const unsigned rounds : {1u, 2u, 101u, 50u}) {
    launch(grid_barrier_kernel, config, states.data(), slots.data(), wrong.data(), teams, rounds);
    expect_equal(wrong.values(), {0});
  }
}

void test_grid_barrier() { test_grid_barrier_of(1); }

void test_grid_barrier_teams() { test_grid_barrier_of(2); }

__global__ void absent_block_kernel(GridBarrierState* state, uint32_t* out) {
  if (blockIdx.x == 1) return;
  GridBarrier barrier(state, gridDim.x, blockIdx.x == 0, 2000);
  out[blockIdx.x * blockDim.x + threadIdx.x] = barrier.sync();
}

void test_grid_barrier_times_out() {
  const unsigned threads = 40;
  auto state = zeros<GridBarrierState>(1);
  std::vector<uint32_t> expected(3 * threads, 0);
  std::fill_n(expected.begin() + threads, threads, 7);
  DeviceArray<uint32_t> out(std::vector<uint32_t>(3 * threads, 7));
  LaunchConfig config{dim3(3), dim3(threads)};
  config.cooperative = true;
  launch(absent_block_kernel, config, state.data(), out.data());
  expect_equal(out.values(), expected);
  expect(state.values()[0].timed_out != 0, "timed_out is not set");
}

// ---- Clusters

__global__ void cluster_ranks_kernel(uint32_t* out) {
  if (threadIdx.x != 0) return;
  uint32_t* own = out + (blockIdx.y * gridDim.x + blockIdx.x) * 3;
  own[0] = cluster_rank();
  own[1] = cluster_size();
  own[2] = cluster_index();
}

void test_cluster_ranks() {
  LaunchConfig config{dim3(8, 2), dim3(32)};
  config.cluster = 4;
  auto out = zeros<uint32_t>(16 * 3);
  launch(cluster_ranks_kernel, config, out.data());
  std::vector<uint32_t> expected;
  for (unsigned block = 0; block < 16; ++block) {
    const unsigned x = block % 8;
    expected.insert(expected.end(), {x % 4, 4, x / 4});
  }
  expect_equal(out.values(), expected);
}

// Each round a thread passes on what it has to the next block, then takes what the one after that has got.
__global__ void peers_kernel(uint32_t* out, int rounds) {
  uint32_t* own = shared_memory<uint32_t>();
  uint32_t* received = own + blockDim.x;
  const unsigned rank = cluster_rank(), size = cluster_size();
  own[threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    cluster_arrive();
    cluster_wait();
    map_to_peer(received, (rank + 1) % size)[threadIdx.x] = own[threadIdx.x];
    sync_cluster();
    const uint32_t value = map_to_peer(received, (rank + 2) % size)[threadIdx.x];
    own[threadIdx.x] = value;
  }
  sync_cluster();
  out[blockIdx.x * blockDim.x + threadIdx.x] = own[threadIdx.x];
}

void test_peers_of(unsigned cluster) {
  const unsigned threads = 48, clusters = 3;
  const int rounds = 5;
  LaunchConfig config{dim3(clusters * cluster), dim3(threads), 2 * threads * sizeof(uint32_t)};
  config.cluster = cluster;
  if (resident_blocks(peers_kernel, config) < int(cluster)) throw Skip("the device has no such clusters");
  auto out = zeros<uint32_t>(clusters * cluster * threads);
  launch(peers_kernel, config, out.data(), rounds);
  std::vector<uint32_t> expected;
  for (unsigned block = 0; block < clusters * cluster; ++block) {
    const unsigned rank = block % cluster, source = block - rank + (rank + rounds) % cluster;
    for (unsigned t = 0; t < threads; ++t) expected.push_back(source * 1000 + t);
  }
  expect_equal(out.values(), expected);
}

void test_peers() {
  test_peers_of(2);
  test_peers_of(8);
}

void test_peers_of_16() { test_peers_of(16); }

// All blocks of the cluster arrive at everyone's barrier, having written there.
__global__ void mbarrier_arrive_cluster_kernel(uint32_t* out, int rounds) {
  const unsigned rank = cluster_rank(), size = cluster_size();
  Mbarrier* barrier = initialised_mbarrier(size);
  uint32_t* received = shared_memory<uint32_t>(kDataOffset);
  sync_cluster();
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < size) {
      map_to_peer(received, threadIdx.x)[rank] = unsigned(round) * 1000 + rank * 10 + threadIdx.x;
      mbarrier_arrive_cluster(map_to_peer(barrier, threadIdx.x));
    }
    const bool waited = mbarrier_wait_parity_cluster(barrier, unsigned(round) % 2);
    if (threadIdx.x < size) {
      out[(unsigned(round) * gridDim.x + blockIdx.x) * size + threadIdx.x] = waited ? received[threadIdx.x] : 0;
    }
    sync_cluster();
  }
}

void test_mbarrier_arrive_cluster() {
  const unsigned cluster = 4, rounds = 6, blocks = 2 * cluster;
  LaunchConfig config{dim3(blocks), dim3(40), kDataOffset + cluster * sizeof(uint32_t)};
  config.cluster = cluster;
  auto out = zeros<uint32_t>(rounds * blocks * cluster);
  launch(mbarrier_arrive_cluster_kernel, config, out.data(), int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned block = 0; block < blocks; ++block) {
      for (unsigned sender = 0; sender < cluster; ++sender) {
        expected.push_back(round * 1000 + sender * 10 + block % cluster);
      }
    }
  }
  expect_equal(out.values(), expected);
}

// Each block sends its numbers to the next.
__global__ void copy_to_peer_kernel(uint32_t* out, unsigned count, int rounds) {
  const unsigned rank = cluster_rank(), size = cluster_size();
  Mbarrier* barrier = initialised_mbarrier(1);
  uint32_t *own = shared_memory<uint32_t>(kDataOffset), *received = own + count;
  for (int round = 0; round < rounds; ++round) {
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) own[i] = unsigned(round) * 1000 + blockIdx.x * 100 + i;
    fence_proxy_async_shared();
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(barrier, count * uint32_t(sizeof(uint32_t)));
    sync_cluster();
    if (threadIdx.x == 0) {
      const unsigned peer = (rank + 1) % size;
      copy_bulk_to_peer(map_to_peer(received, peer), own, count * uint32_t(sizeof(uint32_t)),
                        map_to_peer(barrier, peer));
    }
    const bool waited = mbarrier_wait_parity_cluster(barrier, unsigned(round) % 2);
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
      out[(unsigned(round) * gridDim.x + blockIdx.x) * count + i] = waited ? received[i] : 0;
    }
    sync_cluster();
  }
}

void test_copy_bulk_to_peer() {
  const unsigned cluster = 4, blocks = 2 * cluster, count = 100, rounds = 5;
  LaunchConfig config{dim3(blocks), dim3(64), kDataOffset + 2 * count * sizeof(uint32_t)};
  config.cluster = cluster;
  auto out = zeros<uint32_t>(rounds * blocks * count);
  launch(copy_to_peer_kernel, config, out.data(), count, int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned block = 0; block < blocks; ++block) {
      const unsigned rank = block % cluster, source = block - rank + (rank + cluster - 1) % cluster;
      for (unsigned i = 0; i < count; ++i) expected.push_back(round * 1000 + source * 100 + i);
    }
  }
  expect_equal(out.values(), expected);
}

// Every thread sends one value of each size to the next block.
struct Received {
  uint4* large;
  uint64_t* middle;
  uint32_t* small;

  __device__ explicit Received(unsigned threads)
      : large(shared_memory<uint4>(kDataOffset)),
        middle(shared_memory<uint64_t>(kDataOffset + threads * sizeof(uint4))),
        small(shared_memory<uint32_t>(kDataOffset + threads * (sizeof(uint4) + sizeof(uint64_t)))) {}
};

constexpr uint32_t kBytesOfAll = sizeof(uint4) + sizeof(uint64_t) + sizeof(uint32_t);

__global__ void store_async_kernel(uint32_t* out, int rounds) {
  const unsigned rank = cluster_rank(), size = cluster_size(), t = threadIdx.x;
  Mbarrier* barrier = initialised_mbarrier(1);
  const Received received(blockDim.x);
  for (int round = 0; round < rounds; ++round) {
    if (t == 0) mbarrier_arrive_expect_tx(barrier, blockDim.x * kBytesOfAll);
    sync_cluster();
    const unsigned peer = (rank + 1) % size;
    Mbarrier* peer_barrier = map_to_peer(barrier, peer);
    const uint32_t value = unsigned(round) * 1000 + blockIdx.x * 100 + t;
    store_async(map_to_peer(received.small + t, peer), value, peer_barrier);
    store_async(map_to_peer(received.middle + t, peer), uint64_t(value) << 32 | (value + 1), peer_barrier);
    store_async(map_to_peer(received.large + t, peer), make_uint4(value, value + 1, value + 2, value + 3),
                peer_barrier);
    const bool waited = mbarrier_wait_parity_cluster(barrier, unsigned(round) % 2);
    const uint4 large = received.large[t];
    const uint32_t small = received.small[t];
    const bool consistent = received.middle[t] == (uint64_t(small) << 32 | (small + 1)) && large.x == small &&
                            large.y == small + 1 && large.z == small + 2 && large.w == small + 3;
    out[(unsigned(round) * gridDim.x + blockIdx.x) * blockDim.x + t] = waited && consistent ? small : 0;
    sync_cluster();
  }
}

void test_store_async() {
  const unsigned cluster = 4, blocks = 2 * cluster, threads = 48, rounds = 5;
  LaunchConfig config{dim3(blocks), dim3(threads), kDataOffset + threads * kBytesOfAll};
  config.cluster = cluster;
  auto out = zeros<uint32_t>(rounds * blocks * threads);
  launch(store_async_kernel, config, out.data(), int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned block = 0; block < blocks; ++block) {
      const unsigned rank = block % cluster, source = block - rank + (rank + cluster - 1) % cluster;
      for (unsigned t = 0; t < threads; ++t) expected.push_back(round * 1000 + source * 100 + t);
    }
  }
  expect_equal(out.values(), expected);
}

// A stream of numbers from each block to the next, without a barrier of the cluster: `full` counts the bytes that came,
// `empty` the threads of the receiver that have read them.
__global__ void stream_kernel(uint32_t* out, int rounds) {
  const unsigned rank = cluster_rank(), size = cluster_size(), t = threadIdx.x;
  Mbarrier *full = shared_memory<Mbarrier>(), *empty = full + 1;
  uint32_t* received = shared_memory<uint32_t>(kDataOffset);
  if (t == 0) {
    mbarrier_init(full, 1);
    mbarrier_init(empty, blockDim.x);
    fence_mbarrier_init();
  }
  sync_cluster();
  uint32_t* to = map_to_peer(received + t, (rank + 1) % size);
  Mbarrier* to_full = map_to_peer(full, (rank + 1) % size);
  Mbarrier* from_empty = map_to_peer(empty, (rank + size - 1) % size);
  bool waited = true;
  for (int round = 0; round < rounds; ++round) {
    const uint32_t parity = unsigned(round) % 2;
    waited &= mbarrier_wait_parity(empty, 1 - parity);
    store_async(to, unsigned(round) * 1000 + blockIdx.x * 100 + t, to_full);
    if (t == 0) mbarrier_arrive_expect_tx(full, blockDim.x * uint32_t(sizeof(uint32_t)));
    waited &= mbarrier_wait_parity_cluster(full, parity);
    out[(unsigned(round) * gridDim.x + blockIdx.x) * blockDim.x + t] = waited ? received[t] : 0;
    mbarrier_arrive_cluster_relaxed(from_empty);
  }
  cluster_arrive_relaxed();
  cluster_wait();
}

void test_stream_to_peer() {
  const unsigned cluster = 4, blocks = 2 * cluster, threads = 64, rounds = 40;
  LaunchConfig config{dim3(blocks), dim3(threads), kDataOffset + threads * sizeof(uint32_t)};
  config.cluster = cluster;
  auto out = zeros<uint32_t>(rounds * blocks * threads);
  launch(stream_kernel, config, out.data(), int(rounds));
  std::vector<uint32_t> expected;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned block = 0; block < blocks; ++block) {
      const unsigned rank = block % cluster, source = block - rank + (rank + cluster - 1) % cluster;
      for (unsigned t = 0; t < threads; ++t) expected.push_back(round * 1000 + source * 100 + t);
    }
  }
  expect_equal(out.values(), expected);
}

// ---- Launches

void test_launch_of_nothing() {
  auto out = zeros<uint32_t>(1);
  launch(indices_kernel, {dim3(0), dim3(32)}, out.data());
  launch(indices_kernel, {dim3(1, 0), dim3(32)}, out.data());
  expect_equal(out.values(), {0});
}

void expect_refusal(const LaunchConfig& config) {
  auto out = zeros<uint32_t>(1);
  bool refused = false;
  try {
    launch(indices_kernel, config, out.data());
  } catch (const std::runtime_error&) {
    refused = true;
  }
  expect(refused, "a launch was not refused");
  expect(cudaGetLastError() == cudaSuccess, "a refused launch leaves an error behind");
}

void test_launch_refused() {
  expect_refusal({dim3(1), dim3(2048)});
  expect_refusal({dim3(1), dim3(32), size_t(1) << 20});
  LaunchConfig config{dim3(1), dim3(1024)};
  config.cooperative = true;
  config.grid.x = unsigned(resident_blocks(indices_kernel, config)) + 1;
  expect_refusal(config);
  test_indices();
}

void test_much_shared_memory() {
  const auto bytes = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const unsigned threads = 96;
  auto out = zeros<uint32_t>(threads);
  const LaunchConfig config{dim3(1), dim3(threads), bytes};
  expect(resident_blocks(shared_memory_kernel, config) >= 1, "no block is resident");
  launch(shared_memory_kernel, config, out.data());
  std::vector<uint32_t> expected = counting<uint32_t>(threads);
  std::reverse(expected.begin(), expected.end());
  expect_equal(out.values(), expected);
}

const testing::Test kTests[] = {
    {"widen_half", 75, [] { test_widen<Half>(kHalf); }},
    {"widen_bfloat16", 75, [] { test_widen<BFloat16>(kBFloat16); }},
    {"narrow_half", 75, [] { test_narrow<Half>(kHalf); }},
    {"narrow_bfloat16", 75, [] { test_narrow<BFloat16>(kBFloat16); }},
    {"narrow_float", 75, test_narrow_to_itself<float>},
    {"narrow_double", 75, test_narrow_to_itself<double>},
    {"round_to_tf32", 80, test_round_to_tf32},
    {"indices", 75, test_indices},
    {"shared_memory", 75, test_shared_memory},
    {"sync_block", 75, test_sync_block},
    {"sync_block_any", 75, test_sync_block_any},
    {"sync_warp", 75, test_sync_warp},
    {"shuffle", 75, test_shuffle<Shuffle::kLane>},
    {"shuffle_down", 75, test_shuffle<Shuffle::kDown>},
    {"shuffle_xor", 75, test_shuffle<Shuffle::kXor>},
    {"clocks", 75, test_clocks},
    {"mma_m16n8k16_half", 80, test_mma_m16n8k16_half},
    {"mma_m16n8k16_bfloat16", 80, test_mma_m16n8k16_bfloat16},
    {"mma_m16n8k8_half", 75, test_mma_m16n8k8_half},
    {"mma_m16n8k8_tf32", 80, test_mma_m16n8k8_tf32},
    {"mma_tf32_ignores_low_bits", 80, test_mma_tf32_ignores_low_bits},
    {"load_matrices_1", 75, test_load_matrices<1, false>},
    {"load_matrices_2", 75, test_load_matrices<2, false>},
    {"load_matrices_4", 75, test_load_matrices<4, false>},
    {"load_matrices_transposed_1", 75, test_load_matrices<1, true>},
    {"load_matrices_transposed_2", 75, test_load_matrices<2, true>},
    {"load_matrices_transposed_4", 75, test_load_matrices<4, true>},
    {"loaded_mma", 80, test_loaded_mma},
    {"copy_async_4", 80, test_copy_async<4>},
    {"copy_async_8", 80, test_copy_async<8>},
    {"copy_async_16", 80, test_copy_async<16>},
    {"copy_pipeline", 80, test_copy_pipeline},
    {"mbarrier_phases", 90, test_mbarrier_phases},
    {"mbarrier_parity", 90, test_mbarrier_parity},
    {"copy_bulk", 90, test_copy_bulk},
    {"messages", 75, test_messages<false>},
    {"messages_with_fences", 75, test_messages<true>},
    {"flagged_data", 75, test_flagged_data},
    {"red_add", 75, test_red_add},
    {"atomic_add", 75, test_atomic_add},
    {"grid_barrier", 75, test_grid_barrier},
    {"grid_barrier_teams", 75, test_grid_barrier_teams},
    {"grid_barrier_times_out", 75, test_grid_barrier_times_out},
    {"cluster_ranks", 90, test_cluster_ranks},
    {"peers", 90, test_peers},
    {"peers_of_16", 90, test_peers_of_16},
    {"mbarrier_arrive_cluster", 90, test_mbarrier_arrive_cluster},
    {"copy_bulk_to_peer", 90, test_copy_bulk_to_peer},
    {"store_async", 90, test_store_async},
    {"stream_to_peer", 90, test_stream_to_peer},
    {"launch_of_nothing", 75, test_launch_of_nothing},
    {"launch_refused", 75, test_launch_refused},
    {"much_shared_memory", 75, test_much_shared_memory},
};

}  // namespace

int main(int argc, char** argv) { return testing::main(argc, argv, kTests); }
