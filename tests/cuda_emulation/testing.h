// What a program of tests needs: a table of them, device memory, and failures as exceptions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/launch.cuh"

namespace testing {

struct Test {
  const char* name;
  int capability;  // the least that it needs
  void (*run)();
};

struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    rnnkern::cuda::check(cudaMalloc(&data_, size * sizeof(T)), "cannot allocate");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    rnnkern::cuda::check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cannot copy");
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() { return data_; }

  // After the kernels that were launched.
  std::vector<T> values() const {
    std::vector<T> result(size_);
    rnnkern::cuda::check(cudaDeviceSynchronize(), "a kernel failed");
    rnnkern::cuda::check(cudaMemcpy(result.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "cannot copy");
    return result;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

template <class T>
DeviceArray<T> zeros(size_t size) {
  return DeviceArray<T>(std::vector<T>(size));
}

inline void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

template <class T>
std::string shown(const T& value) {
  char text[64];
  if constexpr (std::is_floating_point_v<T>) {
    std::snprintf(text, sizeof(text), "%.17g", double(value));
  } else {
    std::snprintf(text, sizeof(text), "%#llx", static_cast<unsigned long long>(value));
  }
  return text;
}

// The same bits; one NaN is as good as another.
template <class T>
bool same(const T& a, const T& b) {
  if (a != a && b != b) return true;
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
void expect_equal(const std::vector<T>& actual, const std::vector<T>& expected) {
  expect(actual.size() == expected.size(), "sizes differ");
  for (size_t i = 0; i < actual.size(); ++i) {
    if (same(actual[i], expected[i])) continue;
    throw std::runtime_error("element " + std::to_string(i) + " is " + shown(actual[i]) + " instead of " +
                             shown(expected[i]));
  }
}

inline int device_capability() {
  int major = 0, minor = 0;
  rnnkern::cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "no device");
  rnnkern::cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "no device");
  return major * 10 + minor;
}

// Prints how the test ended; false where it failed.
inline bool passes(const Test& test) {
  std::string outcome = std::string("ok ") + test.name;
  bool passed = true;
  try {
    if (device_capability() < test.capability)
      throw Skip("needs compute capability " + std::to_string(test.capability));
    test.run();
  } catch (const Skip& skip) {
    outcome = std::string("skipped ") + test.name + ": " + skip.what();
  } catch (const std::exception& error) {
    outcome = std::string("FAILED ") + test.name + ": " + error.what();
    passed = false;
  }
  std::printf("%s\n", outcome.c_str());
  std::fflush(stdout);
  return passed;
}

// Runs the tests named in the arguments, or all of them; --list prints their names instead.
template <size_t N>
int main(int argc, char** argv, const Test (&tests)[N]) {
  const std::vector<std::string> names(argv + 1, argv + argc);
  const bool list = names == std::vector<std::string>{"--list"};
  bool passed = true;
  for (const Test& test : tests) {
    if (list) {
      std::printf("%s\n", test.name);
    } else if (names.empty() || std::find(names.begin(), names.end(), test.name) != names.end()) {
      passed &= passes(test);
    }
  }
  return passed ? 0 : 1;
}

}  // namespace testing
