// The order of a sequence's steps in one direction, and the rows that are alive in each.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/problem.h"

namespace rnnkern {

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Half-open range of indices.
struct Range {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

inline Range intersect(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Consecutive steps handled together, and the rows of the sequence they cover, contiguous in memory.
struct Chunk {
  Range steps;
  Range rows;
};

// Steps in the order in which a direction runs them: step s is time step s, or T - 1 - s in reverse.
class Schedule {
 public:
  Schedule(const Shape& shape, bool reverse) : shape_(shape), reverse_(reverse) {}

  int64_t batch() const { return shape_.batch; }
  int64_t time(int64_t step) const { return reverse_ ? shape_.steps - 1 - step : step; }
  // Rows alive at a step; 0 before the first and after the last.
  int64_t active(int64_t step) const { return step < 0 || step >= shape_.steps ? 0 : shape_.active[time(step)]; }
  // Rows [0, continuing) of a step carry on from the step before, the rest start at their initial state.
  int64_t continuing(int64_t step) const { return std::min(active(step - 1), active(step)); }
  // First row of a step within the sequence.
  int64_t offset(int64_t step) const { return shape_.offsets[time(step)]; }

  Chunk chunk(Range steps) const {
    const int64_t low = std::min(time(steps.begin), time(steps.end - 1));
    const int64_t high = std::max(time(steps.begin), time(steps.end - 1));
    return {steps, {shape_.offsets[low], shape_.offsets[high + 1]}};
  }
  // The chunk that starts, or ends, at a step: as many steps as fit into `rows`, at least one.
  Chunk chunk_from(int64_t step, int64_t rows) const {
    int64_t end = step + 1;
    for (int64_t sum = active(step); end < shape_.steps && sum + active(end) <= rows; ++end) sum += active(end);
    return chunk({step, end});
  }
  Chunk chunk_until(int64_t end, int64_t rows) const {
    int64_t begin = end - 1;
    for (int64_t sum = active(begin); begin > 0 && sum + active(begin - 1) <= rows; --begin) sum += active(begin - 1);
    return chunk({begin, end});
  }

 private:
  const Shape& shape_;
  bool reverse_;
};

}  // namespace rnnkern
