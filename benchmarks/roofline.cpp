// What one thread can do at most, with the vectors of the instruction set it is compiled for
// (BYTES wide). roofline.py compiles it and runs one thread a core.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#ifdef __aarch64__
#define VECTOR "w"
#else
#define VECTOR "x"
#endif

namespace {

template <class T>
using Vec [[gnu::vector_size(BYTES)]] = T;

using Clock = std::chrono::steady_clock;

// The rate of work(), which returns how much it did, over at least `seconds`.
template <class Work>
double rate(double seconds, Work work) {
  const auto start = Clock::now();
  double done = 0, elapsed = 0;
  while (elapsed < seconds) {
    done += work();
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return done / elapsed;
}

// Twelve chains hide a latency of 4 to 6 cycles on two units, and fit into 16 registers.
template <class T>
double multiply_adds(double seconds) {
  constexpr int chains = 12, repeats = 10000;
  return rate(seconds, [] {
    Vec<T> sums[chains] = {};
    Vec<T> a = {}, b = {};
#pragma GCC unroll 12
    for (auto& sum : sums) asm volatile("" : "+" VECTOR(sum));  // else all chains are one to the compiler
    for (int repeat = 0; repeat < repeats; ++repeat) {
      asm volatile("" : "+" VECTOR(a), "+" VECTOR(b));
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sums[i] = sums[i] * a + b;
    }
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) asm volatile("" : : VECTOR(sums[i]));
    return 2.0 * repeats * chains * BYTES / sizeof(T);
  });
}

}  // namespace

extern "C" {

// Operations per second; a multiply-add is two.
double flops_float32(double seconds) { return multiply_adds<float>(seconds); }
double flops_float64(double seconds) { return multiply_adds<double>(seconds); }

// Bytes per second, reading a buffer of `size` bytes again and again.
double read_bandwidth(std::size_t size, double seconds) {
  using Word = Vec<std::int64_t>;
  constexpr std::size_t step = 8;
  const std::size_t words = size / BYTES / step * step;
  std::vector<char> memory(words * BYTES + 64, 1);
  const auto address = (reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64;
  const auto* buffer = reinterpret_cast<const Word*>(address);
  return rate(seconds, [=] {
    Word sums[step] = {};
    for (std::size_t at = 0; at < words; at += step) {
#pragma GCC unroll 8
      for (std::size_t i = 0; i < step; ++i) sums[i] |= buffer[at + i];
    }
#pragma GCC unroll 8
    for (std::size_t i = 0; i < step; ++i) asm volatile("" : : VECTOR(sums[i]) : "memory");
    return static_cast<double>(words * BYTES);
  });
}
}
