#include "cases.h"

#include <random>

namespace rnnkern::sanitizers {
namespace {

std::vector<int64_t> steps(int64_t T, int64_t N) { return std::vector<int64_t>(T, N); }

std::vector<Case> edges() {
  return {
      {.active = steps(1, 1), .input = 1, .hidden = 1},
      {.active = steps(1, 2), .input = 3, .hidden = 5, .unwanted = "dstate[0]"},
      {.active = steps(1, 9), .input = 0, .hidden = 3, .directions = 2},
      {.active = steps(12, 1), .input = 5, .hidden = 17, .biases = false},
      {.active = steps(2, 5), .input = 140, .hidden = 3, .projection = 135},
      {.active = steps(2, 5), .input = 3, .hidden = 135},
      // Rows come and go, one by one and many at once.
      {.active = {3, 2, 1}, .input = 3, .hidden = 4, .directions = 2},
      {.active = {7, 7, 5, 5, 4, 1, 1}, .input = 6, .hidden = 10, .projection = 5, .directions = 2},
      {.active = {40, 12, 12, 11, 3, 1}, .input = 2, .hidden = 6, .directions = 2},
      // Many rows: each thread has some of the batch.
      {.active = steps(4, 25), .input = 4, .hidden = 18, .projection = 7, .directions = 2},
      {.active = {30, 30, 29, 20, 20, 17, 16, 16, 16}, .input = 5, .hidden = 9},
      // Several chunks.
      {.active = steps(60, 2), .input = 3, .hidden = 40, .directions = 2},
      {.active = steps(14, 17), .input = 3, .hidden = 20, .projection = 21},
  };
}

// Below, at and above the widths of vectors and of tiles.
std::vector<Case> widths() {
  const std::vector<int64_t> sizes = {3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
  const auto count = static_cast<int64_t>(sizes.size());
  std::vector<Case> cases;
  for (int64_t i = 0; i < count; ++i) {
    cases.push_back({.active = steps(3, 1 + i % 11),
                     .input = sizes[(7 * i + 3) % count],
                     .hidden = sizes[i],
                     .projection = i % 2 * sizes[(4 * i + 1) % count]});
  }
  return cases;
}

std::vector<Case> unwanted_gradients() {
  std::vector<Case> cases;
  for (const char* name : {"dstate[0]", "dx", "dw_ih", "dw_hh", "dw_hr", "db_ih", "db_hh"}) {
    cases.push_back({.active = {4, 4, 3}, .input = 3, .hidden = 5, .projection = 2, .directions = 2, .unwanted = name});
  }
  return cases;
}

class Draw {
 public:
  Case layer() {
    return {.active = active(),
            .input = between(1, 30),
            .hidden = between(1, 50),
            .projection = between(0, 1) * between(1, 50),
            .directions = static_cast<int>(between(1, 2)),
            .biases = between(0, 3) > 0};
  }

 private:
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(generator_() % static_cast<uint64_t>(most - least + 1));
  }
  std::vector<int64_t> active() {
    std::vector<int64_t> result = steps(between(1, 12), between(1, between(0, 1) ? 4 : 25));
    const bool packed = between(0, 1);
    for (size_t t = 1; packed && t < result.size(); ++t) {
      result[t] = between(0, 2) ? result[t - 1] : between(1, result[t - 1]);
    }
    return result;
  }

  std::mt19937 generator_{1};
};

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases = edges();
  for (const Case& width : widths()) cases.push_back(width);
  for (const Case& gradient : unwanted_gradients()) cases.push_back(gradient);
  constexpr int kDrawn = 10;
  Draw draw;
  for (int i = 0; i < kDrawn; ++i) cases.push_back(draw.layer());
  return cases;
}

}  // namespace rnnkern::sanitizers
